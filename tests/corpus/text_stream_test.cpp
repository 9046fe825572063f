#include "corpus/text_stream.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "core/error.h"
#include "core/random.h"
#include "tests/core/scratch_folder.h"
#include "tests/corpus/packed_text.h"

namespace thresher::corpus {
namespace {

using testing::gzip;
using testing::ScratchFolder;
using testing::zstd;

class TextStreamTest : public ::testing::Test {
 protected:
  std::string read(const std::string& bytes, std::size_t piece = 1000, double expansion = 200) {
    std::filesystem::remove(folder_ / "text");  // file systems flush a file that is emptied
    std::ofstream(folder_ / "text", std::ios::binary) << bytes;
    TextStream stream(folder_ / "text", expansion);
    std::string text, buffer(piece, '\0');
    while (const std::size_t size = stream.read(buffer)) {
      text.append(buffer, 0, size);
      if (size < piece) {
        EXPECT_EQ(stream.read(buffer), 0U);
        break;
      }
    }
    return text;
  }
  std::string message_of(const std::string& bytes, double expansion = 200) {
    const std::string line =
        testing::first_line_of<DataError>([&] { read(bytes, 100'000, expansion); });
    const std::string prefix = (folder_ / "text").string() + ": ";
    return line.starts_with(prefix) ? line.substr(prefix.size()) : line;
  }

  ScratchFolder folder_;
};

/// Text that packs to a third or so, longer than any buffer.
std::string long_text() {
  const RandomStream random(1, "long text");
  std::string text;
  for (std::uint64_t i = 0; i < 200'000; ++i) text += std::to_string(random.below(i, 1000)) + " ";
  return text;
}

TEST_F(TextStreamTest, ReadsPlainAndPackedTextAlike) {
  const std::string text = long_text();
  for (const std::size_t piece : {7U, 1000U, 256U * 1024U}) {
    EXPECT_TRUE(read(text, piece) == text) << piece;
    EXPECT_TRUE(read(gzip(text), piece) == text) << piece;
    EXPECT_TRUE(read(zstd(text), piece) == text) << piece;
  }
  EXPECT_EQ(read(""), "");
  EXPECT_EQ(read(gzip("")), "");
  EXPECT_EQ(read(zstd("")), "");
  EXPECT_EQ(read("\x1F"), "\x1F");
}

TEST_F(TextStreamTest, ReadsMembersAndFramesAsOneText) {
  const std::string text = long_text();
  EXPECT_TRUE(read(gzip(text) + gzip("") + gzip("more"), 999) == text + "more");
  EXPECT_TRUE(read(zstd(text) + zstd("") + zstd("more"), 999) == text + "more");
  EXPECT_EQ(read(gzip("text") + std::string(1000, '\0')), "text");
}

TEST_F(TextStreamTest, SaysWhereDataAreDamaged) {
  const std::string text = long_text();
  const std::string gz = gzip(text), zst = zstd(text);
  EXPECT_EQ(message_of(gz.substr(0, 300'000)), "the file ends at byte 300000 within its gzip data");
  EXPECT_EQ(message_of(gz.substr(0, gz.size() - 1)),
            "the file ends at byte " + std::to_string(gz.size() - 1) + " within its gzip data");
  EXPECT_EQ(message_of(gz.substr(0, 5)), "the file ends at byte 5 within its gzip data");
  EXPECT_EQ(message_of(zst.substr(0, 200'000)),
            "the file ends at byte 200000 within its zstd data");
  EXPECT_EQ(message_of(zst.substr(0, 6)), "the file ends at byte 6 within its zstd data");
  std::string bad = gz;
  bad[bad.size() - 6] ^= 1;  // of the checksum
  EXPECT_EQ(message_of(bad), "gzip data damaged at byte " + std::to_string(gz.size() - 4) +
                                 ": incorrect data check");
  EXPECT_EQ(message_of(gzip("text") + "rest"),
            "gzip data damaged at byte 26: incorrect header check");
  EXPECT_EQ(message_of(zstd("text") + "more than that"),
            "zstd data damaged at byte 13: Unknown frame descriptor");
}

TEST_F(TextStreamTest, StopsDataThatExpandTooMuch) {
  const std::string zeros(40U << 20, '\0');
  for (const std::string& bomb : {gzip(zeros), zstd(zeros)}) {
    const std::string line = message_of(bomb);
    EXPECT_NE(line.find(" bytes unpack to more than 200 times as many"), std::string::npos) << line;
    EXPECT_EQ(read(bomb, 1U << 20, 1e6).size(), zeros.size());
  }
  // Little text may be as dull as it likes.
  EXPECT_EQ(read(gzip(std::string(1U << 20, 'a')), 1U << 16).size(), 1U << 20);
}

TEST_F(TextStreamTest, SurvivesDamageAnywhere) {
  const std::string text = long_text().substr(0, 5000);
  const RandomStream random(2, "damage");
  int n_refused = 0;
  for (const std::string& good : {gzip(text), zstd(text)}) {
    for (std::uint64_t i = 0; i < 500; ++i) {
      std::string bad = good;
      bad[random.below(3 * i, bad.size())] ^= static_cast<char>(1U << random.below(3 * i + 1, 8));
      if (i % 4 == 0) bad.resize(random.below(3 * i + 2, bad.size()));
      try {
        EXPECT_LE(read(bad).size(), 17U << 20);
      } catch (const DataError&) {
        ++n_refused;
      }
    }
  }
  EXPECT_GT(n_refused, 700);
}

}  // namespace
}  // namespace thresher::corpus
