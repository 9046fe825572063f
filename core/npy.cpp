#include "core/npy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <utility>

#include "core/checked.h"
#include "core/error.h"
#include "core/json.h"
#include "core/visible_text.h"

namespace thresher {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr std::size_t kMaxDimensions = 32;

/// A cursor over the one Python literal of a header: {'descr': '<f4', 'fortran_order': False,
/// 'shape': (3, 4), }. Only what NumPy writes is understood.
class HeaderText {
 public:
  HeaderText(std::string_view text, std::string where) : text_(text), where_(std::move(where)) {}

  bool take(char wanted) {
    skip_spaces();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  void expect(char wanted) {
    if (!take(wanted)) malformed(fmt::format("'{}' is due", wanted));
  }
  std::string string() {
    const char quote = take('\'') ? '\'' : '"';
    if (quote == '"') expect('"');
    const std::size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos) malformed("a string has no end");
    const std::string_view value = text_.substr(at_, end - at_);
    if (value.find('\\') != std::string_view::npos) malformed("a string has an escape");
    at_ = end + 1;
    return std::string(value);
  }
  bool boolean() {
    skip_spaces();
    for (const auto& [word, value] : {std::pair{"True", true}, std::pair{"False", false}}) {
      if (!text_.substr(at_).starts_with(word)) continue;
      at_ += std::string_view(word).size();
      return value;
    }
    malformed("True or False is due");
  }
  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> values;
    expect('(');
    while (!take(')')) {
      skip_spaces();
      std::int64_t value = -1;
      const char* begin = text_.data() + at_;
      const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
      if (error != std::errc() || value < 0) malformed("a size is due");
      if (values.size() == kMaxDimensions) malformed("too many dimensions");
      values.push_back(value);
      at_ += static_cast<std::size_t>(end - begin);
      if (at_ < text_.size() && text_[at_] == 'L') ++at_;  // NumPy under Python 2
      if (take(',')) continue;
      expect(')');
      break;
    }
    return values;
  }
  void end() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
    if (at_ != text_.size()) malformed("something follows the description");
  }
  bool sees(char c) {
    skip_spaces();
    return at_ < text_.size() && text_[at_] == c;
  }
  [[noreturn]] void malformed(std::string_view problem) const {
    throw DataError(fmt::format("{}: its header is malformed at byte {}: {}", where_, at_, problem),
                    "{'descr': '<f4', 'fortran_order': False, 'shape': (rows, width), }");
  }

 private:
  void skip_spaces() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  std::string_view text_;
  std::string where_;
  std::size_t at_ = 0;
};

[[noreturn]] void refuse_type(std::string_view where, const std::string& shown,
                              std::string_view hint) {
  throw DataError(fmt::format("{}: elements of type {} cannot be read", where, shown),
                  "little-endian floating-point or whole numbers", hint);
}

void read_type(const std::string& descr, std::string_view where, NpyHeader& header) {
  const std::string shown = Json(descr).dump();
  if (descr.find('O') != std::string::npos) {
    throw DataError(
        fmt::format("{}: it holds Python objects (a pickle), which are never read", where),
        "an array of numbers", "numpy.stack or array.astype('float32') makes one");
  }
  if (descr.size() < 3 || std::string_view("<>=|").find(descr[0]) == std::string_view::npos) {
    refuse_type(where, shown, "");
  }
  const auto [end, error] =
      std::from_chars(descr.data() + 2, descr.data() + descr.size(), header.item_bytes);
  const bool is_whole = error == std::errc() && end == descr.data() + descr.size();
  const std::int64_t bytes = header.item_bytes;
  header.kind = descr[1];
  const bool is_power = bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8;
  const bool is_known = (header.kind == 'f' && is_power && bytes > 1) ||
                        ((header.kind == 'i' || header.kind == 'u') && is_power) ||
                        (header.kind == 'b' && bytes == 1);
  if (!is_whole || !is_known) {
    refuse_type(where, shown,
                header.kind == 'V'
                    ? "NumPy has no bfloat16: save float32 or float16, or use .safetensors"
                    : "array.astype('float32') converts");
  }
  if (descr[0] == '>' && bytes > 1) {
    refuse_type(where, shown, "array.astype('<f4') turns big-endian bytes round");
  }
}

