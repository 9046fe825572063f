#include "kernels/dense_aux_k.h"

#include <limits>

#include "kernels/detail/relu_topk.h"
#include "kernels/parallel.h"
#include "kernels/reference.h"
#include "tests/kernels/kernel_test.h"

namespace thresher::kernels {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
using Floats = std::vector<float>;
using Indices = std::vector<std::int32_t>;

Floats relu_topk(Floats row, std::int64_t k) {
  detail::relu_topk(static_cast<std::int64_t>(row.size()), k, row.data());
  return row;
}

TEST(ReluTopKTest, KeepsTheLargestPositiveOnesInTheirPlaces) {
  EXPECT_EQ(relu_topk({1, 9, -4, 5, 7}, 3), (Floats{0, 9, 0, 5, 7}));
  EXPECT_EQ(relu_topk({-1, 3, -2, 0}, 3), (Floats{0, 3, 0, 0}));
  EXPECT_EQ(relu_topk({-1, -3}, 1), (Floats{0, 0}));
}

TEST(ReluTopKTest, KeepsTheEarlierOfEqualOnes) {
  EXPECT_EQ(relu_topk({2, 7, 2, 2, 7}, 3), (Floats{2, 7, 0, 0, 7}));
  EXPECT_EQ(relu_topk({2, 2, 2, 2}, 1), (Floats{2, 0, 0, 0}));
}

TEST(ReluTopKTest, DropsNaNAndKeepsInfinityAndDenormals) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(relu_topk({kNaN, 1, kInfinity, -kInfinity, -kNaN}, 1), (Floats{0, 0, kInfinity, 0, 0}));
  EXPECT_EQ(relu_topk({kNaN, kNaN}, 1), (Floats{0, 0}));
  EXPECT_EQ(relu_topk({tiny, 2 * tiny, -tiny}, 1), (Floats{0, 2 * tiny, 0}));
  EXPECT_EQ(relu_topk({kInfinity, kInfinity, 3}, 1), (Floats{kInfinity, 0, 0}));
}

TEST(ReluTopKTest, EqualsTheReferenceOnRandomRows) {
  Draws draws(31);
  for (int trial = 0; trial < 400; ++trial) {
    const std::int64_t cols = draws.size(1, 700), k = draws.integer(1, cols);
    const Floats row = trial % 2 == 0 ? draws.reals(cols) : draws.integers(cols);
    Floats values(static_cast<std::size_t>(k)), expected(row.size(), 0.0f);
    Indices indices(values.size());
    reference::topk(1, cols, k, row.data(), nullptr, values.data(), indices.data());
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (values[i] > 0) expected[static_cast<std::size_t>(indices[i])] = values[i];
    }
    ASSERT_EQ(bits(relu_topk(row, k)), bits(expected)) << cols << " columns, k " << k;
  }
}

/// Dead latents of an SAE, and lanes with main pairs of some of them.
struct Case {
  std::int64_t d, n_latents, k;
  Indices dead;
  float factor;
  Floats W_enc, b_enc, W_dec;
  std::vector<Lane> lanes;

  AuxKProblem problem() const {
    return {d, k, dead, W_enc.data(), b_enc.data(), W_dec.data(), factor};
  }
};

