#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace thresher::corpus {

/// A file of documents and how they stand in it.
struct TextFile {
  std::filesystem::path path;
  bool is_json_lines = false;
};

/// The files that `paths` (files or folders) stand for. A folder stands for all text files below it
/// at any depth, in byte order of their paths: *.txt, or *.jsonl and *.ndjson, each also with .gz
/// or .zst behind. `format` is "text", "jsonl", or "auto", which goes by the names; a file named in
/// `paths` whose name says nothing is plain text. IoError for a path that is not there, ConfigError
/// for a folder without such files, for one with both kinds under "auto", and for a file that is
/// named twice.
std::vector<TextFile> find_text_files(const std::vector<std::string>& paths,
                                      const std::string& format);

}  // namespace thresher::corpus
