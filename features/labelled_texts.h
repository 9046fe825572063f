#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace thresher::features {

/// A document and what is known of it.
struct LabelledText {
  std::string text;
  std::string label;
  /// Documents of one key are about the same (a section in several languages, excerpts of one
  /// text): they fall on one side of a split and are resampled together.
  std::string key;
  std::string control;  // another attribute, which should have nothing to do with the label
};

/// Keys of JSON lines; objects within objects joined by dots.
struct LabelFields {
  std::string text = "text", label = "label";
  std::string key;      // empty: each line is on its own
  std::string control;  // empty: none
};

/// Documents with a label from files, packed or not, in byte order of their paths:
///
/// - JSON lines, with the label under fields.label;
/// - a folder of folders of *.txt, where the folder's name is the label and the file's name,
/// without
///   ".txt", the key: parallel texts of the same names in several folders share keys.
///
/// DataError with file:line for a line without one of the fields; ConfigError for a folder without
/// such texts, IoError for what cannot be read. A document may have 16 MiB.
std::vector<LabelledText> read_labelled_texts(const std::filesystem::path& path,
                                              const LabelFields& fields);
/// The same with one label for all: a text file, JSON lines (no label is read), or a folder of
/// either.
std::vector<LabelledText> read_group(const std::string& label, const std::filesystem::path& path,
                                     const LabelFields& fields);

/// The labels of `texts`, each once, sorted.
std::vector<std::string> labels_of(const std::vector<LabelledText>& texts);

/// True for about `fraction` of the keys, by a hash of the key alone.
bool is_held_out(std::string_view key, double fraction);

}  // namespace thresher::features