Case random_case(Draws& draws, std::int64_t n_lanes, std::int64_t largest, bool integers) {
  // -1, 0 or 1: the sums of all these products are exact in float.
  const auto draw = [&](std::int64_t count) {
    Floats out = integers ? draws.integers(count) : draws.reals(count);
    if (!integers) return out;
    for (float& value : out) value = static_cast<float>(static_cast<int>(value) % 2);
    return out;
  };
  Case out;
  out.d = draws.size(1, largest);
  out.n_latents = draws.size(1, 2 * largest);
  const std::int64_t odds = draws.integer(0, 4);
  for (std::int32_t i = 0; i < out.n_latents; ++i) {
    if (draws.integer(0, odds) == 0) out.dead.push_back(i);
  }
  if (out.dead.empty()) out.dead.push_back(0);
  out.k = draws.integer(1, static_cast<std::int64_t>(out.dead.size()) + 2);
  out.factor = integers ? -0.25f : -0.3f;
  out.W_enc = draw(out.n_latents * out.d);
  out.b_enc = draw(out.n_latents);
  out.W_dec = draw(out.n_latents * out.d);
  for (std::int64_t l = 0; l < n_lanes; ++l) {
    Lane lane;
    const std::int64_t rows = draws.size(0, 40);
    lane.row_offsets = draws.row_offsets(rows, 5);
    lane.indices = draws.latents(lane.row_offsets.back(), out.n_latents);
    lane.values = draw(lane.row_offsets.back());
    lane.grad_values = draw(lane.row_offsets.back());
    lane.residuals = draw(rows * out.d);
    lane.inputs = draw(rows * out.d);
    lane.n_inputs = rows;
    out.lanes.push_back(std::move(lane));
  }
  return out;
}

struct Outcome {
  Gradients gradients;
  std::vector<double> squares;
  std::vector<std::vector<std::uint32_t>> all_bits() const {
    return {bits(gradients.W_dec), bits(gradients.W_enc), bits(gradients.b_enc)};
  }
};

Outcome run(const Case& problem, CpuIsa isa, std::size_t first_lane, std::size_t n_lanes,
            std::int64_t group_bytes = DenseAuxK::kGroupBytes) {
  std::vector<SortedLane> sorted;
  std::vector<LatentPairs> lanes;
  for (std::size_t l = first_lane; l < first_lane + n_lanes; ++l) {
    sorted.emplace_back(problem.lanes[l], problem.n_latents);
  }
  for (std::size_t l = 0; l < n_lanes; ++l) {
    lanes.push_back(sorted[l].view(problem.lanes[first_lane + l]));
  }
  const Floats start(static_cast<std::size_t>(problem.n_latents * problem.d), -7.0f);
  Outcome out{{start, start, Floats(static_cast<std::size_t>(problem.n_latents), -7.0f)}, {}};
  DenseAuxK aux(isa, group_bytes);
  out.squares = aux.accumulate(problem.problem(), static_cast<std::int64_t>(n_lanes), lanes.data(),
                               out.gradients.W_dec.data(), out.gradients.W_enc.data(),
                               out.gradients.b_enc.data());
  return out;
}

/// The formulas of the header, one token and one latent after the other, in double.
class Plain {
 public:
  explicit Plain(const Case& problem)
      : problem_(problem),
        W_dec(static_cast<std::size_t>(problem.n_latents * problem.d), 0.0),
        W_enc(W_dec.size(), 0.0),
        b_enc(static_cast<std::size_t>(problem.n_latents), 0.0) {
    for (const Lane& lane : problem.lanes) {
      squares.push_back(0);
      for (std::int64_t r = 0; r < lane.n_inputs; ++r) add_row(lane, r);
    }
  }

  Outcome outcome() const {
    Outcome out{
        {Floats(W_dec.size(), -7.0f), Floats(W_dec.size(), -7.0f), Floats(b_enc.size(), -7.0f)},
        squares};
    for (const std::int32_t latent : problem_.dead) {
      const auto i = static_cast<std::size_t>(latent);
      out.gradients.b_enc[i] = static_cast<float>(b_enc[i]);
      for (std::size_t j = i * d(); j < (i + 1) * d(); ++j) {
        out.gradients.W_dec[j] = static_cast<float>(W_dec[j]);
        out.gradients.W_enc[j] = static_cast<float>(W_enc[j]);
      }
    }
    return out;
  }

 private:
  std::size_t d() const { return static_cast<std::size_t>(problem_.d); }

