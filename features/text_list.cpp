#include "features/text_list.h"

#include <fmt/format.h>

#include <string_view>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "core/visible_text.h"

namespace thresher::features {
namespace {

constexpr std::uint64_t kLargestList = std::uint64_t{16} << 20U;

ListedText parse_line(const std::string& line, const std::string& what) {
  const Json json = Json::parse(line, what);
  ListedText out;
  out.what = what;
  if (!json.is_object()) throw DataError(fmt::format("{}: not an object", what), "{\"text\": ...}");
  for (const auto& [key, value] : json.as_object(what)) {
    std::string ListedText::*field = key == "text"      ? &ListedText::text
                                     : key == "answer"  ? &ListedText::answer
                                     : key == "against" ? &ListedText::against
                                                        : nullptr;
    if (field == nullptr) {
      throw DataError(fmt::format("{}: unknown key {}", what, visible_text(key)),
                      "text, answer and against");
    }
    out.*field = value.as_string(fmt::format("{}: {}", what, key));
  }
  if (json.find("text") == nullptr)
    throw DataError(fmt::format("{}: no text", what), "the key text");
  return out;
}

}  // namespace

std::vector<ListedText> read_text_list(const std::filesystem::path& path) {
  const std::string bytes = read_text_file(path, kLargestList);
  const bool is_json = path.extension() == ".jsonl";
  std::vector<ListedText> out;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\n', begin), bytes.size());
    std::string line = bytes.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    const std::string what = fmt::format("{}:{}", display_path(path), number);
    out.push_back(is_json ? parse_line(line, what) : ListedText{line, what, "", ""});
  }
  if (out.empty()) {
    throw ConfigError(fmt::format("{}: no text in it", display_path(path)), "a text a line");
  }
  return out;
}

std::string tokens_text(const std::vector<std::string>& tokens) {
  std::string out;
  for (const std::string& token : tokens) {
    out += fmt::format("{}\"{}\"", out.empty() ? "" : " ", visible_text(token));
  }
  return out;
}

}  // namespace thresher::features
