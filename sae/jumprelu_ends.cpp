// Where the training of a JumpReLU SAE starts from, and what it leaves.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/random.h"
#include "sae/initialisation.h"
#include "sae/jumprelu_sae.h"

namespace thresher::sae {
namespace {

// A quantile of one activation in a hundred needs some thousands of rows.
constexpr std::int64_t kBiasRows = 4096;
constexpr std::int64_t kBiasLatents = 256;  // at a time

void fill_uniform(const at::Tensor& W, double limit, const RandomStream& stream) {
  auto* value = static_cast<float*>(W.data_ptr());
  for (std::int64_t i = 0; i < W.numel(); ++i) {
    const double u = stream.uniform(static_cast<std::uint64_t>(i));
    value[i] = static_cast<float>(limit * (2 * u - 1));
  }
}

}  // namespace

void JumpReluSae::initialise(std::uint64_t seed, const at::Tensor& sample) {
  const RandomStream stream(seed, "sae.jumprelu.W_dec");
  const double theta = config_.first_threshold();
  weight(kThreshold)
      .fill_(config_.has_log_threshold() ? config_.initial_log_threshold.value_or(std::log(theta))
                                         : theta);
  weight(kBEnc).zero_();
  weight(kBDec).copy_(initial_decoder_bias(config_.decoder_bias_init, sample));
  at::Tensor W_dec = weight(kWDec);
  const auto d = static_cast<double>(d_in_);
  if (config_.is_anthropic()) {
    fill_uniform(W_dec, 1 / std::sqrt(d), stream);
    weight(kWEnc).copy_(W_dec.t().mul(d / static_cast<double>(n_latents_)));
    start_encoder_bias(sample);
  } else {
    fill_random_directions(W_dec, 1, stream);
    weight(kWEnc).copy_(W_dec.t());
  }
}

void JumpReluSae::start_encoder_bias(const at::Tensor& sample) {
  const at::Tensor x = sample.slice(0, 0, kBiasRows).contiguous();
  const std::int64_t rows = x.size(0);
  const double part =
      static_cast<double>(config_.initial_l0_of(n_latents_)) / static_cast<double>(n_latents_);
  // So many of the sample's rows activate a latent: its threshold lies between two of them.
  const auto n_active = std::clamp<std::int64_t>(std::llround(part * static_cast<double>(rows)), 1,
                                                 std::max<std::int64_t>(1, rows - 1));
  const std::vector<float> theta = thresholds();
  const std::vector<float> no_bias(kBiasLatents, 0.0f);
  const std::vector<float> no_bound(kBiasLatents, -std::numeric_limits<float>::infinity());
  auto* b_enc = static_cast<float*>(weight(kBEnc).data_ptr());
  for (std::int64_t first = 0; first < n_latents_; first += kBiasLatents) {
    const std::int64_t count = std::min(kBiasLatents, n_latents_ - first);
    encode_select_.above({rows, d_in_, count, x.const_data_ptr<float>(),
                          weight(kWEnc).const_data_ptr<float>() + first * d_in_, no_bias.data()},
                         no_bound.data(), pairs_);
    std::vector<std::vector<float>> columns(static_cast<std::size_t>(count));
    for (std::size_t slot = 0; slot < pairs_.values.size(); ++slot) {
      columns[static_cast<std::size_t>(pairs_.indices[slot])].push_back(pairs_.values[slot]);
    }
    for (std::int64_t i = 0; i < count; ++i) {
      std::vector<float>& z = columns[static_cast<std::size_t>(i)];
      std::sort(z.begin(), z.end(), std::greater<>());
      if (static_cast<std::int64_t>(z.size()) <= n_active) continue;  // NaN, or a single row
      const double between = 0.5 * (static_cast<double>(z[static_cast<std::size_t>(n_active - 1)]) +
                                    static_cast<double>(z[static_cast<std::size_t>(n_active)]));
      b_enc[first + i] = static_cast<float>(
          static_cast<double>(theta[static_cast<std::size_t>(first + i)]) - between);
    }
  }
}

InferenceSae JumpReluSae::to_inference(const InputTransform& transform) const {
  // With x_t = s (x - c), every weight in float64 and rounded once:
  //   pre-activations   x (s W_enc) + b_enc - s c W_enc
  //   reconstruction    f (W_dec / s) + b_dec / s + c
  // and the norm n / s of a row of W_dec / s moves into its latent's pre-activation and threshold.
  const double s = transform.scale;
  const auto options = at::TensorOptions(at::kDouble);
  const at::Tensor centre =
      at::from_blob(const_cast<double*>(transform.centre.data()), {d_in_}, options);
  const at::Tensor W_enc = weight(kWEnc).to(at::kDouble);
  const at::Tensor W_dec = weight(kWDec).to(at::kDouble);
  const at::Tensor norms = at::linalg_vector_norm(W_dec, 2, at::IntArrayRef{1});
  const at::Tensor nonzero_norms = norms.masked_fill(norms.eq(0), 1);
  std::vector<float> values = thresholds();
  const at::Tensor theta = at::from_blob(values.data(), {n_latents_}, at::kFloat).to(at::kDouble);
  // In a fixed order, whatever the number of threads.
  at::Tensor shift = at::zeros({n_latents_}, options);
  for (std::int64_t j = 0; j < d_in_; ++j) {
    shift.add_(W_enc[j], transform.centre[static_cast<std::size_t>(j)]);
  }
  InferenceSae out;
  out.architecture = "jumprelu";
  out.apply_b_dec_to_input = false;
  out.W_enc = (W_enc * norms).to(at::kFloat).contiguous();
  out.b_enc = ((weight(kBEnc).to(at::kDouble) - s * shift) * norms / s).to(at::kFloat);
  out.W_dec = (W_dec / nonzero_norms.unsqueeze(1)).to(at::kFloat);
  out.b_dec = (weight(kBDec).to(at::kDouble) / s + centre).to(at::kFloat);
  out.threshold = (theta * norms / s).to(at::kFloat);
  out.metadata["hook_name"] = config_.hook_point;
  return out;
}

}  // namespace thresher::sae