  void add(std::int32_t latent, double value, double grad_value, const float* residual,
           const std::vector<double>* r, const float* input) {
    const auto i = static_cast<std::size_t>(latent);
    b_enc[i] += grad_value;
    for (std::size_t j = 0; j < d(); ++j) {
      W_dec[i * d() + j] += value * (r == nullptr ? static_cast<double>(residual[j]) : (*r)[j]);
      W_enc[i * d() + j] += grad_value * static_cast<double>(input[j]);
    }
  }

  void add_row(const Lane& lane, std::int64_t row) {
    const std::size_t n = problem_.dead.size();
    const float* x = lane.inputs.data() + row * problem_.d;
    const float* e = lane.residuals.data() + row * problem_.d;
    Floats z;
    for (const std::int32_t latent : problem_.dead) {
      double sum = 0;
      const float* w = problem_.W_enc.data() + latent * problem_.d;
      for (std::size_t j = 0; j < d(); ++j) sum += static_cast<double>(x[j]) * w[j];
      z.push_back(static_cast<float>(sum) + problem_.b_enc[static_cast<std::size_t>(latent)]);
    }
    const auto k = std::min(problem_.k, static_cast<std::int64_t>(n));
    Floats values(static_cast<std::size_t>(k));
    Indices places(values.size());
    reference::topk(1, static_cast<std::int64_t>(n), k, z.data(), nullptr, values.data(),
                    places.data());
    std::vector<double> r(e, e + d());
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float* w = decoder_row(places[i]);
      for (std::size_t j = 0; j < d(); ++j) {
        r[j] -= std::max(0.0, static_cast<double>(values[i])) * static_cast<double>(w[j]);
      }
    }
    for (const double value : r) squares.back() += value * value;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!(values[i] > 0)) continue;
      double q = 0;
      for (std::size_t j = 0; j < d(); ++j) {
        q += r[j] * static_cast<double>(decoder_row(places[i])[j]);
      }
      const auto factor = static_cast<double>(problem_.factor);
      add(problem_.dead[static_cast<std::size_t>(places[i])], factor * values[i], factor * q,
          nullptr, &r, x);
    }
    for (std::int64_t s = lane.row_offsets[static_cast<std::size_t>(row)];
         s < lane.row_offsets[static_cast<std::size_t>(row + 1)]; ++s) {
      const auto slot = static_cast<std::size_t>(s);
      if (lane.values[slot] == 0) continue;
      add(lane.indices[slot], static_cast<double>(lane.values[slot]),
          static_cast<double>(lane.grad_values[slot]), e, nullptr, x);
    }
  }

  const float* decoder_row(std::int32_t place) const {
    return problem_.W_dec.data() + problem_.dead[static_cast<std::size_t>(place)] * problem_.d;
  }

  const Case& problem_;
  std::vector<double> W_dec, W_enc, b_enc, squares;
};

class DenseAuxKTest : public testing::TestWithParam<CpuIsa> {
 protected:
  void SetUp() override {
    if (!supports(GetParam())) GTEST_SKIP() << "not on this processor";
  }
  void TearDown() override { set_num_threads(1); }
};

TEST_P(DenseAuxKTest, EqualsTheFormulasOnSmallIntegers) {
  Draws draws(4711);
  for (int trial = 0; trial < 220; ++trial) {
    const std::int64_t n_lanes = std::int64_t{1} << draws.integer(0, 3);
    const Case problem = random_case(draws, n_lanes, 67, true);
    set_num_threads(1 + trial % 4);
    // Of all lanes at once, of one at a time, of some.
    const std::int64_t group_bytes = trial % 3 == 0   ? DenseAuxK::kGroupBytes
                                     : trial % 3 == 1 ? 1
                                                      : std::int64_t{40} << 10;
    const Outcome out = run(problem, GetParam(), 0, problem.lanes.size(), group_bytes);
    const Outcome expected = Plain(problem).outcome();
    // -0 + 0 is +0 in one order and not in another.
    ASSERT_EQ(out.gradients.W_dec, expected.gradients.W_dec)
        << problem.dead.size() << " dead, d " << problem.d << ", k " << problem.k;
    ASSERT_EQ(out.gradients.W_enc, expected.gradients.W_enc);
    ASSERT_EQ(out.gradients.b_enc, expected.gradients.b_enc);
    ASSERT_EQ(out.squares, expected.squares);
  }
}

