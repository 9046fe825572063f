#include "features/store_search.h"

#include <fmt/format.h>

#include <set>
#include <string>

#include "core/error.h"
#include "core/utf8.h"

namespace thresher::features {
namespace {

constexpr std::size_t kLongestQuery = 1000;

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

bool is_word_byte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x80 || (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') ||
         (byte >= 'A' && byte <= 'Z');
}

/// Only what FTS5 can read: no NUL, no bytes that are not UTF-8.
std::string readable(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_sequence_length(text, i);
    if (length == 0 || text[i] == '\0') {
      out += ' ';
      ++i;
      continue;
    }
    out += text.substr(i, length);
    i += length;
  }
  return out;
}

/// Every word as a string of FTS5, in which only the quotation mark means something, with a star
/// behind it (its beginning is enough). FTS5 reads strings beside each other as AND. Empty if there
/// is no word with a letter or digit.
std::string match_expression(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    if (is_space(text[i])) {
      ++i;
      continue;
    }
    std::string quoted;
    bool has_letter = false;
    for (; i < text.size() && !is_space(text[i]); ++i) {
      if (text[i] == '"') quoted += '"';
      quoted += text[i];
      has_letter = has_letter || is_word_byte(text[i]);
    }
    if (has_letter) out += fmt::format("{}\"{}\"*", out.empty() ? "" : " ", quoted);
  }
  return out;
}

void add(std::vector<std::int64_t>& found, std::set<std::int64_t>& seen, SqliteStatement rows,
         std::int64_t limit) {
  while (static_cast<std::int64_t>(found.size()) < limit && rows.step()) {
    if (seen.insert(rows.integer(0)).second) found.push_back(rows.integer(0));
  }
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

}  // namespace

std::vector<std::int64_t> search_store(SqliteDatabase& database, std::string_view words,
                                       std::int64_t limit) {
  if (words.size() > kLongestQuery) {
    throw UsageError(fmt::format("search: {} bytes", words.size()),
                     fmt::format("at most {}", kLongestQuery));
  }
  const std::string text = readable(words);
  if (trimmed(text).empty()) throw UsageError("search: there is no word", "at least one word");
  std::vector<std::int64_t> found;
  std::set<std::int64_t> seen;
  const std::string expression = match_expression(text);
  if (expression.empty()) {
    SqliteStatement rows = database.prepare(
        "WITH wanted AS (SELECT id FROM tokens WHERE instr(bytes, ?1) > 0) "
        "SELECT l.id, (SELECT max(j.value ->> 1) FROM json_each(l.tokens) j "
        "  WHERE j.value ->> 0 IN wanted) AS hits FROM latents l WHERE hits IS NOT NULL "
        "ORDER BY hits DESC, l.id LIMIT ?2");
    rows.bind_bytes(1, trimmed(text)).bind(2, limit);
    add(found, seen, std::move(rows), limit);
    return found;
  }
  SqliteStatement explained = database.prepare(
      "SELECT e.latent FROM explanation_words w JOIN explanations e ON e.id = w.rowid "
      "WHERE explanation_words MATCH ?1 ORDER BY bm25(explanation_words), e.latent LIMIT ?2");
  explained.bind(1, std::string_view(expression)).bind(2, limit);
  add(found, seen, std::move(explained), limit);
  // A token on which the latent fires says more than one that stands near.
  SqliteStatement others = database.prepare(
      "SELECT rowid FROM latent_words WHERE latent_words MATCH ?1 "
      "ORDER BY bm25(latent_words, 10.0, 4.0, 1.0), rowid LIMIT ?2");
  others.bind(1, std::string_view(expression)).bind(2, 2 * limit);
  add(found, seen, std::move(others), limit);
  return found;
}

}  // namespace thresher::features
