#include "core/gguf.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "tests/core/gguf_builder.h"

namespace thresher {
namespace {

using testing::GgufBuilder;
using testing::raw;
using testing::raw_string;
using testing::TemporaryFile;

std::vector<float> dequantise(GgufType type, const std::string& bytes, std::size_t elements) {
  std::vector<float> out(elements);
  gguf_dequantise(type, std::as_bytes(std::span(bytes)), out);
  return out;
}

/// The message without the file's name, first line only.
std::string message_of(const TemporaryFile& file, const std::function<void(const GgufFile&)>& use) {
  try {
    use(GgufFile(file.path()));
  } catch (const DataError& error) {
    const std::string line = error.first_line();
    const std::string name = file.path().string() + ": ";
    EXPECT_EQ(line.substr(0, name.size()), name);
    return line.substr(name.size());
  }
  return "no error";
}

TEST(GgufDequantise, TurnsQ4_1IntoScaleTimesNibblePlusOffset) {
  // scale 0.5 (0x3800), offset -1 (0xBC00); byte i holds values i (low nibble) and i + 16 (high
  // nibble).
  std::string block = raw<std::uint16_t>(0x3800) + raw<std::uint16_t>(0xBC00);
  for (int i = 0; i < 16; ++i) block += static_cast<char>(i | (15 - i) << 4);
  const auto values = dequantise(GgufType::kQ4_1, block, 32);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(values[i], 0.5F * static_cast<float>(i) - 1.0F);
    EXPECT_EQ(values[i + 16], 0.5F * static_cast<float>(15 - i) - 1.0F);
  }
}

TEST(GgufDequantise, TurnsQ8_0IntoSignedByteTimesScale) {
  std::string block = raw<std::uint16_t>(0x3C00 + 0x0400);  // scale 2
  for (int i = 0; i < 32; ++i) block += static_cast<char>(i * 8 - 128);
  const auto values = dequantise(GgufType::kQ8_0, block, 32);
  EXPECT_EQ(values[0], -256.0F);
  EXPECT_EQ(values[16], 0.0F);
  EXPECT_EQ(values[31], 240.0F);
}

TEST(GgufDequantise, TurnsQ4_0IntoScaleTimesNibbleLessEight) {
  std::string block = raw<std::uint16_t>(0x3800);  // scale 0.5
  for (int i = 0; i < 16; ++i) block += static_cast<char>(i | (15 - i) << 4);
  const auto values = dequantise(GgufType::kQ4_0, block, 32);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(values[i], 0.5F * static_cast<float>(i - 8));
    EXPECT_EQ(values[i + 16], 0.5F * static_cast<float>(7 - i));
  }
}

TEST(GgufDequantise, TakesTheFifthBitsOfQ5FromAWord) {
  // Bits 1 and 31 are set: values 1 and 31 gain 16.
  const std::string bits = raw<std::uint32_t>(0x80000002U);
  const std::string zeros(16, '\0');
  const auto centred = dequantise(GgufType::kQ5_0, raw<std::uint16_t>(0x3C00) + bits + zeros, 32);
  EXPECT_EQ(centred[0], -16.0F);
  EXPECT_EQ(centred[1], 0.0F);
  EXPECT_EQ(centred[30], -16.0F);
  EXPECT_EQ(centred[31], 0.0F);
  const std::string header = raw<std::uint16_t>(0x3C00) + raw<std::uint16_t>(0xBC00);
  const auto offset = dequantise(GgufType::kQ5_1, header + bits + zeros, 32);
  EXPECT_EQ(offset[0], -1.0F);
  EXPECT_EQ(offset[1], 15.0F);
  EXPECT_EQ(offset[31], 15.0F);
}

TEST(GgufDequantise, UnpacksTheSixBitScalesOfQ4_K) {
  // Scale 1, offset 1; every quant is 1. Group 0: scale 5, offset 9; group 4: scale 0x2C, offset
  // 0x13.
  std::string packed(12, '\0');
  packed[0] = static_cast<char>(5 | 0x20 << 2);  // group 4's high bits of the scale on top
  packed[4] = static_cast<char>(9 | 0x10 << 2);
  packed[8] = static_cast<char>(0xC | 0x3 << 4);
  const std::string block =
      raw<std::uint16_t>(0x3C00) + raw<std::uint16_t>(0x3C00) + packed + std::string(128, '\x11');
  const auto values = dequantise(GgufType::kQ4_K, block, 256);
  EXPECT_EQ(values[0], 5.0F - 9.0F);
  EXPECT_EQ(values[32], 0.0F);
  EXPECT_EQ(values[128], static_cast<float>(0x2C - 0x13));
}

