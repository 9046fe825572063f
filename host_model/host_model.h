#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.h"
#include "core/device.h"
#include "core/dtype.h"
#include "host_model/kv_cache.h"

namespace thresher::host_model {

/// A place in the transformer, under its TransformerLens name: hook_embed, blocks.L.hook_resid_pre,
/// blocks.L.hook_resid_mid, blocks.L.hook_resid_post, blocks.L.hook_attn_out,
/// blocks.L.hook_mlp_out, ln_final.hook_normalized.
struct HookPoint {
  enum class Site { kEmbed, kResidPre, kAttnOut, kResidMid, kMlpOut, kResidPost, kFinalNormalized };
  Site site = Site::kEmbed;
  std::int64_t block = -1;  // -1 for kEmbed and kFinalNormalized

  /// ConfigError listing the known forms, with the nearest one as a hint.
  static HookPoint parse(std::string_view name);
  std::string name() const;
  auto operator<=>(const HookPoint&) const = default;
};

struct HostModelConfig {
  std::string weights;            // a GGUF file, or a folder with config.json and *.safetensors
  std::string dtype = "float32";  // of weights and computation: float32 or bfloat16
  void declare(FieldVisitor& fields);
};

struct HostModelInfo {
  std::string family;  // "llama", "mistral", "qwen2"
  /// SHA-256 of the weights file; for a folder of the names and SHA-256 of config.json, the shards
  /// and their index.
  std::string fingerprint;
  Dtype dtype = Dtype::kFloat32;  // of weights and computation; activations come as float32
  Device device = Device::kCpu;   // where weights are, and all that a pass computes
  std::int64_t n_blocks = 0;
  std::int64_t d_model = 0;
  std::int64_t n_vocabulary = 0;
  std::int64_t max_context_tokens = 0;
  std::int64_t parameter_bytes = 0;  // in memory, in `dtype`
  /// Width of the activation at a hook point (d_model for all of today's points).
  std::int64_t width(const HookPoint& hook_point) const;
};

/// Contexts to run. Attention is causal and never crosses documents: a token sees the tokens of its
/// context with the same document number at positions not after its own. Rotary positions are
/// `positions`.
struct TokenBatch {      // host memory, whatever the model's device
  at::Tensor token_ids;  // [n_contexts, context_tokens] int64
  at::Tensor positions;  // [n_contexts, context_tokens] int64
  at::Tensor documents;  // [n_contexts, context_tokens] int64
};

/// Called with the activation [n_contexts * context_tokens, width] float32 at a hook point. Returns
/// an undefined tensor to leave it as it is, or a tensor of the same shape that replaces it for
/// everything after. The activation lies on the model's device; a replacement may lie anywhere.
using HookFunction = std::function<at::Tensor(const at::Tensor& activation)>;

struct ForwardRequest {
  std::map<HookPoint, HookFunction> hooks;
  /// Also compute what follows the last hook, up to ln_final.hook_normalized, and return it.
  bool want_final = false;
  /// Start at block `first_block` from this residual stream [tokens, d_model] (that block's
  /// hook_resid_pre) instead of from the embedding. Hook points before it are an error.
  std::int64_t first_block = 0;
  at::Tensor resid_pre = {};
  /// Continue from here: the batch holds the tokens that follow those in the cache (hooks see
  /// these rows only), and adds them to it. Logits are those of a pass over all tokens, up to
  /// rounding. One pass at a time may use a cache.
  KvCache* cache = nullptr;
};

/// Members may be called from several threads at once; each pass has its own working memory.
/// Tensors that are given may lie on any device, those that are returned lie on the model's.
class HostModel {
 public:
  virtual ~HostModel() = default;
  virtual const HostModelInfo& info() const = 0;
  /// Runs the batch; nothing is computed past the last hook unless want_final. Returns ln_final's
  /// output [n_contexts * context_tokens, d_model] or an undefined tensor. ConfigError for a hook
  /// point that the model lacks.
  virtual at::Tensor forward(const TokenBatch& batch, const ForwardRequest& request) = 0;
  /// Logits [rows, n_vocabulary] of rows of ln_final.hook_normalized.
  virtual at::Tensor unembed(const at::Tensor& final_normalized) = 0;
  /// [n_vocabulary, d_model] float32, made anew at each call: the matrix that unembed multiplies
  /// with, ln_final's weights folded into it (for logit effects). In host memory.
  virtual at::Tensor unembedding() const = 0;
};

/// Next-token cross-entropy in nats, per position, logits computed in chunks so that [tokens,
/// n_vocabulary] never exists at once. `rows` are ln_final.hook_normalized, `targets` int64 the
/// next token of each; returns float64 [rows] in host memory.
at::Tensor next_token_losses(HostModel& model, const at::Tensor& rows, const at::Tensor& targets);

/// Loads a model. The family comes through the registry from general.architecture of a GGUF file or
/// model_type in the config.json of a folder; ConfigError naming those that are known if it is not.
/// DataError for files that are damaged, do not fit together, or ask for what is not computed here.
/// `device` is where the weights go, with CUDA the calling thread's current GPU.
std::unique_ptr<HostModel> load_host_model(const HostModelConfig& config,
                                           Device device = Device::kCpu);
/// Names in the registry, for messages and docs.
std::vector<std::string> host_families();

}  // namespace thresher::host_model
