#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <limits>
#include <random>

#include "core/error.h"
#include "core/gguf.h"
#include "tests/core/allocation_meter.h"
#include "tests/core/gguf_builder.h"

namespace thresher {
namespace {

using testing::GgufBuilder;
using testing::raw;
using testing::raw_string;
using testing::TemporaryFile;

constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();

/// What the reader says about `bytes`: the first line after the file's name.
std::string verdict(const std::string& bytes) {
  const TemporaryFile file(bytes);
  try {
    const GgufFile gguf(file.path());
    return "accepted";
  } catch (const DataError& error) {
    EXPECT_EQ(error.code(), ExitCode::kDamagedInput);
    return error.first_line().substr(file.path().string().size() + 2);
  }
}

GgufBuilder with_tensor(GgufBuilder::Tensor tensor) {
  GgufBuilder builder;
  builder.tensor(std::move(tensor));
  return builder;
}

TEST(GgufMalformed, BadMagic) {
  GgufBuilder builder;
  builder.magic = "GGUG";
  EXPECT_EQ(verdict(builder.bytes()), "at byte 0: not a GGUF file");
  EXPECT_EQ(verdict("GGU"), "at byte 0: not a GGUF file");
  EXPECT_EQ(verdict(""), "at byte 0: not a GGUF file");
}

TEST(GgufMalformed, Versions0And1AndFutureAndBigEndian) {
  GgufBuilder builder;
  for (const std::uint32_t version : {0U, 1U, 4U}) {
    builder.version = version;
    EXPECT_EQ(verdict(builder.bytes()), "at byte 4: GGUF version " + std::to_string(version));
  }
  builder.version = 0x03000000;
  EXPECT_EQ(verdict(builder.bytes()), "at byte 4: a big-endian GGUF file");
}

TEST(GgufMalformed, HeaderCutAnywhere) {
  const std::string whole = GgufBuilder().bytes();
  ASSERT_EQ(whole.size(), 24U);
  EXPECT_EQ(verdict(whole.substr(0, 6)),
            "at byte 4: the file ends inside the version: 4 bytes needed, 2 left");
  EXPECT_EQ(verdict(whole.substr(0, 8)),
            "at byte 8: the file ends inside the tensor count: 8 bytes needed, 0 left");
  EXPECT_EQ(verdict(whole.substr(0, 23)),
            "at byte 16: the file ends inside the metadata count: 8 bytes needed, 7 left");
}

TEST(GgufMalformed, CountsBeyondTheFile) {
  GgufBuilder builder;
  builder.tensor_count = kHuge;
  EXPECT_EQ(verdict(builder.bytes()), "at byte 8: 18446744073709551615 tensors are announced");
  builder.tensor_count = 1;
  EXPECT_EQ(verdict(builder.bytes()), "at byte 8: 1 tensors are announced");
  builder.tensor_count = 0;
  builder.metadata_count = kHuge;
  EXPECT_EQ(verdict(builder.bytes()),
            "at byte 16: 18446744073709551615 metadata entries are announced");
}

TEST(GgufMalformed, MoreMetadataEntriesThanTheLimit) {
  GgufBuilder builder;
  for (int i = 0; i < 65'537; ++i) builder.entry(std::to_string(i), 0, "x");
  EXPECT_EQ(verdict(builder.bytes()), "at byte 16: 65537 metadata entries are announced");
}

TEST(GgufMalformed, KeySize) {
  GgufBuilder builder;
  builder.metadata.push_back(raw(kHuge) + std::string(20, 'k'));
  EXPECT_EQ(verdict(builder.bytes()),
            "at byte 24: a metadata key is 18446744073709551615 bytes long");
  builder.metadata = {raw<std::uint64_t>(65'535) + std::string(20, 'k')};
  EXPECT_EQ(verdict(builder.bytes()),
            "at byte 32: the file ends inside a metadata key: 65535 bytes needed, 20 left");
}

TEST(GgufMalformed, EmptyKey) {
  EXPECT_EQ(verdict(GgufBuilder().uint32("", 1).bytes()),
            "at byte 24: metadata entry 0 has an empty key");
}

TEST(GgufMalformed, UnknownMetadataTypeAndNestedArrays) {
  EXPECT_EQ(verdict(GgufBuilder().entry("k", 13, "12345678").bytes()),
            "at byte 33: metadata 'k' has the unknown type 13");
  EXPECT_EQ(verdict(GgufBuilder().array("k", 13, 1, "12345678").bytes()),
            "at byte 37: metadata 'k' has the unknown type 13");
  EXPECT_EQ(verdict(GgufBuilder().array("k", 9, 1, std::string(12, '\0')).bytes()),
            "at byte 37: metadata 'k' is an array of arrays");
}

TEST(GgufMalformed, DuplicateKey) {
  EXPECT_EQ(verdict(GgufBuilder().uint32("k\x1b[31m", 1).uint32("k\x1b[31m", 2).bytes()),
            "at byte 46: metadata 'k\\x1b[31m' stands twice in the file");
}

TEST(GgufMalformed, BoolThatIsNeither) {
  EXPECT_EQ(verdict(GgufBuilder().entry("k", 7, "\2").bytes()),
            "at byte 37: metadata 'k' is a bool with value 2");
}

TEST(GgufMalformed, StringAndArrayLengths) {
  EXPECT_EQ(verdict(GgufBuilder().entry("k", 8, raw(kHuge)).bytes()),
            "at byte 37: a metadata string is 18446744073709551615 bytes long");
  EXPECT_EQ(verdict(GgufBuilder().entry("k", 8, raw<std::uint64_t>(5) + "four").bytes()),
            "at byte 45: the file ends inside a metadata string: 5 bytes needed, 4 left");
  EXPECT_EQ(verdict(GgufBuilder().array("k", 4, std::uint64_t{1} << 63, "1234").bytes()),
            "at byte 41: metadata 'k' is an array of 9223372036854775808 elements");
  EXPECT_EQ(verdict(GgufBuilder().array("k", 4, 2, "1234567").bytes()),
            "at byte 41: metadata 'k' is an array of 2 elements");
  EXPECT_EQ(verdict(GgufBuilder().array("k", 8, 1, raw<std::uint64_t>(1)).bytes()),
            "at byte 57: the file ends inside a string of an array: 1 bytes needed, 0 left");
}

TEST(GgufMalformed, MoreArrayElementsThanTheLimitForTheFile) {
  const std::uint64_t half = (2ULL << 20) + 1;
  GgufBuilder builder;
  builder.array("a", 0, half, std::string(half, '\0')).array("b", 0, half, std::string(half, '\0'));
  EXPECT_EQ(verdict(builder.bytes()),
            "at byte 2097219: metadata 'b' is an array of 2097153 elements");
}

TEST(GgufMalformed, Alignment) {
  EXPECT_EQ(verdict(GgufBuilder().uint32("general.alignment", 13).bytes()),
            "at byte 53: general.alignment = 13");
  EXPECT_EQ(verdict(GgufBuilder().uint32("general.alignment", 0).bytes()),
            "at byte 53: general.alignment = 0");
  EXPECT_EQ(verdict(GgufBuilder().uint32("general.alignment", 131'072).bytes()),
            "at byte 53: general.alignment = 131072");
  EXPECT_EQ(verdict(GgufBuilder().string("general.alignment", "32").bytes()),
            "at byte 53: general.alignment is of type string");
  EXPECT_EQ(verdict(GgufBuilder().entry("general.alignment", 10, raw<std::uint64_t>(32)).bytes()),
            "at byte 53: general.alignment is of type uint64");
}

TEST(GgufMalformed, TensorNames) {
  EXPECT_EQ(
      verdict(
          with_tensor({.name = std::string(65, 'n'), .dimensions = {1}, .data = "1234"}).bytes()),
      "at byte 24: a tensor name is 65 bytes long");
  EXPECT_EQ(verdict(with_tensor({.name = "", .dimensions = {1}, .data = "123456789"}).bytes()),
            "at byte 24: a tensor has an empty name");
  auto twice = with_tensor({.name = "t", .dimensions = {1}, .data = "1234"});
  twice.tensor(twice.tensors[0]);
  EXPECT_EQ(verdict(twice.bytes()), "at byte 90: tensor 't' stands twice in the table");
}

TEST(GgufMalformed, DimensionCount) {
  GgufBuilder::Tensor tensor{.name = "t", .dimensions = {1}, .data = std::string(64, '\0')};
  for (const std::uint32_t count : {0U, 5U, 0xFFFFFFFFU}) {
    tensor.dimension_count = count;
    EXPECT_EQ(verdict(with_tensor(tensor).bytes()),
              "at byte 33: tensor 't' has " + std::to_string(count) + " dimensions");
  }
}

TEST(GgufMalformed, ShapesAndTheirProducts) {
  EXPECT_EQ(verdict(with_tensor({.name = "t", .dimensions = {4, 0}, .data = "1234"}).bytes()),
            "at byte 45: tensor 't' has a dimension of 0");
  EXPECT_EQ(verdict(with_tensor({.name = "t", .dimensions = {kHuge}, .data = "1234"}).bytes()),
            "at byte 37: tensor 't' has a dimension of 18446744073709551615");
  EXPECT_EQ(
      verdict(with_tensor({.name = "t", .dimensions = {1ULL << 32, 1ULL << 31}, .data = "1234"})
                  .bytes()),
      "at byte 45: tensor 't' has a dimension of 2147483648");
}

TEST(GgufMalformed, ByteCountOverflow) {
  // 2^62 values of four bytes are exactly 2^64 bytes.
  EXPECT_EQ(verdict(with_tensor({.name = "t", .dimensions = {1ULL << 62}, .data = "1234"}).bytes()),
            "at byte 45: tensor 't' has 4611686018427387904 blocks of 4 bytes");
}

TEST(GgufMalformed, SumsOfSizesThatWouldWrapAround) {
  GgufBuilder builder;
  for (const char* name : {"a", "b"}) {
    builder.tensor({.name = name,
                    .dimensions = {0x7FFFFFFFFFFFFFC0},
                    .type = 24,
                    .data = std::string(64, '\0')});
  }
  EXPECT_EQ(
      verdict(builder.bytes()),
      "at byte 90: tensor 'a' of 9223372036854775744 bytes at 0 of the data goes past the end");
}

TEST(GgufMalformed, TensorTypesWithoutMeaning) {
  for (const std::uint32_t type : {4U, 33U, 42U, 0xFFFFFFFFU}) {
    EXPECT_EQ(
        verdict(
            with_tensor({.name = "t", .dimensions = {1}, .type = type, .data = "1234"}).bytes()),
        "at byte 45: tensor 't' has the unknown type " + std::to_string(type));
  }
}

TEST(GgufMalformed, RowsThatDoNotFillTheirBlocks) {
  EXPECT_EQ(
      verdict(with_tensor(
                  {.name = "t", .dimensions = {16, 2}, .type = 3, .data = std::string(20, '\0')})
                  .bytes()),
      "at byte 53: tensor 't' has rows of 16 values in Q4_1 blocks");
}

TEST(GgufMalformed, Offsets) {
  GgufBuilder::Tensor tensor{.name = "t", .dimensions = {1}, .data = "1234"};
  tensor.offset = kHuge;
  EXPECT_EQ(verdict(with_tensor(tensor).bytes()),
            "at byte 57: tensor 't' starts at 18446744073709551615 of the data");
  tensor.offset = 4;
  EXPECT_EQ(verdict(with_tensor(tensor).bytes()), "at byte 57: tensor 't' starts at 4 of the data");
  tensor.offset = kHuge - 31;
  EXPECT_EQ(
      verdict(with_tensor(tensor).bytes()),
      "at byte 57: tensor 't' of 4 bytes at 18446744073709551584 of the data goes past the end");
  tensor.offset = 32;
  EXPECT_EQ(verdict(with_tensor(tensor).bytes()),
            "at byte 57: tensor 't' of 4 bytes at 32 of the data goes past the end");
}

TEST(GgufMalformed, NotEnoughData) {
  EXPECT_EQ(verdict(with_tensor({.name = "t", .dimensions = {2}, .data = "1234567"}).bytes()),
            "at byte 57: tensor 't' of 8 bytes at 0 of the data goes past the end");
  // Nothing at all after the table, not even the padding.
  EXPECT_EQ(verdict(with_tensor({.name = "t", .dimensions = {2}, .data = ""}).bytes()),
            "at byte 57: tensor 't' of 8 bytes at 0 of the data goes past the end");
}

TEST(GgufMalformed, TensorsThatShareBytes) {
  GgufBuilder builder;
  builder.tensor({.name = "a", .dimensions = {16}, .data = std::string(64, '\0')});
  builder.tensor({.name = "b", .dimensions = {1}, .data = "1234", .offset = 32});
  EXPECT_EQ(verdict(builder.bytes()), "at byte 128: tensors 'a' and 'b' share bytes");
}

/// A file that never touches a disk, so that rewriting it thousands of times is quick.
class MemoryFile {
 public:
  MemoryFile() : fd_(memfd_create("gguf", 0)), path_("/proc/self/fd/" + std::to_string(fd_)) {}
  ~MemoryFile() { close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  void write(const std::string& bytes) const {
    ASSERT_EQ(ftruncate(fd_, static_cast<off_t>(bytes.size())), 0);
    ASSERT_EQ(pwrite(fd_, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  }
  const std::string& path() const { return path_; }

 private:
  int fd_;
  std::string path_;
};

/// A file with every metadata type and every readable block type.
std::string rich_file() {
  GgufBuilder builder;
  builder.string("general.architecture", "llama").uint32("general.alignment", 32);
  builder.entry("u8", 0, "a")
      .entry("i16", 3, "ab")
      .entry("f64", 12, raw(1.0))
      .entry("yes", 7, "\1");
  builder.entry("u64", 10, raw<std::uint64_t>(9)).float32("f32", 2.0F);
  builder.strings("tokens", {"a", "b", "ab", "", "\xC4\xA0the"})
      .array("types", 5, 3, std::string(12, '\1'));
  builder.array("scores", 6, 2, raw(1.0F) + raw(2.0F)).array("flags", 7, 2, std::string("\0\1", 2));
  builder.float32_tensor("f32", {2, 3}, {1, 2, 3, 4, 5, 6});
  builder.tensor({.name = "f16", .dimensions = {4}, .type = 1, .data = "abcdefgh"});
  builder.tensor({.name = "bf16", .dimensions = {3}, .type = 30, .data = "abcdef"});
  builder.tensor({.name = "q4_1", .dimensions = {32, 2}, .type = 3, .data = std::string(40, 'q')});
  builder.tensor({.name = "q8_0", .dimensions = {64}, .type = 8, .data = std::string(68, 'r')});
  return builder.bytes();
}

std::string mutate(std::string bytes, std::mt19937_64& random) {
  constexpr std::uint64_t kEdges[] = {0,          1,          2,          31,       32,
                                      0x7F,       0xFF,       65535,      1U << 31, 0xFFFFFFFF,
                                      1ULL << 32, 1ULL << 62, 1ULL << 63, kHuge};
  const auto below = [&](std::uint64_t limit) { return random() % limit; };
  for (std::uint64_t edits = 1 + below(4); edits > 0 && !bytes.empty(); --edits) {
    const std::uint64_t at = below(bytes.size());
    switch (below(6)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 1:
        bytes[at] = static_cast<char>(below(256));
        break;
      case 2: {
        const std::string edge =
            raw(kEdges[below(std::size(kEdges))]).substr(0, below(2) == 0 ? 4 : 8);
        bytes.replace(at, std::min(edge.size(), bytes.size() - at), edge);
        break;
      }
      case 3:
        bytes.resize(at);
        break;
      case 4:
        bytes.insert(at, bytes.substr(below(bytes.size()), below(64)));
        break;
      default:
        bytes.erase(at, below(32));
    }
  }
  return bytes;
}

TEST(GgufMutations, TwentyThousandDamagedFilesAreReadOrRefusedWithoutLargeAllocations) {
  const std::string good = rich_file();
  ASSERT_EQ(verdict(good), "accepted");
  const MemoryFile file;
  std::mt19937_64 random(20'240'611);
  int accepted = 0;
  // A hostile length must be refused before it becomes an allocation.
  testing::reset_largest_allocation();
  for (int i = 0; i < 20'000; ++i) {
    file.write(mutate(good, random));
    try {
      const GgufFile gguf(file.path());
      for (const auto& tensor : gguf.tensors()) {
        if (tensor.type == 0 || tensor.type == 1 || tensor.type == 3 || tensor.type == 8 ||
            tensor.type == 30) {
          ASSERT_EQ(gguf.read_float32(tensor).size(), tensor.elements);
        }
      }
      ++accepted;
    } catch (const DataError&) {
    }
  }
  // Most edits hit tensor data or names and are harmless; the rest must be noticed.
  EXPECT_GT(accepted, 1'000);
  EXPECT_LT(accepted, 15'000);
  EXPECT_LE(testing::largest_allocation(), 64U << 20);
}

}  // namespace
}  // namespace thresher
