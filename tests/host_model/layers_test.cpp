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

TEST(Rotary, TurnsEachPairByPositionTimesItsFrequency) {
  // Heads of width 4: pair 0 is values 0 and 2 at frequency 1, pair 1 is values 1 and 3 at
  // frequency 1/100.
  const RotaryTable table = make_rotary_table(at::tensor({2}, at::kLong), 4, 10'000);
  at::Tensor qkv = at::tensor({1.0F, 0.0F, 0.0F, 1.0F, 5.0F, 6.0F, 7.0F, 8.0F}).view({1, 8});
  apply_rotary(table, 1, 4, qkv);
  EXPECT_NEAR(qkv[0][0].item<double>(), std::cos(2.0), 1e-6);
  EXPECT_NEAR(qkv[0][2].item<double>(), std::sin(2.0), 1e-6);
  EXPECT_NEAR(qkv[0][1].item<double>(), -std::sin(0.02), 1e-6);
  EXPECT_NEAR(qkv[0][3].item<double>(), std::cos(0.02), 1e-6);
  EXPECT_TRUE(at::equal(qkv[0].narrow(0, 4, 4), at::tensor({5.0F, 6.0F, 7.0F, 8.0F})))
      << "values are not turned";
}

TEST(Attention, MasksLaterTokensAndOtherDocuments) {
  const at::Tensor mask = make_attention_mask(at::tensor({0, 0, 1, 1}, at::kLong).view({1, 4}));
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
      make_attention_mask(at::tensor({0, 0, 0, 0, 0, 3, 3, 3, 9, 9}, at::kLong).view({2, 5}));
  const at::Tensor out =
      attend(qkv, mask, n_heads, n_kv_heads, d_head).view({contexts, tokens, n_heads, d_head});
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
