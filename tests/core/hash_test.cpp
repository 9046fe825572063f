#include "core/hash.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "core/crc32c.h"
#include "core/files.h"
#include "tests/core/scratch_folder.h"

namespace thresher {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::vector<std::byte> random_bytes(std::size_t count) {
  std::mt19937 random(3);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// The vectors of RFC 3720, B.4.
TEST(Crc32cTest, GivesThePublishedValues) {
  std::vector<std::byte> ascending(32);
  std::vector<std::byte> descending(32);
  for (std::size_t i = 0; i < 32; ++i) {
    ascending[i] = static_cast<std::byte>(i);
    descending[i] = static_cast<std::byte>(31 - i);
  }
  for (const auto function : {crc32c, detail::crc32c_by_table}) {
    EXPECT_EQ(function(bytes_of("123456789"), 0), 0xE3069283U);
    EXPECT_EQ(function(bytes_of(std::string(32, '\0')), 0), 0x8A9136AAU);
    EXPECT_EQ(function(bytes_of(std::string(32, '\xFF')), 0), 0x62A8AB43U);
    EXPECT_EQ(function(ascending, 0), 0x46DD794EU);
    EXPECT_EQ(function(descending, 0), 0x113FDB5CU);
    EXPECT_EQ(function({}, 0), 0U);
  }
}

TEST(Crc32cTest, TableAndInstructionAgreeAtEveryLengthAndAlignment) {
  if (!detail::has_crc32c_instruction()) GTEST_SKIP() << "this processor has no SSE4.2";
  const auto bytes = random_bytes(300);
  for (std::size_t start = 0; start < 9; ++start) {
    for (std::size_t length = 0; start + length <= bytes.size(); ++length) {
      const auto piece = std::span(bytes).subspan(start, length);
      ASSERT_EQ(detail::crc32c_by_table(piece, 0xDEADBEEF),
                detail::crc32c_by_instruction(piece, 0xDEADBEEF));
    }
  }
}

TEST(Crc32cTest, ContinuesFromItsOwnResult) {
  const auto bytes = random_bytes(1000);
  const std::span whole(bytes);
  for (const std::size_t cut : {0, 1, 7, 8, 500, 999, 1000}) {
    EXPECT_EQ(crc32c(whole.subspan(cut), crc32c(whole.first(cut))), crc32c(whole));
  }
}

TEST(Sha256Test, GivesThePublishedValues) {
  EXPECT_EQ(sha256_hex(std::string_view()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256Test, PiecesAndFilesGiveTheSameAsTheWhole) {
  const auto bytes = random_bytes((1U << 21U) + 17);
  Sha256 hash;
  hash.update(std::span(bytes).first(5));
  hash.update({});
  hash.update(std::span(bytes).subspan(5));
  const std::string whole = sha256_hex(std::span<const std::byte>(bytes));
  EXPECT_EQ(hash.hex(), whole);
  const testing::ScratchFolder folder;
  write_file_atomically(folder / "a", bytes);
  EXPECT_EQ(sha256_file(folder / "a"), whole);
}

TEST(Xxh3Test, GivesThePublishedValueOfTheEmptyText) {
  EXPECT_EQ(xxh3_64(std::string_view()), 0x2D06800538D394C2ULL);
}

TEST(Xxh3Test, DependsOnTheSeed) { EXPECT_NE(xxh3_64("purpose", 1), xxh3_64("purpose", 2)); }

}  // namespace
}  // namespace thresher