TEST(GgufDequantise, ReadsHalvesOfEveryKind) {
  const std::array<std::uint16_t, 7> halves = {0x0000, 0x8000, 0x0001, 0x83FF,
                                               0x7BFF, 0xFC00, 0x3555};
  std::string bytes;
  for (const auto half : halves) bytes += raw(half);
  const auto values = dequantise(GgufType::kF16, bytes, halves.size());
  EXPECT_EQ(values[0], 0.0F);
  EXPECT_TRUE(std::signbit(values[1]));
  EXPECT_EQ(values[2], 0x1p-24F);
  EXPECT_EQ(values[3], -1023 * 0x1p-24F);
  EXPECT_EQ(values[4], 65504.0F);
  EXPECT_EQ(values[5], -std::numeric_limits<float>::infinity());
  EXPECT_EQ(values[6], 0.333251953125F);
}

TEST(GgufDequantise, ReadsBfloat16AsTheUpperHalfOfAFloat) {
  EXPECT_EQ(dequantise(GgufType::kBF16, raw<std::uint16_t>(0xC0A0), 1), std::vector<float>{-5.0F});
}

TEST(GgufDequantise, TreatsAWrongByteCountAsABug) {
  EXPECT_THROW(dequantise(GgufType::kQ8_0, std::string(33, '\0'), 32), InternalError);
  EXPECT_THROW(dequantise(GgufType::kQ8_0, std::string(34, '\0'), 31), InternalError);
}

