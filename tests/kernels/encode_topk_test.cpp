#include "kernels/encode_topk.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "kernels/reference.h"
#include "tests/kernels/kernel_test.h"
#include "tests/kernels/step_backend.h"

namespace thresher::kernels {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
using Floats = std::vector<float>;
using Indices = std::vector<std::int32_t>;
using Mask = std::vector<std::uint8_t>;

/// Every backend with both types of operands.
struct Param {
  StepBackend* backend;
  OperandType type;
};
void PrintTo(const Param& param, std::ostream* stream) { *stream << param.backend->name(); }

class EncodeTopKTest : public testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    const std::string reason = GetParam().backend->reason_to_skip();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }

  EncodeOut run(EncodeCase encode) {
    encode.type = GetParam().type;
    return GetParam().backend->encode_topk(encode);
  }
};

/// z as given, one row: the inputs are 0, the biases are the pre-activations.
EncodeCase row_of(Floats z, std::int64_t k) {
  const auto n = static_cast<std::int64_t>(z.size());
  return {1, 1, n, OperandType::kFloat32, {0}, Floats(z.size(), 1.0f), std::move(z), k, {}, 0};
}

TEST_P(EncodeTopKTest, KeepsTheLargestFirstAndTheLowerIndexOfEqualOnes) {
  const EncodeOut out = run(row_of({1, 9, -4, 9, 7}, 3));
  EXPECT_EQ(out.main.values, (Floats{9, 9, 7}));
  EXPECT_EQ(out.main.indices, (Indices{1, 3, 4}));
  EXPECT_EQ(run(row_of(Floats(3000, 2.5f), 4)).main.indices, (Indices{0, 1, 2, 3}));
  EXPECT_EQ(run(row_of(Floats(3000, -1.0f), 2)).main.values, (Floats{-1, -1}));
}

TEST_P(EncodeTopKTest, FindsAscendingRowsWhoseListsAreCutAgainAndAgain) {
  Floats up(5000), down(5000);
  for (std::size_t i = 0; i < up.size(); ++i) {
    up[i] = static_cast<float>(i);
    down[i] = -static_cast<float>(i);
  }
  EXPECT_EQ(run(row_of(up, 3)).main.indices, (Indices{4999, 4998, 4997}));
  EXPECT_EQ(run(row_of(down, 3)).main.indices, (Indices{0, 1, 2}));
  Indices expected;
  for (std::int32_t i = 0; i < 700; ++i) expected.push_back(4999 - i);
  EXPECT_EQ(run(row_of(up, 700)).main.indices, expected);
}

TEST_P(EncodeTopKTest, TakesAllLatentsWhenKEqualsTheirNumber) {
  Draws draws(7);
  Floats z = draws.integers(1300);
  const auto n = static_cast<std::int64_t>(z.size());
  TopKOut expected{Floats(z.size()), Indices(z.size())};
  reference::topk(1, n, n, z.data(), nullptr, expected.values.data(), expected.indices.data());
  const EncodeOut out = run(row_of(z, n));
  EXPECT_EQ(out.main.indices, expected.indices);
  EXPECT_EQ(out.main.values, expected.values);
}

TEST_P(EncodeTopKTest, CountsNaNAndNeverSelectsIt) {
  Floats z(1500, 1.0f);
  z[3] = z[77] = z[1400] = kNaN;
  z[400] = kInfinity;
  const EncodeOut out = run(row_of(z, 3));
  EXPECT_EQ(out.main.indices, (Indices{400, 0, 1}));
  EXPECT_EQ(out.not_numbers, 3);
  const EncodeOut nothing = run(row_of({kNaN, -kInfinity, kNaN}, 3));
  EXPECT_EQ(nothing.main.values, (Floats{-kInfinity, 0, 0}));
  EXPECT_EQ(nothing.main.indices, (Indices{1, 0, 0}));
  EXPECT_EQ(nothing.not_numbers, 2);
}

TEST_P(EncodeTopKTest, CountsANaNOnceWithASecondSelection) {
  EncodeCase encode = row_of({5, kNaN, 7, 8}, 1);
  encode.mask = {1, 1, 0, 0};
  encode.masked_k = 1;
  const EncodeOut out = run(encode);
  EXPECT_EQ(out.not_numbers, 1);
  EXPECT_EQ(out.masked.values, Floats{5});
}

TEST_P(EncodeTopKTest, KeepsDenormalsAndInfinities) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(run(row_of({0, tiny, -tiny, 2 * tiny}, 3)).main.values, (Floats{2 * tiny, tiny, 0}));
  EXPECT_EQ(run(row_of({-kInfinity, 1, kInfinity, kInfinity}, 4)).main.indices,
            (Indices{2, 3, 1, 0}));
}

TEST_P(EncodeTopKTest, SelectsAmongMaskedLatentsToo) {
  EncodeCase encode = row_of({9, 8, 7, 6, 8}, 2);
  encode.mask = {0, 1, 0, 255, 1};
  encode.masked_k = 3;
  const EncodeOut out = run(encode);
  EXPECT_EQ(out.main.indices, (Indices{0, 1}));
  EXPECT_EQ(out.masked.indices, (Indices{1, 4, 3}));
  EXPECT_EQ(out.masked.values, (Floats{8, 8, 6}));
}

TEST_P(EncodeTopKTest, AcceptsNoRows) {
  EXPECT_TRUE(run({0, 3, 5, OperandType::kFloat32, {}, Floats(15), Floats(5), 2, {}, 0})
                  .main.indices.empty());
}