void read_description(HeaderText text, std::string_view where, NpyHeader& header) {
  bool has_type = false, has_order = false, has_shape = false, is_fortran = false;
  text.expect('{');
  while (!text.take('}')) {
    const std::string key = text.string();
    text.expect(':');
    if (key == "descr" && !has_type) {
      if (text.sees('['))
        refuse_type(where, "[...] (a structured array)", "save one of its fields");
      read_type(text.string(), where, header);
      has_type = true;
    } else if (key == "fortran_order" && !has_order) {
      is_fortran = text.boolean();
      has_order = true;
    } else if (key == "shape" && !has_shape) {
      header.shape = text.tuple();
      has_shape = true;
    } else {
      text.malformed(fmt::format("key {} is unknown or there twice", Json(key).dump()));
    }
    if (text.take(',')) continue;
    text.expect('}');
    break;
  }
  text.end();
  if (!has_type || !has_order || !has_shape) text.malformed("a key is missing");
  if (is_fortran && header.shape.size() > 1) {
    throw DataError(fmt::format("{}: the array is in Fortran order, column by column", where),
                    "C order, row by row, so that rows can be read one after another",
                    "numpy.save(path, numpy.ascontiguousarray(array))");
  }
}

void check_size(const NpyHeader& header, std::uint64_t file_bytes, std::string_view where) {
  std::uint64_t bytes = static_cast<std::uint64_t>(header.item_bytes);
  for (const std::int64_t size : header.shape) {
    bytes = checked_multiply(bytes, static_cast<std::uint64_t>(size), where);
  }
  const std::uint64_t there = file_bytes - header.data_offset;
  if (there == bytes) return;
  throw DataError(fmt::format("{}: its header announces [{}] {}, {} bytes, but {} are there", where,
                              fmt::join(header.shape, ", "), header.dtype_name(), bytes, there),
                  "an array that fills the file",
                  there < bytes ? "the file was cut off while it was written or copied"
                                : "one array a file: several in one .npy cannot be told apart");
}

}  // namespace

std::string NpyHeader::dtype_name() const {
  switch (kind) {
    case 'f':
      return fmt::format("float{}", 8 * item_bytes);
    case 'i':
      return fmt::format("int{}", 8 * item_bytes);
    case 'u':
      return fmt::format("uint{}", 8 * item_bytes);
    default:
      return "bool";
  }
}

NpyHeader parse_npy_header(std::span<const std::byte> head, std::uint64_t file_bytes,
                           std::string_view where) {
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
  if (head.size() < 10 || !text.starts_with(kMagic)) {
    throw DataError(fmt::format("{}: this is not a .npy file", where),
                    "a file that numpy.save has written");
  }
  const int version = static_cast<unsigned char>(text[6]);
  if (version < 1 || version > 3) {
    throw DataError(fmt::format("{}: .npy version {} is not known", where, version), "1, 2 or 3");
  }
  const std::size_t length_bytes = version == 1 ? 2 : 4;
  if (head.size() < 8 + length_bytes)
    throw DataError(fmt::format("{}: its header is cut off", where));
  std::uint64_t header_bytes = 0;  // little-endian, as this machine
  std::memcpy(&header_bytes, head.data() + 8, length_bytes);
  NpyHeader header;
  header.data_offset = 8 + length_bytes + header_bytes;
  if (header.data_offset > kMaxNpyHeaderBytes || header.data_offset > file_bytes ||
      header.data_offset > head.size()) {
    throw DataError(fmt::format("{}: its header of {} bytes does not fit", where, header_bytes),
                    fmt::format("at most {} bytes, inside the file", kMaxNpyHeaderBytes));
  }
  read_description(HeaderText(text.substr(8 + length_bytes, header_bytes), std::string(where)),
                   where, header);
  check_size(header, file_bytes, where);
  return header;
}

NpyFile::NpyFile(const std::filesystem::path& path) : path_(path), file_(open_for_reading(path)) {
  const std::uint64_t file_bytes = thresher::file_size(path);
  std::vector<std::byte> head(std::min(file_bytes, kMaxNpyHeaderBytes));
  read_at(file_, 0, head, path);
  header_ = parse_npy_header(head, file_bytes, display_path(path));
}

void NpyFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  read_at(file_, header_.data_offset + offset, out, path_);
}

}  // namespace thresher
