#include "corpus/pretokenizer.h"

#include <fmt/format.h>

#include <array>

#include "core/error.h"
#include "corpus/regex.h"

namespace thresher::corpus {
namespace {

constexpr const char* kOneDigitPattern = R"(\p{N})";
constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Each pattern cuts the pieces of the one before it: matches and what lies between them become
/// pieces. Only names whose pieces were compared with the `tokenizers` library stand here.
struct Rule {
  const char* name;
  std::array<const char*, 2> patterns;
  bool ignores_merges;
};
constexpr Rule kRules[] = {
    {"gpt-2", {kGpt2Pattern, nullptr}, false},
    {"llama-bpe", {kLlama3Pattern, nullptr}, true},
    {"smollm", {kOneDigitPattern, kGpt2Pattern}, false},
};

}  // namespace

struct PreTokenizer::State {
  std::vector<Regex> patterns;
  bool ignores_merges = false;
};

PreTokenizer::PreTokenizer(std::string_view name, std::string_view where)
    : state_(std::make_unique<State>()) {
  for (const Rule& rule : kRules) {
    if (name != rule.name) continue;
    for (const char* pattern : rule.patterns) {
      if (pattern == nullptr) continue;
      state_->patterns.emplace_back(pcre2_from_oniguruma(pattern, where), where);
    }
    state_->ignores_merges = rule.ignores_merges;
    return;
  }
  throw DataError(
      fmt::format("{}: pre-tokenizer '{}' is not known", where, name),
      fmt::format("tokenizer.ggml.pre is one of {}", fmt::join(known_pretokenizers(), ", ")),
      "text must be cut as the model's own tokenizer does, else its activations are not "
      "those of the model");
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;

bool PreTokenizer::ignores_merges() const { return state_->ignores_merges; }

void PreTokenizer::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  RegexScratch scratch;
  std::vector<std::string_view> input{text};
  std::vector<std::string_view> output;
  for (const Regex& pattern : state_->patterns) {
    output.clear();
    for (const std::string_view piece : input) {
      std::size_t begin = 0;
      while (begin < piece.size()) {
        const auto match = pattern.find(piece, begin, scratch);
        if (!match) break;
        THRESHER_CHECK(match->end > match->begin, "a pre-tokenizer pattern matched nothing");
        if (match->begin > begin) output.push_back(piece.substr(begin, match->begin - begin));
        output.push_back(piece.substr(match->begin, match->end - match->begin));
        begin = match->end;
      }
      if (begin < piece.size()) output.push_back(piece.substr(begin));
    }
    input.swap(output);
  }
  if (text.empty()) return;
  pieces.insert(pieces.end(), input.begin(), input.end());
}

std::vector<std::string> known_pretokenizers() {
  std::vector<std::string> names;
  for (const Rule& rule : kRules) names.emplace_back(rule.name);
  return names;
}

}  // namespace thresher::corpus
