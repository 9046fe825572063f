#include "core/npy.h"

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"
#include "core/visible_text.h"
#include "tests/core/scratch_folder.h"

namespace thresher {
namespace {

using testing::first_line_of;

/// A file of version 1 (or `version`) with this description and `data_bytes` of data.
std::string npy(const std::string& description, std::size_t data_bytes, int version = 1) {
  std::string text = description;
  const std::size_t length_bytes = version == 1 ? 2 : 4;
  text.append(64 - (8 + length_bytes + text.size() + 1) % 64, ' ');
  text += '\n';
  std::string out("\x93NUMPY", 6);
  out += static_cast<char>(version);
  out += '\0';
  for (std::size_t i = 0; i < length_bytes; ++i) {
    out += static_cast<char>((text.size() >> (8 * i)) & 0xFF);
  }
  return out + text + std::string(data_bytes, 'x');
}

NpyHeader parse(const std::string& file) {
  return parse_npy_header(std::as_bytes(std::span(file.data(), file.size())), file.size(), "a.npy");
}

std::string verdict(const std::string& file) {
  return first_line_of<DataError>([&] { parse(file); });
}

std::string described(const std::string& descr, const std::string& order,
                      const std::string& shape) {
  return "{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }";
}

TEST(NpyTest, ReadsWhatNumPyWrites) {
  const NpyHeader header = parse(npy(described("'<f4'", "False", "(3, 4)"), 48));
  EXPECT_EQ(header.dtype_name(), "float32");
  EXPECT_EQ(header.shape, (std::vector<std::int64_t>{3, 4}));
  EXPECT_EQ(header.data_offset % 64, 0U);
  for (const int version : {2, 3}) {
    EXPECT_EQ(parse(npy(described("'<i8'", "False", "(5,)"), 40, version)).dtype_name(), "int64");
  }
  EXPECT_EQ(parse(npy(described("'|u1'", "True", "(7,)"), 7)).dtype_name(), "uint8");
  EXPECT_TRUE(parse(npy(described("'<f8'", "False", "()"), 8)).shape.empty());
  EXPECT_EQ(parse(npy(described("\"<f2\"", "False", "(3L, 0)"), 0)).shape[1], 0);
}

TEST(NpyTest, RefusesElementsThatAreNoPlainNumbers) {
  EXPECT_EQ(verdict(npy(described("'|O'", "False", "(3,)"), 24)),
            "a.npy: it holds Python objects (a pickle), which are never read");
  EXPECT_EQ(verdict(npy(described("'<c8'", "False", "(3,)"), 24)),
            "a.npy: elements of type \"<c8\" cannot be read");
  EXPECT_EQ(verdict(npy(described("'>f4'", "False", "(3,)"), 12)),
            "a.npy: elements of type \">f4\" cannot be read");
  EXPECT_EQ(verdict(npy(described("'<V2'", "False", "(3,)"), 6)),
            "a.npy: elements of type \"<V2\" cannot be read");
  EXPECT_EQ(verdict(npy(described("[('a', '<f4')]", "False", "(3,)"), 12)),
            "a.npy: elements of type [...] (a structured array) cannot be read");
  EXPECT_EQ(verdict(npy(described("'<f99999999999999999999'", "False", "(3,)"), 12)),
            "a.npy: elements of type \"<f99999999999999999999\" cannot be read");
}

TEST(NpyTest, RefusesFortranOrder) {
  EXPECT_EQ(verdict(npy(described("'<f4'", "True", "(3, 4)"), 48)),
            "a.npy: the array is in Fortran order, column by column");
}

TEST(NpyTest, DemandsAnArrayThatFillsTheFile) {
  EXPECT_EQ(verdict(npy(described("'<f4'", "False", "(3, 4)"), 47)),
            "a.npy: its header announces [3, 4] float32, 48 bytes, but 47 are there");
  EXPECT_EQ(verdict(npy(described("'<f4'", "False", "(3, 4)"), 49)),
            "a.npy: its header announces [3, 4] float32, 48 bytes, but 49 are there");
  EXPECT_EQ(verdict(npy(described("'<f4'", "False", "(4611686018427387904, 4)"), 16)),
            "a.npy: 4 x 4611686018427387904 overflows")
      << "a size that wraps to 0 must not pass";
}

TEST(NpyTest, RefusesMalformedHeaders) {
  EXPECT_EQ(verdict("not an array at all"), "a.npy: this is not a .npy file");
  EXPECT_EQ(verdict(npy(described("'<f4'", "False", "(3,)"), 12, 4)),
            "a.npy: .npy version 4 is not known");
  const std::string whole = npy(described("'<f4'", "False", "(3,)"), 12);
  EXPECT_EQ(verdict(whole.substr(0, 30)), "a.npy: its header of 118 bytes does not fit");
  std::string huge = whole;
  huge[8] = huge[9] = '\xFF';
  EXPECT_EQ(verdict(huge), "a.npy: its header of 65535 bytes does not fit");
  EXPECT_EQ(verdict(npy("{'descr': '<f4', 'shape': (3,)}", 12)),
            "a.npy: its header is malformed at byte 54: a key is missing");
  EXPECT_EQ(verdict(npy("{'descr': '<f4', 'descr': '<f4'}", 12)),
            "a.npy: its header is malformed at byte 25: key \"descr\" is unknown or there twice");
  EXPECT_EQ(verdict(npy(described("'<f4'", "False", "(-3,)"), 12)),
            "a.npy: its header is malformed at byte 51: a size is due");
  EXPECT_EQ(verdict(npy(described("'<f4'", "__import__('os')", "(3,)"), 12)),
            "a.npy: its header is malformed at byte 34: True or False is due");
}

TEST(NpyTest, ReadsRangesOfAFile) {
  const testing::ScratchFolder folder;
  std::string file = npy(described("'<f4'", "False", "(2, 2)"), 0);
  const std::vector<float> values = {1, 2, 3, 4};
  file.append(reinterpret_cast<const char*>(values.data()), 16);
  write_file_atomically(folder / "a.npy", file);
  const NpyFile npy_file(folder / "a.npy");
  std::vector<float> row(2);
  npy_file.read(8, std::as_writable_bytes(std::span(row)));
  EXPECT_EQ(row, (std::vector<float>{3, 4}));
}

TEST(DisplayPathTest, ShowsControlCharactersAndBrokenUtf8AsTheirCodes) {
  EXPECT_EQ(display_path("../a/b.npy"), "../a/b.npy");
  EXPECT_EQ(display_path("a\nb\x1b[31m\t.npy"), "a\\nb\\x1b[31m\\t.npy");
  EXPECT_EQ(display_path("\xC3\xA9\xFF\x7F"), "\xC3\xA9\\xff\\x7f");
  EXPECT_EQ(display_path("a\xC2\x9B"
                         "31m"),
            "a\\xc2\\x9b31m")
      << "C1 controls start sequences too";
}

TEST(DisplayPathTest, IsWhatFileErrorsSay) {
  EXPECT_EQ(first_line_of<IoError>([] { open_for_reading("/nonexistent/\x1b]0;x\n.npy"); }),
            "/nonexistent/\\x1b]0;x\\n.npy: cannot open: No such file or directory");
}

}  // namespace
}  // namespace thresher
