#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace thresher::corpus {

/// The files that `paths` (files or folders) stand for: a file as it is, a folder's *.txt at any
/// depth in byte order of their paths. IoError for a path that is not there, ConfigError for a
/// folder without *.txt and for a file that is named twice.
std::vector<std::filesystem::path> find_text_files(const std::vector<std::string>& paths);

/// Bytes that seldom belong to text.
struct TextOddities {
  std::int64_t n_nul_bytes = 0;
  std::int64_t n_invalid_utf8_bytes = 0;
};
/// Counts them. DataError if `text` starts with the mark of UTF-16 or UTF-32, or if more than a
/// tenth of it is odd: an archive or a picture would otherwise be trained on.
TextOddities check_is_text(std::string_view text, const std::filesystem::path& path);

}  // namespace thresher::corpus
