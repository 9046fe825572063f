#include <gtest/gtest.h>

#include <limits>

#include "core/error.h"
#include "core/gguf.h"
#include "tests/core/gguf_builder.h"

namespace thresher {
namespace {

using testing::GgufBuilder;
using testing::raw;
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
  EXPECT_EQ(verdict(GgufBuilder().entry("general.alignment", 5, raw<std::int32_t>(13)).bytes()),
            "at byte 53: general.alignment is of type int32");
  auto with_data = with_tensor({.name = "t", .dimensions = {1}, .data = "1234"});
  EXPECT_EQ(verdict(with_data.uint32("general.alignment", 13).bytes()),
            "at byte 53: general.alignment = 13");
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
  const std::uint64_t big = 4 * 0x7FFFFFFFULL;
  EXPECT_EQ(verdict(with_tensor({.name = "t", .dimensions = {big, big}, .data = "1234"}).bytes()),
            "at byte 45: tensor 't' has a dimension of 8589934588");
  const std::uint64_t root = 1ULL << 31;
  EXPECT_EQ(
      verdict(
          with_tensor({.name = "t", .dimensions = {root, root}, .type = 27, .data = "12"}).bytes()),
      "at byte 53: tensor 't' has 4611686018427387904 blocks of 8 bytes");
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

TEST(GgufMalformed, OffsetsOfAnotherAlignmentThanTheFileSays) {
  GgufBuilder builder;  // packed without padding, as for an alignment of 1
  builder.tensor({.name = "a", .dimensions = {1}, .data = "1234"});
  builder.tensor({.name = "b", .dimensions = {1}, .data = "1234", .offset = 4});
  EXPECT_EQ(verdict(builder.bytes()), "at byte 90: tensor 'b' starts at 4 of the data");
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

}  // namespace
}  // namespace thresher
