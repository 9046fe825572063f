#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/files.h"

namespace thresher {

/// What the header of a NumPy .npy file (versions 1.0 to 3.0) says: an array of plain numbers that
/// fills the rest of the file.
/// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
struct NpyHeader {
  char kind = 'f';  // NumPy's letter: f floating, i signed, u unsigned, b bool
  std::int64_t item_bytes = 0;
  std::vector<std::int64_t> shape;  // C order
  std::uint64_t data_offset = 0;
  /// "float32", "uint16", "bool"
  std::string dtype_name() const;
};

/// Checks and parses a header without touching a file (for fuzzing). `head` is the start of the
/// file, at least the header or kMaxNpyHeaderBytes of it; `file_bytes` the size of the whole.
/// DataError, starting with `where`, for anything that is not such a file, for Python objects
/// (pickles are never read), structured, complex and big-endian types, Fortran order of two
/// dimensions or more, and a shape that does not fill the file exactly.
inline constexpr std::uint64_t kMaxNpyHeaderBytes = 64 << 10;
NpyHeader parse_npy_header(std::span<const std::byte> head, std::uint64_t file_bytes,
                           std::string_view where);

/// A .npy file, open for reading by pread into memory the caller owns.
class NpyFile {
 public:
  explicit NpyFile(const std::filesystem::path& path);
  const NpyHeader& header() const { return header_; }
  /// Bytes [offset, offset + out.size()) of the array.
  void read(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
  NpyHeader header_;
};

}  // namespace thresher
