#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/device.h"
#include "core/json.h"

namespace thresher::sae {

/// Latents that fire, one row a token, `width` slots; unused slots have value 0. `width` is k for
/// topk, else the most latents that any token has. A NaN pre-activation stays a NaN.
struct SparseLatents {
  at::Tensor indices;  // [N, width] int32
  at::Tensor values;   // [N, width] float32, >= 0
};

/// An SAE as it is used and shipped: it takes raw activations (input centring and scaling are
/// folded into the weights), every decoder row has unit norm, latent activations are in units of
/// the activations.
///
///     z = x W_enc + b_enc, or (x - b_dec) W_enc + b_enc if apply_b_dec_to_input
///     topk:     latents = relu(the k largest of z, others 0)
///     standard: latents = relu(z)
///     jumprelu: latents = relu(z) where z > threshold, else 0
///     recon = latents W_dec + b_dec
///
/// This is what evaluation measures and what RUN/sae/NAME holds, in SAELens' own layout, so the
/// figures are those of the file that others load.
class InferenceSae {
 public:
  std::string architecture;  // SAELens' names: "topk", "standard", "jumprelu"
  bool apply_b_dec_to_input = true;
  std::int64_t k = 0;              // topk only
  at::Tensor W_enc;                // [d_in, n_latents] float32
  at::Tensor b_enc;                // [n_latents]
  at::Tensor W_dec;                // [n_latents, d_in]
  at::Tensor b_dec;                // [d_in]
  at::Tensor threshold;            // [n_latents] float32; jumprelu only
  Json metadata = Json::object();  // hook_name, model_name, context_size, training figures

  std::int64_t d_in() const { return W_enc.size(0); }
  std::int64_t n_latents() const { return W_enc.size(1); }
  /// x [N, d_in] float32; returns [N, n_latents].
  at::Tensor pre_acts(const at::Tensor& x) const;
  /// Dense latent activations [N, n_latents].
  at::Tensor encode_dense(const at::Tensor& x) const;
  /// The same, without the zeros. topk: largest first; else by latent.
  SparseLatents encode_sparse(const at::Tensor& x) const;
  at::Tensor decode_dense(const at::Tensor& latent_acts) const;
  at::Tensor reconstruct(const at::Tensor& x) const { return decode_dense(encode_dense(x)); }
  /// The same with its tensors on `device` (with CUDA the current GPU), which then takes and gives
  /// tensors there.
  InferenceSae on(Device device) const;
};

/// `folder`/cfg.json and `folder`/sae_weights.safetensors as sae-lens >= 6 writes and reads them.
/// Written into a temporary folder beside it and exchanged, so that after a crash at any moment
/// `folder` is the old one or the new one. `metadata.sae_lens_version` is filled in when absent.
/// One process at a time.
void save_saelens(const InferenceSae& sae, const std::filesystem::path& folder);
/// Reads such a folder as hostile input: float32, float16 or bfloat16 weights. Decoder norms that
/// are not 1 are folded into the encoder (and thresholds) wherever that leaves the reconstruction
/// as it is (standard, jumprelu, and topk that rescales by norms). ConfigError for an architecture
/// or a normalisation that is not known and for files older than sae-lens 6, DataError for damage.
InferenceSae load_saelens(const std::filesystem::path& folder);

}  // namespace thresher::sae
