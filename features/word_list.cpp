#include "features/word_list.h"

#include <fmt/format.h>

#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "core/visible_text.h"

namespace thresher::features {
namespace {

constexpr std::uint64_t kLargestList = std::uint64_t{16} << 20U;

bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }

bool is_of_word(char c) {
  return is_upper(c) || (c >= 'a' && c <= 'z') || static_cast<unsigned char>(c) > 0x7f;
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> out;
  bool is_inside = false;
  for (const char c : text) {
    if (is_of_word(c)) {
      if (!is_inside) out.emplace_back();
      out.back() += is_upper(c) ? static_cast<char>(c - 'A' + 'a') : c;
    }
    is_inside = is_of_word(c);
  }
  return out;
}

}  // namespace

WordList WordList::read(const std::filesystem::path& path) {
  const std::string bytes = read_text_file(path, kLargestList);
  WordList out;
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\n', begin), bytes.size());
    const std::string_view line = std::string_view(bytes).substr(begin, end - begin);
    for (std::string& word : words_of(line.substr(0, line.find('#'))))
      out.words_.insert(std::move(word));
    begin = end + 1;
  }
  if (out.words_.empty()) {
    throw ConfigError(fmt::format("{}: no word in it", display_path(path)),
                      "words, such as: le la");
  }
  return out;
}

double WordList::share(std::string_view text) const {
  const std::vector<std::string> words = words_of(text);
  std::unordered_set<std::string> found;
  for (const std::string& word : words) {
    if (words_.count(word) > 0) found.insert(word);
  }
  return words.empty() ? 0 : static_cast<double>(found.size()) / static_cast<double>(words.size());
}

}  // namespace thresher::features
