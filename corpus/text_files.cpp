#include "corpus/text_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <system_error>

#include "core/error.h"
#include "corpus/utf8.h"

namespace thresher::corpus {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> text_files_below(const fs::path& folder) {
  std::vector<fs::path> files;
  try {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
      if (entry.is_regular_file() && entry.path().extension() == ".txt")
        files.push_back(entry.path());
    }
  } catch (const fs::filesystem_error& error) {
    throw IoError(
        fmt::format("corpus.paths: cannot list '{}': {}", folder.string(), error.code().message()));
  }
  std::sort(files.begin(), files.end(),
            [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
  if (files.empty()) {
    throw ConfigError(
        fmt::format("corpus.paths: folder '{}' has no *.txt at any depth", folder.string()),
        "text files, or folders of *.txt");
  }
  return files;
}

}  // namespace

std::vector<fs::path> find_text_files(const std::vector<std::string>& paths) {
  std::vector<fs::path> files;
  for (const std::string& path : paths) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (fs::is_directory(status)) {
      for (fs::path& file : text_files_below(path)) files.push_back(std::move(file));
    } else if (fs::is_regular_file(status)) {
      files.emplace_back(path);
    } else if (status.type() == fs::file_type::not_found) {
      throw IoError(fmt::format("corpus.paths: '{}' does not exist", path),
                    "text files, or folders of *.txt",
                    fmt::format("relative paths start at '{}'", fs::current_path(error).string()));
    } else {
      throw IoError(
          fmt::format("corpus.paths: '{}' is neither a file nor a folder that can be read", path),
          "text files, or folders of *.txt");
    }
  }
  std::set<fs::path> seen;
  for (const fs::path& file : files) {
    std::error_code error;
    fs::path real = fs::canonical(file, error);
    if (!seen.insert(error ? file : std::move(real)).second) {
      throw ConfigError(fmt::format("corpus.paths: '{}' is named twice", file.string()),
                        "each file once",
                        "text that is read twice would count twice in every figure");
    }
  }
  return files;
}

TextOddities check_is_text(std::string_view text, const fs::path& path) {
  constexpr std::string_view kUtf16LittleEndian("\xFF\xFE", 2);
  constexpr std::string_view kUtf16BigEndian("\xFE\xFF", 2);
  constexpr std::string_view kUtf32BigEndian("\0\0\xFE\xFF", 4);
  for (const std::string_view mark : {kUtf16LittleEndian, kUtf16BigEndian, kUtf32BigEndian}) {
    if (text.starts_with(mark)) {
      throw DataError(
          fmt::format("{}: starts with the byte order mark of UTF-16 or UTF-32", path.string()),
          "UTF-8 text", fmt::format("iconv -f UTF-16 -t UTF-8 '{}'", path.string()));
    }
  }
  TextOddities oddities;
  oddities.n_nul_bytes = std::count(text.begin(), text.end(), '\0');
  for (std::size_t begin = 0; begin < text.size();) {
    const Utf8Run run = next_utf8_run(text, begin);
    if (!run.is_valid) oddities.n_invalid_utf8_bytes += static_cast<std::int64_t>(run.bytes.size());
    begin += run.bytes.size();
  }
  const std::int64_t n_odd = oddities.n_nul_bytes + oddities.n_invalid_utf8_bytes;
  if (n_odd > static_cast<std::int64_t>(text.size() / 10)) {
    throw DataError(fmt::format("{}: is not text: {} of its {} bytes are NUL or not valid UTF-8",
                                path.string(), n_odd, text.size()),
                    "UTF-8 text; up to a tenth may be odd bytes",
                    "unpack archives and convert other encodings first");
  }
  return oddities;
}

}  // namespace thresher::corpus
