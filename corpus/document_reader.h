#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace thresher::corpus {

inline constexpr std::size_t kMaxDocumentBytes = 1U << 30;

/// How the documents of a file are found.
struct DocumentFormat {
  bool is_json_lines = false;
  std::string separator;       // between documents of plain text; empty: a file is one document
  std::string field = "text";  // of a JSON line, keys of objects within objects joined by dots
  bool skip_bad_lines = false;
  double max_expansion = 200;  // see corpus/text_stream.h
  std::size_t max_document_bytes = kMaxDocumentBytes;
  std::string shown_name;  // what messages call the file; empty: its path
};

struct FileReport {
  /// Bytes that are allowed but seldom meant.
  std::int64_t n_nul_bytes = 0, n_invalid_utf8_bytes = 0;
  std::int64_t n_bad_lines = 0;
  std::string first_bad_line;  // "path:line: what is wrong with it"
};

/// Called with each document that is not empty, in order; `number` is its place among the file's
/// documents, or its line.
using TakeDocument = std::function<void(std::string_view text, std::int64_t number)>;

/// Reads the documents of one file, packed or not, holding one at a time. DataError for a document
/// that is too long (1 GiB), a bad line (path:line, unless they are skipped), text in UTF-16 or
/// UTF-32, and a file of which more than a tenth is NUL or not UTF-8: an archive or a picture would
/// otherwise be trained on.
FileReport read_documents(const std::filesystem::path& path, const DocumentFormat& format,
                          const TakeDocument& take);

}  // namespace thresher::corpus
