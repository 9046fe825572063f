#include "host_model/transformer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "core/error.h"
#include "host_model/attention.h"
#include "host_model/rms_norm.h"
#include "host_model/rotary.h"

namespace thresher::host_model {

using Site = HookPoint::Site;

/// Buffers of one pass, kept between passes because fresh pages cost more than the work done in
/// them.
struct Workspace {
  at::Tensor normed;    // [tokens, d_model]
  at::Tensor qkv;       // [tokens, (n_heads + 2 n_kv_heads) d_head]
  at::Tensor attn_out;  // [tokens, d_model]
  at::Tensor gate_up;   // [tokens, 2 d_mlp]
  at::Tensor hidden;    // [tokens, d_mlp]
  at::Tensor mlp_out;   // [tokens, d_model]
};

namespace {

/// Whether somebody else, such as a hook that kept what it was shown, still refers to these values.
bool is_shared(const at::Tensor& tensor) {
  return tensor.use_count() > 1 || tensor.storage().use_count() > 1;
}

at::Tensor& prepare(at::Tensor& buffer, std::int64_t rows, std::int64_t columns,
                    const at::TensorOptions& options) {
  if (!buffer.defined() || buffer.size(0) != rows || buffer.size(1) != columns ||
      is_shared(buffer)) {
    buffer = at::empty({rows, columns}, options);
  }
  return buffer;
}

/// out = x weightᵀ (+ bias).
void project(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
             at::Tensor& out) {
  if (bias.defined()) {
    at::addmm_out(out, bias, x, weight.t());
  } else {
    at::mm_out(out, x, weight.t());
  }
}

/// Place of a hook point in the order of computation.
std::int64_t stage_of(const HookPoint& point, std::int64_t n_blocks) {
  const auto in_block = [&](std::int64_t step) { return 1 + 5 * point.block + step; };
  switch (point.site) {
    case Site::kEmbed:
      return 0;
    case Site::kResidPre:
      return in_block(0);
    case Site::kAttnOut:
      return in_block(1);
    case Site::kResidMid:
      return in_block(2);
    case Site::kMlpOut:
      return in_block(3);
    case Site::kResidPost:
      return in_block(4);
    case Site::kFinalNormalized:
      break;
  }
  return 1 + 5 * n_blocks;
}

void check_ids(const at::Tensor& ids, std::int64_t limit, const char* what) {
  if (ids.numel() == 0) return;
  const auto [lowest, highest] = at::aminmax(ids);
  THRESHER_CHECK(lowest.item<std::int64_t>() >= 0 && highest.item<std::int64_t>() < limit,
                 fmt::format("{} from {} to {}, the model knows 0 to {}", what,
                             lowest.item<std::int64_t>(), highest.item<std::int64_t>(), limit - 1));
}

}  // namespace

/// One forward pass: its residual stream, and how far it has to go.
class Transformer::Pass {
 public:
  Pass(const Transformer& model, const TokenBatch& batch, const ForwardRequest& request,
       Workspace& workspace)
      : model_(model),
        shape_(model.shape_),
        batch_(batch),
        request_(request),
        workspace_(workspace),
        options_(model.weights_.embedding.options()) {
    check_batch();
    check_request();
    last_stage_ = request.want_final ? stage_of({Site::kFinalNormalized, -1}, shape_.n_blocks) : -1;
    for (const auto& [point, hook] : request.hooks) {
      last_stage_ = std::max(last_stage_, stage_of(point, shape_.n_blocks));
    }
  }

  at::Tensor run() {
    if (last_stage_ < 0) return {};
    if (request_.cache != nullptr) request_.cache->begin_pass(batch_.documents, batch_.positions);
    start();
    if (needs({Site::kAttnOut, request_.first_block})) {
      rotary_ = make_rotary_table(batch_.positions.to(options_.device()),
                                  model_.rotary_frequencies_, model_.info_.dtype);
    }
    for (std::int64_t block = request_.first_block; block < shape_.n_blocks; ++block) {
      if (!needs({Site::kResidPre, block})) return {};
      run_block(block);
    }
    const HookPoint last{Site::kFinalNormalized, -1};
    if (!needs(last)) return {};
    at::Tensor normalized = at::empty_like(residual_);
    rms_norm(residual_, {}, shape_.norm_epsilon, normalized);
    normalized = visit(last, normalized);
    return request_.want_final ? normalized.to(at::kFloat) : at::Tensor();
  }

 private:
  bool needs(const HookPoint& point) const {
    return stage_of(point, shape_.n_blocks) <= last_stage_;
  }

  void check_batch() const {
    const at::Tensor& ids = batch_.token_ids;
    THRESHER_CHECK(ids.dim() == 2 && batch_.positions.sizes() == ids.sizes() &&
                       batch_.documents.sizes() == ids.sizes(),
                   "token_ids, positions and documents must be [n_contexts, context_tokens] alike");
    THRESHER_CHECK(ids.scalar_type() == at::kLong && batch_.positions.scalar_type() == at::kLong &&
                       batch_.documents.scalar_type() == at::kLong,
                   "token_ids, positions and documents must be int64");
    check_ids(ids, shape_.n_vocabulary, "token ids");
    check_ids(batch_.positions, shape_.max_context_tokens, "positions");
  }

