#include "corpus/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/utf8.h"
#include "corpus/unicode_normalisation.h"

namespace thresher::corpus {
namespace {

constexpr std::size_t kMaxTokens = 1U << 16, kMaxBytes = 1024;

std::string shown(std::string_view token) { return Json(token.substr(0, 100)).dump(); }

std::size_t last_character(std::string_view text) {
  std::size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0U) == 0x80U) --begin;
  return begin;
}

}  // namespace

std::unordered_set<std::string> AddedTokens::special_contents(
    const std::optional<JsonPlace>& list) {
  std::unordered_set<std::string> out;
  if (!list) return out;
  for (const JsonPlace& token : list->items()) {
    if (token.boolean_or("special", false)) out.insert(token.at("content").string());
  }
  return out;
}

AddedTokens::AddedTokens(const std::optional<JsonPlace>& list, const BpeModel& model,
                         const Normaliser* normaliser)
    : word_(fmt::format("[{}]", kRustWordClass), "word characters") {
  if (!list) return;
  const std::vector<JsonPlace> tokens = list->items();
  if (tokens.size() > kMaxTokens) {
    list->fail(fmt::format("has {} tokens", tokens.size()), fmt::format("at most {}", kMaxTokens));
  }
  std::int64_t next_id = model.n_tokens();
  for (const JsonPlace& token : tokens) add(token, model, normaliser, next_id);
}

void AddedTokens::add(const JsonPlace& place, const BpeModel& model, const Normaliser* normaliser,
                      std::int64_t& next_id) {
  Token token;
  token.content = place.at("content").string();
  if (token.content.empty() || token.content.size() > kMaxBytes) {
    place.fail(fmt::format("content has {} bytes", token.content.size()),
               fmt::format("1 to {}", kMaxBytes));
  }
  token.single_word = place.boolean_or("single_word", false);
  token.lstrip = place.boolean_or("lstrip", false);
  token.rstrip = place.boolean_or("rstrip", false);
  token.special = place.boolean_or("special", false);
  const auto known = model.id_of(token.content);
  const std::int64_t expected = known ? *known : next_id++;
  const std::int64_t id = place.at("id").integer();
  if (id != expected || id > BpeModel::kLargestId) {
    place.fail(fmt::format("token {} has the id {}", shown(token.content), id),
               known
                   ? fmt::format("{}, as in model.vocab", expected)
                   : fmt::format("{}: ids of added tokens follow those of model.vocab", expected));
  }
  const bool is_normalised = place.boolean_or("normalized", true);
  token.spelling = token.content;
  if (is_normalised && normaliser != nullptr) {
    RegexScratch scratch;
    normaliser->apply(token.spelling, scratch);
    if (token.spelling.empty()) place.fail("nothing is left of content after the normalizer");
  }
  WholeTokens& found_by = is_normalised ? normalised_ : raw_;
  if (!found_by.insert(token.spelling, static_cast<std::int32_t>(id)) ||
      !tokens_.emplace(static_cast<std::int32_t>(id), token).second) {
    place.fail(fmt::format("token {} is there twice", shown(token.content)), "each token once");
  }
}

bool AddedTokens::stands_alone(std::string_view text, const WholeTokens::Match& match,
                               RegexScratch& scratch) const {
  const auto is_word = [&](std::string_view character) {
    return word_.find(character, 0, scratch).has_value();
  };
  const std::size_t end = match.begin + match.length;
  const std::string_view before = text.substr(0, match.begin);
  if (!before.empty() && is_word(before.substr(last_character(before)))) return false;
  return end == text.size() || !is_word(text.substr(end, utf8_sequence_length(text, end)));
}

std::vector<AddedTokens::Section> AddedTokens::cut(std::string_view text, bool is_normalised,
                                                   bool parse_special,
                                                   RegexScratch& scratch) const {
  const WholeTokens& whole = is_normalised ? normalised_ : raw_;
  std::vector<Section> sections;
  std::size_t done = 0;
  for (std::size_t search = 0; search < text.size();) {
    const WholeTokens::Match match = whole.find(text, search);
    if (match.id < 0) break;
    search = match.begin + match.length;
    const Token& token = tokens_.at(match.id);
    if (token.special && !parse_special) continue;
    if (token.single_word && !stands_alone(text, match, scratch)) continue;
    std::size_t begin = match.begin, end = search;
    if (token.lstrip) {
      begin = std::max(done, begin - trailing_white_space(text.substr(0, begin)));
    }
    if (token.rstrip) end += leading_white_space(text.substr(end));
    if (done < begin) sections.push_back({done, begin, -1});
    sections.push_back({begin, end, match.id});
    done = end;
  }
  if (done < text.size()) sections.push_back({done, text.size(), -1});
  return sections;
}

bool AddedTokens::is_special(std::int32_t id) const {
  const auto found = tokens_.find(id);
  return found != tokens_.end() && found->second.special;
}

const std::string* AddedTokens::spelling(std::int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &found->second.spelling;
}

std::optional<std::int32_t> AddedTokens::id_of(std::string_view content) const {
  for (const auto& [id, token] : tokens_) {
    if (token.content == content) return id;
  }
  return std::nullopt;
}

}  // namespace thresher::corpus
