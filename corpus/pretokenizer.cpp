#include "corpus/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <cstdint>

#include "core/error.h"

namespace thresher::corpus {
namespace {

// Unicode's White_Space. PCRE2's own \s also holds U+180E, which the tokenizers that models were
// trained with do not count as a space.
#define THRESHER_SPACE \
  R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})"

constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^)" THRESHER_SPACE
    R"(\p{L}\p{N}]+|[)" THRESHER_SPACE R"(]+(?![^)" THRESHER_SPACE R"(])|[)" THRESHER_SPACE R"(]+)";
constexpr const char* kOneDigitPattern = R"(\p{N})";
constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^)" THRESHER_SPACE
    R"(\p{L}\p{N}]+[\r\n]*|[)" THRESHER_SPACE R"(]*[\r\n]+|[)" THRESHER_SPACE
    R"(]+(?![^)" THRESHER_SPACE R"(])|[)" THRESHER_SPACE R"(]+)";

#undef THRESHER_SPACE

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

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchDeleter {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};
struct ContextDeleter {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
using Code = std::unique_ptr<pcre2_code, CodeDeleter>;
using MatchData = std::unique_ptr<pcre2_match_data, MatchDeleter>;
using MatchContext = std::unique_ptr<pcre2_match_context, ContextDeleter>;

std::string pcre2_message(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

Code compile(const char* pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
  THRESHER_CHECK(code != nullptr,
                 fmt::format("pattern '{}' at {}: {}", pattern, offset, pcre2_message(error)));
  // Where PCRE2 has no JIT, it matches with its interpreter: slower, same pieces.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

}  // namespace

struct PreTokenizer::State {
  std::vector<Code> codes;
  bool ignores_merges = false;
};

PreTokenizer::PreTokenizer(std::string_view name, std::string_view where)
    : state_(std::make_unique<State>()) {
  for (const Rule& rule : kRules) {
    if (name != rule.name) continue;
    for (const char* pattern : rule.patterns) {
      if (pattern != nullptr) state_->codes.push_back(compile(pattern));
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
  const MatchData match(pcre2_match_data_create(1, nullptr));
  const MatchContext context(pcre2_match_context_create(nullptr));
  THRESHER_CHECK(match != nullptr && context != nullptr, "PCRE2 is out of memory");
  // The default limits are meant for hostile patterns; ours are fixed and backtrack at most once
  // over the text.
  pcre2_set_match_limit(context.get(), UINT32_MAX);

  std::vector<std::string_view> input{text};
  std::vector<std::string_view> output;
  for (const Code& code : state_->codes) {
    output.clear();
    for (const std::string_view piece : input) {
      std::size_t begin = 0;
      while (begin < piece.size()) {
        const int found =
            pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(piece.data()), piece.size(), begin,
                        PCRE2_NO_UTF_CHECK, match.get(), context.get());
        THRESHER_CHECK(found > 0 || found == PCRE2_ERROR_NOMATCH, pcre2_message(found));
        if (found == PCRE2_ERROR_NOMATCH) break;
        const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match.get());
        THRESHER_CHECK(span[1] > span[0], "a pre-tokenizer pattern matched nothing");
        if (span[0] > begin) output.push_back(piece.substr(begin, span[0] - begin));
        output.push_back(piece.substr(span[0], span[1] - span[0]));
        begin = span[1];
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
