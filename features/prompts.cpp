#include "features/prompts.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/files.h"
#include "core/visible_text.h"

namespace thresher::features {

std::vector<std::int32_t> prompt_tokens(const Subject& subject, std::string_view text,
                                        bool parse_special) {
  const corpus::Tokenizer& tokenizer = *subject.tokenizer;
  std::vector<std::int32_t> ids;
  if (subject.rules.corpus.prepend_bos == "document" || tokenizer.adds_bos()) {
    ids.push_back(tokenizer.bos_id().value());
  }
  const std::vector<std::int32_t> of_text = tokenizer.encode(text, parse_special);
  ids.insert(ids.end(), of_text.begin(), of_text.end());
  return ids;
}

std::vector<std::int32_t> stop_tokens(const corpus::Tokenizer& tokenizer) {
  std::vector<std::int32_t> ids;
  const std::optional<std::int32_t> eos = tokenizer.eos_id();
  for (std::int32_t id = 0; id < tokenizer.vocabulary_size(); ++id) {
    if (tokenizer.is_special(id) || id == eos) ids.push_back(id);
  }
  return ids;
}

std::vector<std::string> read_lines(const std::string& path) {
  constexpr std::uint64_t kMostBytes = 16 << 20;
  const std::string text = read_text_file(path, kMostBytes);
  std::vector<std::string> lines;
  for (std::size_t first = 0; first < text.size();) {
    const std::size_t end = std::min(text.find('\n', first), text.size());
    std::string line = text.substr(first, end - first);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) lines.push_back(std::move(line));
    first = end + 1;
  }
  if (lines.empty()) {
    throw ConfigError(fmt::format("{} has no line", display_path(path)), "one text a line");
  }
  return lines;
}

}  // namespace thresher::features
