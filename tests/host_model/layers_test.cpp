#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "host_model/attention.h"
#include "host_model/rms_norm.h"
#include "host_model/rotary.h"

namespace thresher::host_model {
namespace {

TEST(RmsNorm, DividesByTheRootMeanSquareAndMultipliesWithTheWeights) {
  const at::Tensor x = at::tensor({3.0F, 4.0F, 0.0F, 0.0F}).view({2, 2});
  at::Tensor out = at::empty_like(x);
  rms_norm(x, at::tensor({1.0F, 10.0F}), 0.5, out);
  const double scale = 1 / std::sqrt(12.5 + 0.5);
  EXPECT_NEAR(out[0][0].item<double>(), 3 * scale, 1e-6);
  EXPECT_NEAR(out[0][1].item<double>(), 40 * scale, 1e-5);
  EXPECT_EQ(out[1][0].item<double>(), 0);
}

TEST(RmsNorm, AgreesWithDoubleAtWidthsAroundTheLanes) {
  for (const std::int64_t width : {1, 15, 16, 17, 33, 576}) {
    const at::Tensor x = at::linspace(-2, 5, 3 * width).view({3, width}).sin();
    at::Tensor out = at::empty_like(x);
    rms_norm(x, {}, 1e-6, out);
    const at::Tensor wide = x.to(at::kDouble);
    const at::Tensor expected = wide / (wide.square().mean(1, true) + 1e-6).sqrt();
    EXPECT_LT((out.to(at::kDouble) - expected).abs().max().item<double>(), 1e-6) << width;
  }
}

TEST(RmsNorm, RoundsBeforeAndAfterTheWeightsInBfloat16) {
  const at::Tensor x = at::linspace(-2, 5, 3 * 40).view({3, 40}).sin().to(at::kBFloat16);
  const at::Tensor weight = at::linspace(0.5, 1.5, 40).to(at::kBFloat16);
  at::Tensor out = at::empty_like(x);
  rms_norm(x, weight, 1e-6, out);
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor normed = wide * at::rsqrt(wide.square().mean(1, true) + 1e-6);
  EXPECT_TRUE(at::allclose(out, normed.to(at::kBFloat16) * weight, 1e-2, 1e-6));
  EXPECT_GT(out.eq(normed.to(at::kBFloat16) * weight).sum().item<int>(), 115);
}

TEST(RmsNorm, ByOperatorsIsTheSameWithinRounding) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = at::linspace(-2, 5, 3 * 40).view({3, 40}).sin().to(type);
    const at::Tensor weight = at::linspace(0.5, 1.5, 40).to(type);
    for (const at::Tensor& gains : {weight, at::Tensor()}) {
      at::Tensor expected = at::empty_like(x), out = at::empty_like(x);
      rms_norm(x, gains, 1e-6, expected);
      rms_norm_by_operators(x, gains, 1e-6, out);
      EXPECT_TRUE(at::allclose(out, expected, type == at::kFloat ? 1e-6 : 1e-2, 1e-7));
    }
  }
}

