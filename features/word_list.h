#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_set>

namespace thresher::features {

/// Words by which a text's language or subject is told, such as the function words of French.
///
/// A word is a run of ASCII letters and of bytes above 0x7f, so that letters of other alphabets and
/// accented ones are part of it; ASCII letters are compared without regard to case. So "l'été" is
/// "l" and "été".
class WordList {
 public:
  /// The words of a UTF-8 text file; what stands behind a # in a line is left out. ConfigError for
  /// a file without any; IoError and DataError as the file's reader throws them (16 MiB at most).
  static WordList read(const std::filesystem::path& path);

  /// Which part of a text's words stands in the list, each listed word counted once: a text that
  /// says one listed word over and over has a small share. 0 for a text without words.
  double share(std::string_view text) const;

 private:
  std::unordered_set<std::string> words_;
};

}  // namespace thresher::features
