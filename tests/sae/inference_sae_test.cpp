#include "sae/inference_sae.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>

#include "tests/sae/sae_testing.h"

namespace thresher::sae {
namespace {

using testing::normal_values;
using testing::relative_difference;

constexpr std::int64_t kDim = 24;

at::Tensor row(std::vector<float> values) {
  return at::tensor(values, at::kFloat).reshape({1, -1});
}

InferenceSae hand_made(const std::string& architecture) {
  InferenceSae sae;
  sae.architecture = architecture;
  sae.apply_b_dec_to_input = false;
  sae.k = 2;
  sae.W_enc = at::eye(3);
  sae.b_enc = at::zeros({3});
  sae.W_dec = at::eye(3);
  sae.b_dec = at::full({3}, 10.0);
  if (architecture == "jumprelu") sae.threshold = row({2, 0.5, -1}).reshape({3});
  return sae;
}

TEST(InferenceSaeTest, KeepsTheKLargestThenReluForTopK) {
  const InferenceSae sae = hand_made("topk");
  EXPECT_TRUE(at::equal(sae.encode_dense(row({3, -1, 2})), row({3, 0, 2})));
  EXPECT_TRUE(at::equal(sae.encode_dense(row({-3, -1, 2})), row({0, 0, 2})));
  // Equal values: the lower latent wins.
  EXPECT_TRUE(at::equal(sae.encode_dense(row({1, 1, 1})), row({1, 1, 0})));
  EXPECT_TRUE(at::equal(sae.reconstruct(row({3, -1, 2})), row({13, 10, 12})));
}

TEST(InferenceSaeTest, KeepsEveryPositiveLatentForStandard) {
  InferenceSae sae = hand_made("standard");
  EXPECT_TRUE(at::equal(sae.encode_dense(row({3, -1, 2})), row({3, 0, 2})));
  EXPECT_TRUE(at::equal(sae.encode_dense(row({1, 1, 1})), row({1, 1, 1})));
  sae.apply_b_dec_to_input = true;
  EXPECT_TRUE(at::equal(sae.encode_dense(row({13, 9, 12})), row({3, 0, 2})));
}

TEST(InferenceSaeTest, KeepsWhatIsAboveItsThresholdForJumpRelu) {
  InferenceSae sae = hand_made("jumprelu");
  EXPECT_TRUE(at::equal(sae.encode_dense(row({3, 0.25, 2})), row({3, 0, 2})));
  // A latent at its threshold is silent, and a negative threshold lets nothing negative through.
  EXPECT_TRUE(at::equal(sae.encode_dense(row({2, 0.5, -0.5})), row({0, 0, 0})));
  EXPECT_TRUE(at::equal(sae.encode_dense(row({2.125, 0.625, 0.125})), row({2.125, 0.625, 0.125})));
  EXPECT_TRUE(at::equal(sae.reconstruct(row({3, 0.25, 2})), row({13, 10, 12})));
  EXPECT_TRUE(sae.encode_dense(row({std::nanf(""), 1, 1}))[0][0].isnan().item<bool>());
  sae.apply_b_dec_to_input = true;
  EXPECT_TRUE(at::equal(sae.encode_dense(row({13, 10.25, 12})), row({3, 0, 2})));
}

TEST(InferenceSaeTest, SparseLatentsAreTheDenseOnesWithoutZeros) {
  const std::map<std::string, std::int64_t> width = {{"topk", 2}, {"standard", 3}, {"jumprelu", 2}};
  const at::Tensor x = normal_values({40, 3}, 1);
  for (const std::string architecture : {"topk", "standard", "jumprelu"}) {
    const InferenceSae sae = hand_made(architecture);
    const SparseLatents sparse = sae.encode_sparse(x);
    const at::Tensor dense =
        at::zeros({40, 3}).scatter_add_(1, sparse.indices.to(at::kLong), sparse.values);
    EXPECT_TRUE(at::equal(dense, sae.encode_dense(x))) << architecture;
    EXPECT_EQ(sparse.values.size(1), width.at(architecture));
  }
  EXPECT_EQ(hand_made("standard").encode_sparse(row({-1, -1, -1})).values.size(1), 0);
}

class ExportTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Types, ExportTest, ::testing::ValuesIn(testing::cases()),
                         [](const auto& param_info) { return param_info.param; });

/// The reconstruction in the space of the training data, from the trained parameters, in float64,
/// taken back to activations.
at::Tensor training_space_reconstruction(TrainingSae& sae, const InputTransform& transform,
                                         const at::Tensor& activations) {
  std::vector<at::Tensor> p;
  for (const Parameter& parameter : sae.parameters()) p.push_back(parameter.weight.to(at::kDouble));
  const at::Tensor centre = at::tensor(transform.centre, at::kDouble);
  const at::Tensor x = (activations.to(at::kDouble) - centre) * transform.scale;
  at::Tensor acts;
  if (sae.config().type == "batch_topk") {
    const at::Tensor z = at::mm(x - p[3], p[0]) + p[1];
    const auto buffers = sae.buffers();
    const at::Tensor threshold = buffers.at(2).second / buffers.at(3).second;
    EXPECT_EQ(buffers.at(2).first, "threshold_sum");
    EXPECT_GT(threshold.item<double>(), 0);
    acts = z * z.gt(threshold);
  } else if (const auto* topk = dynamic_cast<const TopKConfig*>(&sae.config())) {
    const at::Tensor pre_acts = at::mm(x - p[3], p[0]) + p[1];
    const auto [values, indices] = pre_acts.topk(topk->k, 1);
    acts = at::zeros_like(pre_acts).scatter_(1, indices, values.relu());
  } else if (const auto* jump = dynamic_cast<const JumpReluConfig*>(&sae.config())) {
    const at::Tensor pre_acts = at::mm(x, p[0]) + p[1];
    acts = pre_acts * pre_acts.gt(jump->has_log_threshold() ? p[4].exp() : p[4]);
  } else {
    const bool is_bricken = dynamic_cast<const ReluL1Config&>(sae.config()).is_bricken();
    acts = (at::mm(is_bricken ? x - p[3] : x, p[0]) + p[1]).relu();
  }
  return (at::mm(acts, p[2]) + p[3]) / transform.scale + centre;
}

TEST_P(ExportTest, ReconstructsAsInTrainingWithTheInputTransformFolded) {
  const auto config = testing::config_of_case(GetParam());
  config->hook_point = "blocks.3.hook_resid_post";
  const auto sae = make_training_sae(*config, kDim);
  sae->initialise(1, normal_values({128, kDim}, 1));
  const auto comm = comm::make_self_communicator();
  testing::train(*sae, 20, 64, 1000, 4, *comm);

  InputTransform transform;
  const at::Tensor centre = normal_values({kDim}, 2);
  for (std::int64_t j = 0; j < kDim; ++j) transform.centre.push_back(20 * centre[j].item<double>());
  transform.scale = 0.37;
  const at::Tensor activations =
      normal_values({200, kDim}, 3) / 0.37 + at::tensor(transform.centre, at::kFloat);

  const InferenceSae inference = sae->to_inference(transform);
  const at::Tensor expected = training_space_reconstruction(*sae, transform, activations);
  EXPECT_LE(relative_difference(inference.reconstruct(activations), expected), 1e-5);
  EXPECT_LE((inference.W_dec.norm(2, 1) - 1).abs().max().item<double>(), 1e-6);
  EXPECT_TRUE(inference.W_enc.is_contiguous());
  EXPECT_EQ(inference.metadata.at("hook_name").as_string(), "blocks.3.hook_resid_post");
  // The export is a copy: training on must not move it.
  const at::Tensor before = inference.W_enc.clone();
  testing::train(*sae, 1, 64, 1000, 4, *comm);
  EXPECT_TRUE(at::equal(inference.W_enc, before));
}

}  // namespace
}  // namespace thresher::sae
