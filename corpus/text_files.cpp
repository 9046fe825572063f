#include "corpus/text_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <system_error>

#include "core/error.h"

namespace thresher::corpus {
namespace {

namespace fs = std::filesystem;

enum class Kind { kPlain, kJsonLines, kOther };

Kind kind_of(const fs::path& path) {
  fs::path name = path.filename();
  if (name.extension() == ".gz" || name.extension() == ".zst") name = name.stem();
  if (name.extension() == ".txt") return Kind::kPlain;
  if (name.extension() == ".jsonl" || name.extension() == ".ndjson") return Kind::kJsonLines;
  return Kind::kOther;
}

constexpr const char* kExpected = "text files, or folders of them";

std::vector<TextFile> text_files_below(const fs::path& folder, const std::string& format) {
  std::vector<TextFile> files;
  bool has_plain = false, has_json_lines = false;
  try {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
      const Kind kind = kind_of(entry.path());
      if (!entry.is_regular_file() || kind == Kind::kOther) continue;
      if (format == (kind == Kind::kPlain ? "jsonl" : "text")) continue;
      (kind == Kind::kPlain ? has_plain : has_json_lines) = true;
      files.push_back({entry.path(), kind == Kind::kJsonLines});
    }
  } catch (const fs::filesystem_error& error) {
    throw IoError(
        fmt::format("corpus.paths: cannot list '{}': {}", folder.string(), error.code().message()));
  }
  std::sort(files.begin(), files.end(),
            [](const TextFile& a, const TextFile& b) { return a.path.native() < b.path.native(); });
  if (files.empty()) {
    throw ConfigError(
        fmt::format("corpus.paths: folder '{}' has no {} at any depth", folder.string(),
                    format == "text"    ? "*.txt"
                    : format == "jsonl" ? "*.jsonl"
                                        : "*.txt or *.jsonl"),
        kExpected, ".gz or .zst may follow; files with other names can be named one by one");
  }
  if (has_plain && has_json_lines) {
    throw ConfigError(
        fmt::format("corpus.paths: folder '{}' has both *.txt and *.jsonl", folder.string()),
        "one kind of text", "corpus.format: text or jsonl takes one of them");
  }
  return files;
}

void refuse_twice(const std::vector<TextFile>& files) {
  std::set<fs::path> seen;
  for (const TextFile& file : files) {
    std::error_code error;
    fs::path real = fs::canonical(file.path, error);
    if (!seen.insert(error ? file.path : std::move(real)).second) {
      throw ConfigError(fmt::format("corpus.paths: '{}' is named twice", file.path.string()),
                        "each file once",
                        "text that is read twice would count twice in every figure");
    }
  }
}

}  // namespace

std::vector<TextFile> find_text_files(const std::vector<std::string>& paths,
                                      const std::string& format) {
  std::vector<TextFile> files;
  for (const std::string& path : paths) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (fs::is_directory(status)) {
      for (TextFile& file : text_files_below(path, format)) files.push_back(std::move(file));
    } else if (fs::is_regular_file(status)) {
      files.push_back(
          {path, format == "jsonl" || (format == "auto" && kind_of(path) == Kind::kJsonLines)});
    } else if (status.type() == fs::file_type::not_found) {
      throw IoError(fmt::format("corpus.paths: '{}' does not exist", path), kExpected,
                    fmt::format("relative paths start at '{}'", fs::current_path(error).string()));
    } else {
      throw IoError(
          fmt::format("corpus.paths: '{}' is neither a file nor a folder that can be read", path),
          kExpected);
    }
  }
  refuse_twice(files);
  return files;
}

}  // namespace thresher::corpus