TEST_P(DenseAuxKTest, IsNearTheFormulasOnRealNumbers) {
  Draws draws(99);
  for (int trial = 0; trial < 40; ++trial) {
    const Case problem = random_case(draws, 4, 90, false);
    const Outcome out = run(problem, GetParam(), 0, 4);
    const Outcome expected = Plain(problem).outcome();
    const auto near = [](const Floats& actual, const Floats& truth) {
      double scale = 0, difference = 0;
      for (std::size_t i = 0; i < truth.size(); ++i) {
        scale = std::max(scale, std::abs(static_cast<double>(truth[i])));
        difference = std::max(difference, std::abs(static_cast<double>(actual[i] - truth[i])));
      }
      return difference <= 1e-5 * scale;
    };
    ASSERT_TRUE(near(out.gradients.W_dec, expected.gradients.W_dec));
    ASSERT_TRUE(near(out.gradients.W_enc, expected.gradients.W_enc));
    ASSERT_TRUE(near(out.gradients.b_enc, expected.gradients.b_enc));
  }
}

TEST_P(DenseAuxKTest, HasBitsThatDependOnNeitherThreadsNorGroupsNorRanks) {
  Draws draws(7);
  for (int trial = 0; trial < 20; ++trial) {
    const Case problem = random_case(draws, 8, 130, false);
    set_num_threads(1);
    const Outcome whole = run(problem, GetParam(), 0, 8);
    for (const int threads : {2, 3, 5}) {
      set_num_threads(threads);
      const Outcome other = run(problem, GetParam(), 0, 8, std::int64_t{60} << 10);
      ASSERT_EQ(other.all_bits(), whole.all_bits()) << threads << " threads";
      ASSERT_EQ(other.squares, whole.squares);
    }
    // Two ranks with half of the lanes each: the exchange adds their parts.
    const Outcome left = run(problem, GetParam(), 0, 4), right = run(problem, GetParam(), 4, 4);
    for (const std::int32_t latent : problem.dead) {
      for (std::int64_t j = latent * problem.d; j < (latent + 1) * problem.d; ++j) {
        const auto at = static_cast<std::size_t>(j);
        ASSERT_EQ(left.gradients.W_dec[at] + right.gradients.W_dec[at], whole.gradients.W_dec[at]);
        ASSERT_EQ(left.gradients.W_enc[at] + right.gradients.W_enc[at], whole.gradients.W_enc[at]);
      }
      const auto at = static_cast<std::size_t>(latent);
      ASSERT_EQ(left.gradients.b_enc[at] + right.gradients.b_enc[at], whole.gradients.b_enc[at]);
    }
  }
}

TEST_P(DenseAuxKTest, CountsAPreActivationThatIsNotANumberAsSilent) {
  Case problem{1, 3, 2, {0, 2}, 1.0f, {1, 1, kNaN}, {0, 0, 0}, {1, 1, 1}, {}};
  problem.lanes.push_back(Lane{{0, 0}, {}, {}, {}, {5}, {3}, 1});
  const Outcome out = run(problem, GetParam(), 0, 1);
  // z = 3 of latent 0 alone: r = 5 - 3, f r = 6, q = 2, q x = 6.
  EXPECT_EQ(out.gradients.W_dec, (Floats{6, -7, 0}));
  EXPECT_EQ(out.gradients.W_enc, (Floats{6, -7, 0}));
  EXPECT_EQ(out.gradients.b_enc, (Floats{2, -7, 0}));
  EXPECT_EQ(out.squares, std::vector<double>{4});
}

INSTANTIATE_TEST_SUITE_P(Isa, DenseAuxKTest,
                         testing::Values(CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512),
                         [](const auto& isa) { return std::string(to_string(isa.param)); });

}  // namespace
}  // namespace thresher::kernels