TEST(GgufFile, ReadsEveryScalarTypeOfMetadata) {
  GgufBuilder builder;
  builder.entry("u8", 0, raw<std::uint8_t>(200)).entry("i8", 1, raw<std::int8_t>(-3));
  builder.entry("u16", 2, raw<std::uint16_t>(60000)).entry("i16", 3, raw<std::int16_t>(-300));
  builder.uint32("u32", 4'000'000'000U).entry("i32", 5, raw<std::int32_t>(-70000));
  builder.float32("f32", 0.25F)
      .entry("bool", 7, raw<std::uint8_t>(1))
      .string("text", "caf\xC3\xA9");
  builder.entry("u64", 10, raw<std::uint64_t>(1)).entry("i64", 11, raw<std::int64_t>(-1));
  builder.entry("f64", 12, raw(1e300));
  const TemporaryFile file(builder.bytes());
  const GgufFile gguf(file.path());
  EXPECT_EQ(gguf.integer("u8"), 200);
  EXPECT_EQ(gguf.integer("i8"), -3);
  EXPECT_EQ(gguf.integer("u16"), 60000);
  EXPECT_EQ(gguf.integer("i16"), -300);
  EXPECT_EQ(gguf.integer("u32"), 4'000'000'000);
  EXPECT_EQ(gguf.integer("i32"), -70000);
  EXPECT_EQ(gguf.number("f32"), 0.25);
  EXPECT_TRUE(gguf.boolean("bool"));
  EXPECT_EQ(gguf.string("text"), "caf\xC3\xA9");
  EXPECT_EQ(gguf.integer("u64"), 1);
  EXPECT_EQ(gguf.integer("i64"), -1);
  EXPECT_EQ(gguf.number("f64"), 1e300);
  EXPECT_TRUE(gguf.has("i64"));
  EXPECT_FALSE(gguf.has("i6"));
  EXPECT_EQ(gguf.keys(), (std::vector<std::string>{"bool", "f32", "f64", "i16", "i32", "i64", "i8",
                                                   "text", "u16", "u32", "u64", "u8"}));
}

TEST(GgufFile, ReadsArrays) {
  GgufBuilder builder;
  builder.strings("strings", {"a", "", "b\n"});
  builder.array("integers", 5, 2, raw<std::int32_t>(-1) + raw<std::int32_t>(7));
  builder.array("floats", 6, 1, raw(1.5F));
  builder.array("bools", 7, 2, std::string("\1\0", 2));
  builder.array("doubles", 12, 1, raw(1.0));
  builder.array("empty", 8, 0, "");
  const TemporaryFile file(builder.bytes());
  const GgufFile gguf(file.path());
  EXPECT_EQ(gguf.strings("strings"), (std::vector<std::string>{"a", "", "b\n"}));
  EXPECT_EQ(gguf.integers("integers"), (std::vector<std::int64_t>{-1, 7}));
  EXPECT_EQ(gguf.floats("floats"), std::vector<float>{1.5F});
  EXPECT_TRUE(gguf.strings("empty").empty());
}

TEST(GgufFile, ReadsTensorsByNameInPyTorchOrder) {
  GgufBuilder builder;
  builder.float32_tensor("b", {2, 3}, {1, 2, 3, 4, 5, 6});
  builder.tensor(
      {.name = "a", .dimensions = {2}, .type = 30, .data = raw<std::uint32_t>(0x40403F80)});
  const TemporaryFile file(builder.bytes());
  const GgufFile gguf(file.path());
  ASSERT_EQ(gguf.tensors().size(), 2U);
  EXPECT_EQ(gguf.tensors()[0].name, "b");
  EXPECT_EQ(gguf.at("b").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(gguf.at("b").elements, 6U);
  EXPECT_EQ(gguf.at("b").bytes, 24U);
  EXPECT_EQ(gguf.at("b").offset % 32, 0U);
  EXPECT_EQ(gguf.read_float32(gguf.at("b")), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(gguf.read_float32(gguf.at("a")), (std::vector<float>{1, 3}));
  EXPECT_EQ(gguf.find("c"), nullptr);
}

TEST(GgufFile, ReadsTensorsLongerThanOnePieceAndHeadsLongerThanTheFirstRead) {
  const std::size_t n = 32'768 * 2 + 5;
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = static_cast<float>(i);
  GgufBuilder builder;
  builder.string("long", std::string(9 << 20, 'x'));
  builder.float32_tensor("t", {static_cast<std::int64_t>(n)}, values);
  const TemporaryFile file(builder.bytes());
  const GgufFile gguf(file.path());
  EXPECT_EQ(gguf.string("long").size(), 9U << 20);
  EXPECT_EQ(gguf.read_float32(gguf.at("t")), values);
}

TEST(GgufFile, HonoursAnotherAlignment) {
  GgufBuilder builder;
  builder.alignment = 4096;
  builder.uint32("general.alignment", 4096)
      .float32_tensor("t", {1}, {7})
      .float32_tensor("u", {1}, {8});
  const TemporaryFile file(builder.bytes());
  const GgufFile gguf(file.path());
  EXPECT_EQ(gguf.at("u").offset, 8192U);
  EXPECT_EQ(gguf.read_float32(gguf.at("u")), std::vector<float>{8});
}

TEST(GgufFile, ReadsVersion2AndAFileWithNothingInIt) {
  GgufBuilder builder;
  builder.version = 2;
  const TemporaryFile file(builder.bytes());
  EXPECT_TRUE(GgufFile(file.path()).tensors().empty());
}

TEST(GgufFile, ChecksTheStoredTypeAtEveryAccess) {
  GgufBuilder builder;
  builder.uint32("n", 1)
      .float32("x", 1.0F)
      .strings("names", {"a"})
      .entry("huge", 10, raw(~std::uint64_t{0}));
  builder.array("bools", 7, 1, std::string("\1", 1));
  const TemporaryFile file(builder.bytes());
  EXPECT_EQ(message_of(file, [](const auto& f) { f.number("n"); }),
            "at byte 37: metadata 'n' is of type uint32");
  EXPECT_EQ(message_of(file, [](const auto& f) { f.integer("x"); }),
            "at byte 54: metadata 'x' is of type float32");
  EXPECT_EQ(message_of(file, [](const auto& f) { f.boolean("n"); }),
            "at byte 37: metadata 'n' is of type uint32");
  EXPECT_EQ(message_of(file, [](const auto& f) { f.string("names"); }),
            "at byte 75: metadata 'names' is of type array of string");
  EXPECT_EQ(message_of(file, [](const auto& f) { f.floats("names"); }),
            "at byte 75: metadata 'names' is of type array of string");
  EXPECT_EQ(message_of(file, [](const auto& f) { f.integers("bools"); }),
            "at byte 137: metadata 'bools' is of type array of bool");
  EXPECT_EQ(message_of(file, [](const auto& f) { f.integer("huge"); }),
            "at byte 112: metadata 'huge' = 18446744073709551615");
}

TEST(GgufFile, NamesWhatIsMissing) {
  const TemporaryFile file(GgufBuilder().bytes());
  EXPECT_EQ(message_of(file, [](const auto& f) { f.integer("llama.block_count"); }),
            "metadata 'llama.block_count' is missing");
  EXPECT_EQ(message_of(file, [](const auto& f) { f.at("output.weight"); }),
            "tensor 'output.weight' is missing");
  EXPECT_THROW(GgufFile("/no/such/file.gguf"), IoError);
}

TEST(GgufFile, NamesBlockTypesThatItCannotTurnIntoFloats) {
  GgufBuilder builder;
  builder.tensor({.name = "w", .dimensions = {256}, .type = 23, .data = std::string(136, '\0')});
  const TemporaryFile file(builder.bytes());
  EXPECT_EQ(message_of(file, [](const auto& f) { f.read_float32(f.at("w")); }),
            "tensor 'w' is stored as IQ4_XS");
}

}  // namespace
}  // namespace thresher