/// Integers, which bfloat16 holds too and whose sums are exact in any order.
EncodeCase integer_case(Draws& draws, std::int64_t rows, std::int64_t d, std::int64_t n) {
  return {rows,
          d,
          n,
          OperandType::kFloat32,
          draws.integers(rows * d),
          draws.integers(n * d),
          draws.integers(n),
          1,
          {},
          0};
}

Floats pre_acts(const EncodeCase& in) {
  Floats z;
  for (std::int64_t r = 0; r < in.rows; ++r) {
    for (std::int64_t j = 0; j < in.n_latents; ++j) {
      float sum = 0;
      for (std::int64_t p = 0; p < in.d; ++p) {
        sum = std::fma(in.x[static_cast<std::size_t>(r * in.d + p)],
                       in.W_enc[static_cast<std::size_t>(j * in.d + p)], sum);
      }
      z.push_back(sum + in.b_enc[static_cast<std::size_t>(j)]);
    }
  }
  return z;
}

void expect_selection(const EncodeCase& in, const EncodeOut& out) {
  const Floats z = pre_acts(in);
  const auto where = testing::Message() << in.rows << " x " << in.d << " x " << in.n_latents
                                        << ", k " << in.k << " and " << in.masked_k;
  for (const bool is_masked : {false, true}) {
    const std::int64_t k = is_masked ? in.masked_k : in.k;
    if (k == 0) continue;
    TopKOut expected{Floats(static_cast<std::size_t>(in.rows * k)), {}};
    expected.indices.resize(expected.values.size());
    reference::topk(in.rows, in.n_latents, k, z.data(), is_masked ? in.mask.data() : nullptr,
                    expected.values.data(), expected.indices.data());
    const TopKOut& found = is_masked ? out.masked : out.main;
    ASSERT_EQ(found.indices, expected.indices) << where;
    ASSERT_EQ(bits(found.values), bits(expected.values)) << where;
  }
  ASSERT_EQ(out.not_numbers, 0);
}

void open_some(Draws& draws, EncodeCase& in) {
  const std::int64_t odds = draws.integer(0, 9);
  in.mask.assign(static_cast<std::size_t>(in.n_latents), 0);
  for (auto& open : in.mask) open = draws.integer(0, odds) == 0 ? 1 : 0;
  const std::int64_t n_open = std::count(in.mask.begin(), in.mask.end(), 1);
  if (n_open == 0) in.mask.clear();
  in.masked_k = n_open > 0 ? draws.integer(1, n_open) : 0;
}

TEST_P(EncodeTopKTest, EqualsTheReferenceOnRandomShapes) {
  Draws draws(2025);
  for (int trial = 0; trial < 220; ++trial) {
    const std::int64_t rows = draws.size(0, 140), d = draws.size(1, 130), n = draws.size(1, 600);
    EncodeCase in = integer_case(draws, rows, d, n);
    in.k = draws.integer(0, 7) == 0 ? n : std::min(n, draws.size(1, 140));
    if (trial % 2 == 0) open_some(draws, in);
    expect_selection(in, run(in));
    if (HasFatalFailure()) return;
  }
}

TEST_P(EncodeTopKTest, EqualsTheReferenceOnRandomLongRows) {
  Draws draws(2026);
  for (int trial = 0; trial < 6; ++trial) {
    const std::int64_t n = draws.integer(3000, 9000);
    EncodeCase in = integer_case(draws, draws.integer(1, 4), 3, n);
    in.k = draws.integer(1, 40);
    if (trial % 2 == 0) open_some(draws, in);
    if (trial == 4) std::sort(in.b_enc.begin(), in.b_enc.end());
    expect_selection(in, run(in));
    if (HasFatalFailure()) return;
  }
}

TEST_P(EncodeTopKTest, AgreesWithTheCpuOnRealValuesWithinRounding) {
  Draws draws(31);
  const bool is_float32 = GetParam().type == OperandType::kFloat32;
  const auto operands = [&](std::int64_t count) {
    Floats values = draws.reals(count);
    for (float& value : values) {
      if (is_float32) break;
      value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) & 0xffff0000U);
    }
    return values;
  };
  const EncodeCase in{
      37, 200, 515, GetParam().type, operands(37 * 200), operands(515 * 200), draws.reals(515),
      20, {},  0};
  const EncodeOut out = run(in), expected = cpu_step_backend()->encode_topk(in);
  for (std::size_t i = 0; i < out.main.values.size(); ++i) {
    EXPECT_NEAR(out.main.values[i], expected.main.values[i], 1e-4);
  }
}

TEST(EncodeTopK, RefusesAKThatCannotBe) {
  const EncodeCase in = row_of({1, 2, 3}, 4);
  try {
    cpu_step_backend()->encode_topk(in);
    FAIL() << "expected InternalError";
  } catch (const InternalError& error) {
    EXPECT_EQ(error.first_line(), "encode_topk: k = 4, expected 1 <= k <= n_latents = 3");
  }
}

std::vector<Param> params() {
  std::vector<Param> out;
  for (StepBackend* backend : step_backends_under_test()) {
    out.push_back({backend, OperandType::kFloat32});
    out.push_back({backend, OperandType::kBFloat16});
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(On, EncodeTopKTest, testing::ValuesIn(params()), [](const auto& test) {
  return test.param.backend->name() +
         (test.param.type == OperandType::kFloat32 ? "Float32" : "BFloat16");
});

}  // namespace
}  // namespace thresher::kernels