  void check_request() const {
    const std::int64_t first = request_.first_block;
    const bool restarts = request_.resid_pre.defined();
    THRESHER_CHECK(first >= 0 && first <= shape_.n_blocks && (first == 0 || restarts),
                   "a pass that starts at a later block needs that block's residual stream");
    if (restarts) {
      THRESHER_CHECK(request_.resid_pre.dim() == 2 &&
                         request_.resid_pre.size(0) == batch_.token_ids.numel() &&
                         request_.resid_pre.size(1) == shape_.d_model,
                     "resid_pre must be [tokens, d_model]");
    }
    const std::int64_t earliest =
        restarts ? stage_of({Site::kResidPre, first}, shape_.n_blocks) : 0;
    for (const auto& [point, hook] : request_.hooks) {
      if (point.block >= shape_.n_blocks) {
        throw ConfigError(
            fmt::format("hook point {}: the model has {} blocks", point.name(), shape_.n_blocks),
            fmt::format("blocks.0 to blocks.{}", shape_.n_blocks - 1));
      }
      if (stage_of(point, shape_.n_blocks) < earliest) {
        throw ConfigError(fmt::format("hook point {} lies before block {}, where the pass starts",
                                      point.name(), first),
                          fmt::format("blocks.{}.hook_resid_pre or a later one", first));
      }
    }
  }

  void start() {
    if (request_.resid_pre.defined()) {
      residual_ = request_.resid_pre.to(options_).contiguous();
      may_overwrite_residual_ = false;
      return;
    }
    residual_ = model_.weights_.embedding.index_select(
        0, batch_.token_ids.reshape({-1}).to(options_.device()));
    visit_residual({Site::kEmbed, -1});
  }

  /// Shows an activation to its hook; returns what counts from here on.
  at::Tensor visit(const HookPoint& point, const at::Tensor& activation) {
    const auto hook = request_.hooks.find(point);
    if (hook == request_.hooks.end() || !hook->second) return activation;
    const at::Tensor replacement = hook->second(activation.to(at::kFloat));
    if (!replacement.defined()) return activation;
    THRESHER_CHECK(replacement.sizes() == activation.sizes(),
                   fmt::format("the replacement at {} has another shape", point.name()));
    return replacement.to(options_).contiguous();
  }

  void visit_residual(const HookPoint& point) {
    at::Tensor visited = visit(point, residual_);
    if (visited.is_same(residual_)) return;
    residual_ = std::move(visited);
    may_overwrite_residual_ = false;
  }

  void add_to_residual(const at::Tensor& update) {
    if (may_overwrite_residual_ && !is_shared(residual_)) {
      residual_.add_(update);
    } else {
      residual_ = residual_ + update;
      may_overwrite_residual_ = true;
    }
  }

  void run_block(std::int64_t block) {
    visit_residual({Site::kResidPre, block});
    if (!needs({Site::kAttnOut, block})) return;
    add_to_residual(visit({Site::kAttnOut, block}, attention(block)));
    if (!needs({Site::kResidMid, block})) return;
    visit_residual({Site::kResidMid, block});
    if (!needs({Site::kMlpOut, block})) return;
    add_to_residual(visit({Site::kMlpOut, block}, mlp(model_.weights_.blocks[block])));
    if (!needs({Site::kResidPost, block})) return;
    visit_residual({Site::kResidPost, block});
  }

  at::Tensor& buffer(at::Tensor Workspace::*place, std::int64_t columns) {
    return prepare(workspace_.*place, residual_.size(0), columns, options_);
  }

  /// Windows that reach over the whole context are no windows.
  const at::Tensor& mask(std::int64_t block) {
    std::int64_t window = shape_.attention_window(block);
    if (window >= documents().size(1)) window = 0;
    at::Tensor& made = masks_[window];
    if (!made.defined()) {
      made = make_attention_mask(documents(), positions(), batch_.documents.size(1), window)
                 .to(options_);
    }
    return made;
  }

  /// Of all tokens that may be seen, cached ones included.
  const at::Tensor& documents() const {
    return request_.cache == nullptr ? batch_.documents : request_.cache->documents();
  }
  const at::Tensor& positions() const {
    return request_.cache == nullptr ? batch_.positions : request_.cache->positions();
  }

  at::Tensor attention(std::int64_t block) {
    const BlockWeights& weights = model_.weights_.blocks[block];
    at::Tensor& normed = buffer(&Workspace::normed, shape_.d_model);
    rms_norm(residual_, weights.attn_norm, shape_.norm_epsilon, normed);
    at::Tensor& qkv = buffer(&Workspace::qkv, weights.qkv.size(0));
    project(normed, weights.qkv, weights.qkv_bias, qkv);
    apply_rotary(rotary_, shape_.n_heads + shape_.n_kv_heads, shape_.d_head, qkv);
    Heads heads = split_heads(qkv, batch_.token_ids.size(0), shape_.n_heads, shape_.n_kv_heads,
                              shape_.d_head);
    if (request_.cache != nullptr) {
      const KvCache::Rows seen = request_.cache->append(block, {heads.keys, heads.values});
      heads.keys = seen.keys;
      heads.values = seen.values;
    }
    const at::Tensor mixed = attend(heads, mask(block));
    at::Tensor& out = buffer(&Workspace::attn_out, shape_.d_model);
    project(mixed, weights.attn_out, weights.attn_out_bias, out);
    return out;
  }

