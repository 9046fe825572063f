#include "corpus/document_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/json_field.h"
#include "core/visible_text.h"
#include "corpus/text_stream.h"
#include "corpus/utf8.h"

namespace thresher::corpus {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kChunkBytes = 256 * 1024;

void refuse_other_encodings(std::string_view first_bytes, const std::string& name, bool is_file) {
  constexpr std::string_view kUtf16LittleEndian("\xFF\xFE", 2);
  constexpr std::string_view kUtf16BigEndian("\xFE\xFF", 2);
  constexpr std::string_view kUtf32BigEndian("\0\0\xFE\xFF", 4);
  for (const std::string_view mark : {kUtf16LittleEndian, kUtf16BigEndian, kUtf32BigEndian}) {
    if (first_bytes.starts_with(mark)) {
      throw DataError(fmt::format("{}: starts with the byte order mark of UTF-16 or UTF-32", name),
                      "UTF-8 text",
                      fmt::format("iconv -f UTF-16 -t UTF-8{}", is_file ? " '" + name + "'" : ""));
    }
  }
}

class Reader {
 public:
  Reader(const fs::path& path, const DocumentFormat& format, const TakeDocument& take)
      : path_(path),
        name_(format.shown_name.empty() ? path.string() : format.shown_name),
        format_(format),
        field_(format.field),
        separator_(format.is_json_lines ? "\n" : format.separator),
        take_(take) {}

  FileReport run() {
    TextStream stream(path_, format_.max_expansion, name_);
    // Most small files are one document: it is read straight into place.
    std::string pending;
    pending.reserve(static_cast<std::size_t>(
        std::min<std::uint64_t>(stream.bytes_on_disk() + kChunkBytes, 64U << 20)));
    while (true) {
      const std::size_t before = pending.size();
      pending.resize(before + kChunkBytes);
      const std::size_t size = stream.read(std::span(pending).subspan(before));
      pending.resize(before + size);
      if (n_bytes_ == 0) refuse_other_encodings(pending, name_, format_.shown_name.empty());
      n_bytes_ += static_cast<std::int64_t>(size);
      if (size == 0) break;
      cut(pending, before);
      if (pending.size() > format_.max_document_bytes) fail_long();
    }
    end_document(pending);
    check_is_text();
    return std::move(report_);
  }

 private:
  /// Takes the documents that end in `pending` out of it; a separator may lie across `before`,
  /// where new bytes begin.
  void cut(std::string& pending, std::size_t before) {
    if (separator_.empty()) return;
    std::size_t begin = 0;
    std::size_t search = before - std::min(before, separator_.size() - 1);
    for (std::size_t found; (found = pending.find(separator_, search)) != std::string::npos;) {
      end_document(std::string_view(pending).substr(begin, found - begin));
      begin = search = found + separator_.size();
    }
    pending.erase(0, begin);
  }

  void end_document(std::string_view text) {
    ++line_;
    if (!format_.is_json_lines) {
      if (!text.empty()) give(text, number_++);
      return;
    }
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) return;
    const JsonFieldReader::Result result = field_.read(text);
    if (!result.problem.empty()) return bad_line(result.problem);
    if (!result.text.empty()) give(result.text, line_);
  }

  void give(std::string_view text, std::int64_t number) {
    report_.n_nul_bytes += std::count(text.begin(), text.end(), '\0');
    for (std::size_t begin = 0; begin < text.size();) {
      const Utf8Run run = next_utf8_run(text, begin);
      if (!run.is_valid) {
        report_.n_invalid_utf8_bytes += static_cast<std::int64_t>(run.bytes.size());
      }
      begin += run.bytes.size();
    }
    take_(text, number);
  }

  void bad_line(const std::string& problem) {
    const std::string line = fmt::format("{}:{}: {}", name_, line_, problem);
    if (!format_.skip_bad_lines) {
      throw DataError(
          line,
          fmt::format("one JSON object a line, its text a string under {}",
                      escape_control(format_.field)),
          "corpus.field names another key; corpus.bad_lines: skip leaves such lines out and counts "
          "them");
    }
    if (++report_.n_bad_lines == 1) report_.first_bad_line = line;
  }

  [[noreturn]] void fail_long() const {
    throw DataError(format_.is_json_lines
                        ? fmt::format("{}:{}: the line has more than {} bytes", name_, line_ + 1,
                                      format_.max_document_bytes)
                        : fmt::format("{}: document {} has more than {} bytes", name_, number_,
                                      format_.max_document_bytes),
                    "documents that fit",
                    format_.max_document_bytes == kMaxDocumentBytes
                        ? "corpus.document_separator cuts a file into documents"
                        : "");
  }

  void check_is_text() const {
    const std::int64_t n_odd = report_.n_nul_bytes + report_.n_invalid_utf8_bytes;
    if (n_odd <= n_bytes_ / 10) return;
    throw DataError(fmt::format("{}: is not text: {} of its {} bytes are NUL or not valid UTF-8",
                                name_, n_odd, n_bytes_),
                    "UTF-8 text; up to a tenth may be odd bytes",
                    "unpack archives and convert other encodings first");
  }

  const fs::path& path_;
  std::string name_;
  const DocumentFormat& format_;
  JsonFieldReader field_;
  std::string separator_;
  const TakeDocument& take_;
  FileReport report_;
  std::int64_t n_bytes_ = 0, number_ = 0, line_ = 0;
};

}  // namespace

FileReport read_documents(const fs::path& path, const DocumentFormat& format,
                          const TakeDocument& take) {
  return Reader(path, format, take).run();
}

}  // namespace thresher::corpus
