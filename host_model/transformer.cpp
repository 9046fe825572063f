#include "host_model/transformer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
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

at::Tensor& prepare(at::Tensor& buffer, std::int64_t rows, std::int64_t columns) {
  if (!buffer.defined() || buffer.size(0) != rows || buffer.size(1) != columns ||
      is_shared(buffer)) {
    buffer = at::empty({rows, columns}, at::kFloat);
  }
  return buffer;
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
        workspace_(workspace) {
    check_batch();
    check_request();
    last_stage_ = request.want_final ? stage_of({Site::kFinalNormalized, -1}, shape_.n_blocks) : -1;
    for (const auto& [point, hook] : request.hooks) {
      last_stage_ = std::max(last_stage_, stage_of(point, shape_.n_blocks));
    }
  }

  at::Tensor run() {
    if (last_stage_ < 0) return {};
    start();
    if (needs({Site::kAttnOut, request_.first_block})) {
      rotary_ = make_rotary_table(batch_.positions, shape_.d_head, shape_.rope_base);
      mask_ = make_attention_mask(batch_.documents);
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
    return request_.want_final ? normalized : at::Tensor();
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
      residual_ = request_.resid_pre.to(at::kFloat).contiguous();
      may_overwrite_residual_ = false;
      return;
    }
    residual_ = model_.weights_.embedding.index_select(0, batch_.token_ids.reshape({-1}));
    visit_residual({Site::kEmbed, -1});
  }

  /// Shows an activation to its hook; returns what counts from here on.
  at::Tensor visit(const HookPoint& point, const at::Tensor& activation) {
    const auto hook = request_.hooks.find(point);
    if (hook == request_.hooks.end() || !hook->second) return activation;
    const at::Tensor replacement = hook->second(activation);
    if (!replacement.defined()) return activation;
    THRESHER_CHECK(replacement.sizes() == activation.sizes(),
                   fmt::format("the replacement at {} has another shape", point.name()));
    return replacement.to(at::kFloat).contiguous();
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
    add_to_residual(visit({Site::kAttnOut, block}, attention(model_.weights_.blocks[block])));
    if (!needs({Site::kResidMid, block})) return;
    visit_residual({Site::kResidMid, block});
    if (!needs({Site::kMlpOut, block})) return;
    add_to_residual(visit({Site::kMlpOut, block}, mlp(model_.weights_.blocks[block])));
    if (!needs({Site::kResidPost, block})) return;
    visit_residual({Site::kResidPost, block});
  }

  at::Tensor attention(const BlockWeights& weights) {
    const std::int64_t tokens = residual_.size(0);
    at::Tensor& normed = prepare(workspace_.normed, tokens, shape_.d_model);
    rms_norm(residual_, weights.attn_norm, shape_.norm_epsilon, normed);
    at::Tensor& qkv = prepare(workspace_.qkv, tokens, weights.qkv.size(0));
    at::mm_out(qkv, normed, weights.qkv.t());
    apply_rotary(rotary_, shape_.n_heads + shape_.n_kv_heads, shape_.d_head, qkv);
    const at::Tensor mixed = attend(qkv, mask_, shape_.n_heads, shape_.n_kv_heads, shape_.d_head);
    at::Tensor& out = prepare(workspace_.attn_out, tokens, shape_.d_model);
    at::mm_out(out, mixed, weights.attn_out.t());
    return out;
  }

  at::Tensor mlp(const BlockWeights& weights) {
    const std::int64_t tokens = residual_.size(0);
    at::Tensor& normed = prepare(workspace_.normed, tokens, shape_.d_model);
    rms_norm(residual_, weights.mlp_norm, shape_.norm_epsilon, normed);
    at::Tensor& gate_up = prepare(workspace_.gate_up, tokens, 2 * shape_.d_mlp);
    at::mm_out(gate_up, normed, weights.gate_up.t());
    at::Tensor& hidden = prepare(workspace_.hidden, tokens, shape_.d_mlp);
    at::silu_out(hidden, gate_up.narrow(1, 0, shape_.d_mlp));
    hidden.mul_(gate_up.narrow(1, shape_.d_mlp, shape_.d_mlp));
    at::Tensor& out = prepare(workspace_.mlp_out, tokens, shape_.d_model);
    at::mm_out(out, hidden, weights.mlp_out.t());
    return out;
  }

  const Transformer& model_;
  const TransformerShape& shape_;
  const TokenBatch& batch_;
  const ForwardRequest& request_;
  Workspace& workspace_;
  std::int64_t last_stage_ = -1;
  at::Tensor residual_;  // [tokens, d_model]
  bool may_overwrite_residual_ = true;
  RotaryTable rotary_;
  at::Tensor mask_;
};

std::int64_t HostModelInfo::width(const HookPoint& hook_point) const {
  THRESHER_CHECK(hook_point.block < n_blocks, "width of a hook point that the model lacks");
  return d_model;
}

Transformer::Transformer(HostModelInfo info, const TransformerShape& shape,
                         TransformerWeights weights)
    : info_(std::move(info)), shape_(shape), weights_(std::move(weights)) {}

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
  return at::mm(final_normalized * weights_.final_norm, weights_.unembedding.t());
}

at::Tensor Transformer::unembedding() const {
  const at::NoGradGuard no_grad;
  return weights_.unembedding * weights_.final_norm;
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
