#include "features/labelled_texts.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "core/json_field.h"
#include "core/visible_text.h"
#include "corpus/document_reader.h"
#include "corpus/text_files.h"

namespace thresher::features {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLargestText = std::size_t{16} << 20U;

/// The name without ".txt" and what is behind it.
std::string stem_of(const fs::path& path) {
  const std::string name = path.filename().string();
  const std::size_t end = name.rfind(".txt");
  return end == std::string::npos ? name : name.substr(0, end);
}

/// Takes the fields that were asked for out of the lines of one file.
class LineReader {
 public:
  LineReader(const fs::path& path, const LabelFields& fields, const std::string* label)
      : path_(path), fields_(fields), label_(label), text_(fields.text) {
    if (label == nullptr) label_field_.emplace(fields.label);
    if (!fields.key.empty()) key_.emplace(fields.key);
    if (!fields.control.empty()) control_.emplace(fields.control);
  }

  void read(std::vector<LabelledText>& out) {
    corpus::DocumentFormat format;
    format.separator = "\n";
    format.max_document_bytes = kLargestText;
    corpus::read_documents(path_, format, [&](std::string_view line, std::int64_t number) {
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
      line_ = number + 1;
      LabelledText text;
      text.text = take(text_, line);
      text.label = label_ != nullptr ? *label_ : take(*label_field_, line);
      text.key = key_ ? take(*key_, line) : fmt::format("{}:{}", path_.string(), line_);
      if (control_) text.control = take(*control_, line);
      if (!text.text.empty()) out.push_back(std::move(text));
    });
  }

 private:
  std::string take(const JsonFieldReader& reader, std::string_view line) const {
    JsonFieldReader::Result result = reader.read(line);
    if (result.problem.empty()) return std::move(result.text);
    throw DataError(fmt::format("{}:{}: {}", display_path(path_), line_, result.problem),
                    "a JSON object a line with the fields asked for, all strings");
  }

  fs::path path_;
  LabelFields fields_;
  const std::string* label_;
  JsonFieldReader text_;
  std::optional<JsonFieldReader> label_field_, key_, control_;
  std::int64_t line_ = 0;
};

void read_text_file(const fs::path& path, const std::string& label,
                    std::vector<LabelledText>& out) {
  corpus::DocumentFormat format;
  format.max_document_bytes = kLargestText;
  corpus::read_documents(path, format, [&](std::string_view text, std::int64_t) {
    out.push_back({std::string(text), label, stem_of(path), {}});
  });
}

}  // namespace

std::vector<LabelledText> read_group(const std::string& label, const fs::path& path,
                                     const LabelFields& fields) {
  std::vector<LabelledText> out;
  for (const corpus::TextFile& file : corpus::find_text_files({path.string()}, "auto")) {
    if (file.is_json_lines) {
      LineReader(file.path, fields, &label).read(out);
    } else {
      read_text_file(file.path, label, out);
    }
  }
  return out;
}

std::vector<LabelledText> read_labelled_texts(const fs::path& path, const LabelFields& fields) {
  std::vector<LabelledText> out;
  if (!fs::is_directory(path)) {
    LineReader(path, fields, nullptr).read(out);
    return out;
  }
  std::vector<fs::path> folders;
  for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
    if (entry.is_directory()) folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  if (folders.empty()) {
    throw ConfigError(fmt::format("{}: there are no folders here", display_path(path)),
                      "a folder a label, with its texts; or a file of JSON lines");
  }
  for (const fs::path& folder : folders) {
    std::vector<LabelledText> group = read_group(folder.filename().string(), folder, fields);
    std::move(group.begin(), group.end(), std::back_inserter(out));
  }
  return out;
}

std::vector<std::string> labels_of(const std::vector<LabelledText>& texts) {
  std::set<std::string> labels;
  for (const LabelledText& text : texts) labels.insert(text.label);
  return {labels.begin(), labels.end()};
}

bool is_held_out(std::string_view key, double fraction) {
  constexpr std::uint64_t kSeed = 0x70726f6265ULL;  // not the hash that splits a corpus
  return static_cast<double>(xxh3_64(key, kSeed) >> 11U) * 0x1p-53 < fraction;
}

}  // namespace thresher::features