TEST(Rotary, ByOperatorsHasTheSameBits) {
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBfloat16}) {
    const at::ScalarType type = dtype == Dtype::kFloat32 ? at::kFloat : at::kBFloat16;
    const RotaryTable table =
        make_rotary_table(at::arange(5, at::kLong), rotary_frequencies(8, 10'000, {}), dtype);
    at::Tensor expected = at::linspace(-3, 4, 5 * 32).view({5, 32}).sin().to(type);
    at::Tensor qkv = expected.clone();
    apply_rotary(table, 3, 8, expected);
    apply_rotary_by_operators(table, 3, 8, qkv);
    EXPECT_TRUE(at::equal(qkv, expected));
    EXPECT_FALSE(
        at::equal(qkv.narrow(1, 0, 24),
                  at::linspace(-3, 4, 5 * 32).view({5, 32}).sin().to(type).narrow(1, 0, 24)));
  }
}

TEST(Rotary, TurnsEachPairByPositionTimesItsFrequency) {
  // Heads of width 4: pair 0 is values 0 and 2 at frequency 1, pair 1 is values 1 and 3 at
  // frequency 1/100.
  const RotaryTable table = make_rotary_table(at::tensor({2}, at::kLong),
                                              rotary_frequencies(4, 10'000, {}), Dtype::kFloat32);
  at::Tensor qkv = at::tensor({1.0F, 0.0F, 0.0F, 1.0F, 5.0F, 6.0F, 7.0F, 8.0F}).view({1, 8});
  apply_rotary(table, 1, 4, qkv);
  EXPECT_NEAR(qkv[0][0].item<double>(), std::cos(2.0), 1e-6);
  EXPECT_NEAR(qkv[0][2].item<double>(), std::sin(2.0), 1e-6);
  EXPECT_NEAR(qkv[0][1].item<double>(), -std::sin(0.02), 1e-6);
  EXPECT_NEAR(qkv[0][3].item<double>(), std::cos(0.02), 1e-6);
  EXPECT_TRUE(at::equal(qkv[0].narrow(0, 4, 4), at::tensor({5.0F, 6.0F, 7.0F, 8.0F})))
      << "values are not turned";
}

TEST(Rotary, ScalesFrequenciesAsAsked) {
  const at::Tensor plain = rotary_frequencies(8, 10'000, {});
  EXPECT_TRUE(at::allclose(plain, at::tensor({1.0F, 0.1F, 0.01F, 0.001F})));
  RopeScaling linear;
  linear.type = RopeScaling::Type::kLinear;
  linear.factor = 4;
  EXPECT_TRUE(at::allclose(rotary_frequencies(8, 10'000, linear), plain / 4));
  RopeScaling divided;
  divided.type = RopeScaling::Type::kDivisors;
  divided.divisors = {1, 2, 4, 8};
  EXPECT_TRUE(at::allclose(rotary_frequencies(8, 10'000, divided),
                           at::tensor({1.0F, 0.05F, 0.0025F, 0.000125F})));
}

TEST(Rotary, BlendsTheFrequenciesOfLlama3BetweenLongAndShortWaves) {
  // Waves are 2 pi times 1, 10, 100, 1000; with 1,000 tokens waves up to 250 stay, waves over 1000
  // are divided by 8, and the one of 628 lies between: blend = (1000 / 628.3 - 1) / (4 - 1) =
  // 0.1972.
  RopeScaling scaling;
  scaling.type = RopeScaling::Type::kLlama3;
  scaling.factor = 8;
  scaling.original_context_tokens = 1000;
  const at::Tensor frequencies = rotary_frequencies(8, 10'000, scaling);
  const double blend = (1000 / (200 * std::acos(-1.0)) - 1) / 3;
  EXPECT_NEAR(frequencies[0].item<double>(), 1, 1e-7);
  EXPECT_NEAR(frequencies[1].item<double>(), 0.1, 1e-8);
  EXPECT_NEAR(frequencies[2].item<double>(), 0.01 * ((1 - blend) / 8 + blend), 1e-8);
  EXPECT_NEAR(frequencies[3].item<double>(), 0.001 / 8, 1e-9);
}

TEST(Rotary, RoundsWhereBfloat16Rounds) {
  const RotaryTable table = make_rotary_table(at::tensor({3}, at::kLong),
                                              rotary_frequencies(2, 10'000, {}), Dtype::kBfloat16);
  const at::Tensor cosine = at::tensor({std::cos(3.0F)}).to(at::kBFloat16);
  const at::Tensor sine = at::tensor({std::sin(3.0F)}).to(at::kBFloat16);
  const at::Tensor values = at::tensor({1.37F, -0.61F}).to(at::kBFloat16).view({1, 2});
  at::Tensor qkv = values.clone();
  apply_rotary(table, 1, 2, qkv);
  EXPECT_TRUE(at::equal(qkv[0][0], (values[0][0] * cosine - values[0][1] * sine)[0]));
  EXPECT_TRUE(at::equal(qkv[0][1], (values[0][1] * cosine + values[0][0] * sine)[0]));
}

/// The mask of contexts all of whose tokens ask, positions counted from the context's start.
at::Tensor masked(const at::Tensor& documents, std::int64_t window = 0) {
  const at::Tensor positions =
      at::arange(documents.size(1), at::kLong).expand_as(documents).contiguous();
  return make_attention_mask(documents, positions, documents.size(1), window);
}

TEST(Attention, MasksOfTheLastTokensAreTheLastRows) {
  // Padding (-1) in front of the second context; a window of two positions.
  const at::Tensor documents = at::tensor({0, 0, 0, 0, -1, -1, 0, 0}, at::kLong).view({2, 4});
  const at::Tensor positions = at::tensor({0, 1, 2, 3, 0, 0, 0, 1}, at::kLong).view({2, 4});
  for (const std::int64_t window : {0, 2}) {
    const at::Tensor all = make_attention_mask(documents, positions, 4, window);
    const at::Tensor last = make_attention_mask(documents, positions, 2, window);
    EXPECT_TRUE(at::equal(last, all.narrow(2, 2, 2)));
    const at::Tensor visible = last.eq(0).to(at::kInt).view({4, 4});
    const int early = window == 0 ? 1 : 0;
    EXPECT_TRUE(at::equal(
        visible, at::tensor({early, 1, 1, 0, early, early, 1, 1, 0, 0, 1, 0, 0, 0, 1, 1}, at::kInt)
                     .view({4, 4})))
        << window;
  }
}

TEST(Attention, MasksWhatLiesBeforeTheWindow) {
  const at::Tensor mask = masked(at::tensor({0, 0, 0, 1, 1}, at::kLong).view({1, 5}), 2);
  const at::Tensor visible = mask.eq(0).to(at::kInt).view({5, 5});
  const at::Tensor expected =
      at::tensor({1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1},
                 at::kInt)
          .view({5, 5});
  EXPECT_TRUE(at::equal(visible, expected));
}

TEST(Attention, MasksLaterTokensAndOtherDocuments) {
  const at::Tensor mask = masked(at::tensor({0, 0, 1, 1}, at::kLong).view({1, 4}));
  const at::Tensor visible = mask.eq(0).to(at::kInt).view({4, 4});
  const at::Tensor expected =
      at::tensor({1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1}, at::kInt).view({4, 4});
  EXPECT_TRUE(at::equal(visible, expected));
}

TEST(Attention, AgreesWithSoftmaxInDoubleAndSharesKeysAmongQueryHeads) {
  const std::int64_t contexts = 2, tokens = 5, n_heads = 4, n_kv_heads = 2, d_head = 3;
  const at::Tensor qkv =
      at::arange(contexts * tokens * 8 * d_head, at::kFloat).mul(0.37).sin().view({10, 24});
  const at::Tensor mask =
      masked(at::tensor({0, 0, 0, 0, 0, 3, 3, 3, 9, 9}, at::kLong).view({2, 5}));
  const at::Tensor out = attend(split_heads(qkv, contexts, n_heads, n_kv_heads, d_head), mask)
                             .view({contexts, tokens, n_heads, d_head});
  const at::Tensor wide = qkv.to(at::kDouble).view({contexts, tokens, 8, d_head});
  for (std::int64_t head = 0; head < n_heads; ++head) {
    const at::Tensor query = wide.select(2, head);
    const at::Tensor key = wide.select(2, n_heads + head / 2);
    const at::Tensor value = wide.select(2, n_heads + n_kv_heads + head / 2);
    const at::Tensor scores =
        at::bmm(query, key.transpose(1, 2)) / std::sqrt(3.0) + mask.squeeze(1);
    const at::Tensor expected = at::bmm(at::softmax(scores, -1), value);
    EXPECT_LT((out.select(2, head) - expected).abs().max().item<double>(), 1e-6) << head;
  }
}

}  // namespace
}  // namespace thresher::host_model
