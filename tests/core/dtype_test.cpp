#include "core/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/error.h"
#include "tests/core/scratch_folder.h"

namespace thresher {
namespace {

using testing::first_line_of;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(DtypeTest, NamesGoThereAndBack) {
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat16, Dtype::kBfloat16}) {
    EXPECT_EQ(parse_dtype(dtype_name(dtype)), dtype);
  }
  EXPECT_EQ(dtype_bytes(Dtype::kFloat32), 4U);
  EXPECT_EQ(dtype_bytes(Dtype::kBfloat16), 2U);
  EXPECT_EQ(first_line_of<ConfigError>([] { parse_dtype("fp8"); }), "dtype \"fp8\" is not known");
}

TEST(Bfloat16Test, RoundsToNearestEven) {
  EXPECT_EQ(float_to_bfloat16(1.0F), 0x3F80);
  EXPECT_EQ(float_to_bfloat16(-2.5F), 0xC020);
  EXPECT_EQ(float_to_bfloat16(std::bit_cast<float>(0x3F808000U)), 0x3F80);  // a tie, down to even
  EXPECT_EQ(float_to_bfloat16(std::bit_cast<float>(0x3F818000U)), 0x3F82);  // a tie, up to even
  EXPECT_EQ(float_to_bfloat16(std::bit_cast<float>(0x3F808001U)), 0x3F81);
  EXPECT_EQ(float_to_bfloat16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_EQ(float_to_bfloat16(-kInfinity), 0xFF80);
  EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(std::nanf("")))));
  EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(std::bit_cast<float>(0x7F800001U)))));
}

TEST(Bfloat16Test, EveryBitPatternSurvives) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = bfloat16_to_float(static_cast<std::uint16_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(float_to_bfloat16(value), bits);
  }
}

TEST(Float16Test, RoundsToNearestEven) {
  EXPECT_EQ(float_to_float16(1.0F), 0x3C00);
  EXPECT_EQ(float_to_float16(-0.0F), 0x8000);
  EXPECT_EQ(float_to_float16(1.0F + 0x1p-11F), 0x3C00);  // a tie, down to even
  EXPECT_EQ(float_to_float16(1.0F + 3 * 0x1p-11F), 0x3C02);
  EXPECT_EQ(float_to_float16(65504.0F), 0x7BFF);
  EXPECT_EQ(float_to_float16(65519.9F), 0x7BFF);
  EXPECT_EQ(float_to_float16(65520.0F), 0x7C00);  // overflow is infinity
  EXPECT_EQ(float_to_float16(0x1p-24F), 0x0001);
  EXPECT_EQ(float_to_float16(0x1p-25F), 0x0000);  // a tie, down to even
  EXPECT_EQ(float_to_float16(0x1.8p-24F), 0x0002);
  EXPECT_EQ(float_to_float16(0x1.ffcp-15F), 0x0400);  // rounds up out of the subnormals
  EXPECT_EQ(float_to_float16(std::bit_cast<float>(0x7F800001U)), 0x7E00);
}

TEST(Float16Test, EveryBitPatternSurvives) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = float16_to_float(static_cast<std::uint16_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(float_to_float16(value), bits);
  }
}

// Rows go through wide instructions where there are some; single values never do.
TEST(EncodeValuesTest, RowsHaveTheBitsOfSingleValues) {
  std::mt19937 random(5);
  std::vector<float> values;
  for (int i = 0; i < 200'003; ++i) {
    auto bits = static_cast<std::uint32_t>(random());
    if (i % 2 == 0) bits = (bits & 0x8FFFFFFFU) | 0x30000000U;  // more of float16's own range
    values.push_back(std::bit_cast<float>(bits));
  }
  for (const Dtype dtype : {Dtype::kFloat16, Dtype::kBfloat16}) {
    const bool is_half = dtype == Dtype::kFloat16;
    std::vector<std::uint16_t> row(values.size());
    encode_values(dtype, values, std::as_writable_bytes(std::span(row)));
    std::vector<float> back(values.size());
    decode_values(dtype, std::as_bytes(std::span(row)), back);
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(row[i], is_half ? float_to_float16(values[i]) : float_to_bfloat16(values[i])) << i;
      const float single = is_half ? float16_to_float(row[i]) : bfloat16_to_float(row[i]);
      ASSERT_EQ(std::bit_cast<std::uint32_t>(back[i]), std::bit_cast<std::uint32_t>(single)) << i;
    }
  }
}

TEST(EncodeValuesTest, Float32IsCopied) {
  const std::vector<float> values{1.5F, -2.0F, kInfinity};
  std::vector<std::byte> bytes(12);
  encode_values(Dtype::kFloat32, values, bytes);
  std::vector<float> back(3);
  decode_values(Dtype::kFloat32, bytes, back);
  EXPECT_EQ(back, values);
  EXPECT_THROW(encode_values(Dtype::kFloat16, values, bytes), InternalError);
}

}  // namespace
}  // namespace thresher