  at::Tensor mlp(const BlockWeights& weights) {
    at::Tensor& normed = buffer(&Workspace::normed, shape_.d_model);
    rms_norm(residual_, weights.mlp_norm, shape_.norm_epsilon, normed);
    at::Tensor& gate_up = buffer(&Workspace::gate_up, 2 * shape_.d_mlp);
    project(normed, weights.gate_up, weights.gate_up_bias, gate_up);
    at::Tensor& hidden = buffer(&Workspace::hidden, shape_.d_mlp);
    at::silu_out(hidden, gate_up.narrow(1, 0, shape_.d_mlp));
    hidden.mul_(gate_up.narrow(1, shape_.d_mlp, shape_.d_mlp));
    at::Tensor& out = buffer(&Workspace::mlp_out, shape_.d_model);
    project(hidden, weights.mlp_out, weights.mlp_out_bias, out);
    return out;
  }

  const Transformer& model_;
  const TransformerShape& shape_;
  const TokenBatch& batch_;
  const ForwardRequest& request_;
  Workspace& workspace_;
  const at::TensorOptions options_;  // type and device
  std::int64_t last_stage_ = -1;
  at::Tensor residual_;  // [tokens, d_model]
  bool may_overwrite_residual_ = true;
  RotaryTable rotary_;
  std::map<std::int64_t, at::Tensor> masks_;  // by window
};

std::int64_t HostModelInfo::width(const HookPoint& hook_point) const {
  THRESHER_CHECK(hook_point.block < n_blocks, "width of a hook point that the model lacks");
  return d_model;
}

namespace {

std::int64_t count_parameters(const TransformerWeights& weights) {
  std::int64_t count = weights.embedding.numel() + weights.final_norm.numel();
  if (!weights.unembedding.is_same(weights.embedding)) count += weights.unembedding.numel();
  for (const BlockWeights& block : weights.blocks) {
    for (const at::Tensor& tensor :
         {block.attn_norm, block.qkv, block.qkv_bias, block.attn_out, block.attn_out_bias,
          block.mlp_norm, block.gate_up, block.gate_up_bias, block.mlp_out, block.mlp_out_bias}) {
      if (tensor.defined()) count += tensor.numel();
    }
  }
  return count;
}

}  // namespace

Transformer::Transformer(HostModelInfo info, const TransformerShape& shape,
                         TransformerWeights weights)
    : info_(std::move(info)),
      shape_(shape),
      weights_(std::move(weights)),
      rotary_frequencies_(rotary_frequencies(shape.d_head, shape.rope_base, shape.rope_scaling)
                              .to(weights_.embedding.device())) {
  info_.n_blocks = shape_.n_blocks;
  info_.d_model = shape_.d_model;
  info_.n_vocabulary = shape_.n_vocabulary;
  info_.max_context_tokens = shape_.max_context_tokens;
  const bool is_bfloat16 = weights_.embedding.scalar_type() == at::kBFloat16;
  info_.device = weights_.embedding.is_cuda() ? Device::kCuda : Device::kCpu;
  info_.dtype = is_bfloat16 ? Dtype::kBfloat16 : Dtype::kFloat32;
  info_.parameter_bytes =
      count_parameters(weights_) * static_cast<std::int64_t>(dtype_bytes(info_.dtype));
}

Transformer::~Transformer() = default;

at::Tensor Transformer::forward(const TokenBatch& batch, const ForwardRequest& request) {
  const at::NoGradGuard no_grad;
  std::unique_ptr<Workspace> workspace = take_workspace();
  at::Tensor final_normalized = Pass(*this, batch, request, *workspace).run();
  return_workspace(std::move(workspace));
  return final_normalized;
}

at::Tensor Transformer::unembed(const at::Tensor& final_normalized) {
  const at::NoGradGuard no_grad;
  const at::Tensor rows = final_normalized.to(weights_.final_norm.options());
  return at::mm(rows * weights_.final_norm, weights_.unembedding.t()).to(at::kFloat);
}

at::Tensor Transformer::unembedding() const {
  const at::NoGradGuard no_grad;
  return (weights_.unembedding.to(at::kFloat) * weights_.final_norm.to(at::kFloat)).to(at::kCPU);
}

std::unique_ptr<Workspace> Transformer::take_workspace() {
  const std::lock_guard lock(mutex_);
  if (idle_workspaces_.empty()) return std::make_unique<Workspace>();
  std::unique_ptr<Workspace> workspace = std::move(idle_workspaces_.back());
  idle_workspaces_.pop_back();
  return workspace;
}

void Transformer::return_workspace(std::unique_ptr<Workspace> workspace) {
  const std::lock_guard lock(mutex_);
  idle_workspaces_.push_back(std::move(workspace));
}

}  // namespace thresher::host_model
