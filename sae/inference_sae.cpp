#include "sae/inference_sae.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"
#include "kernels/topk.h"
#include "sae/exec.h"

namespace thresher::sae {
namespace {

SparseLatents select_top(const at::Tensor& pre_acts, std::int64_t k) {
  const std::int64_t rows = pre_acts.size(0);
  const at::TensorOptions options = pre_acts.options();
  SparseLatents out{at::empty({rows, k}, options.dtype(at::kInt)), at::empty({rows, k}, options)};
  kernels::topk(exec_of(pre_acts), rows, pre_acts.size(1), k, pre_acts.const_data_ptr<float>(),
                out.values.mutable_data_ptr<float>(), out.indices.mutable_data_ptr<std::int32_t>());
  out.values.relu_();
  return out;
}

SparseLatents keep_active(const at::Tensor& on_device) {
  const at::Tensor latent_acts = on_device.to(at::kCPU).contiguous();
  const std::int64_t rows = latent_acts.size(0);
  const std::int64_t cols = latent_acts.size(1);
  std::int64_t width = 0;
  if (rows > 0)
    width = at::count_nonzero(latent_acts, at::IntArrayRef{1}).max().item<std::int64_t>();
  SparseLatents out{at::zeros({rows, width}, at::kInt), at::zeros({rows, width}, at::kFloat)};
  const auto* act = latent_acts.const_data_ptr<float>();
  auto* value = out.values.mutable_data_ptr<float>();
  auto* index = out.indices.mutable_data_ptr<std::int32_t>();
  for (std::int64_t r = 0; r < rows; ++r) {
    std::int64_t slot = r * width;
    for (std::int64_t i = 0; i < cols; ++i) {
      if (act[r * cols + i] == 0) continue;
      value[slot] = act[r * cols + i];
      index[slot] = static_cast<std::int32_t>(i);
      ++slot;
    }
  }
  return {out.indices.to(on_device.device()), out.values.to(on_device.device())};
}

}  // namespace

InferenceSae InferenceSae::on(Device device) const {
  InferenceSae out = *this;
  for (at::Tensor* tensor : {&out.W_enc, &out.b_enc, &out.W_dec, &out.b_dec, &out.threshold}) {
    if (tensor->defined()) *tensor = tensor->to(device == Device::kCuda ? at::kCUDA : at::kCPU);
  }
  return out;
}

at::Tensor InferenceSae::pre_acts(const at::Tensor& x) const {
  THRESHER_CHECK(x.dim() == 2 && x.size(1) == d_in() && x.scalar_type() == at::kFloat,
                 "activations are float32 [N, d_in]");
  const at::Tensor input = apply_b_dec_to_input ? x - b_dec : x;
  return at::mm(input, W_enc).add_(b_enc);
}

SparseLatents InferenceSae::encode_sparse(const at::Tensor& x) const {
  if (architecture == "topk") return select_top(pre_acts(x), k);
  return keep_active(encode_dense(x));
}

at::Tensor InferenceSae::encode_dense(const at::Tensor& x) const {
  at::Tensor acts = pre_acts(x);
  if (architecture == "standard") return acts.relu_();
  if (architecture == "jumprelu") {
    // A product, as in sae-lens: it keeps a NaN.
    const at::Tensor is_above = acts.gt(threshold);
    return acts.relu_().mul_(is_above);
  }
  const SparseLatents chosen = select_top(acts, k);
  return acts.zero_().scatter_(1, chosen.indices.to(at::kLong), chosen.values);
}

at::Tensor InferenceSae::decode_dense(const at::Tensor& latent_acts) const {
  return at::mm(latent_acts, W_dec).add_(b_dec);
}

}  // namespace thresher::sae
