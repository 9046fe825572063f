#include "features/path_patching.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;
using Site = HookPoint::Site;

bool is_stream(Site site) {
  return site == Site::kResidPre || site == Site::kResidMid || site == Site::kResidPost ||
         site == Site::kFinalNormalized;
}

/// What the sender writes more than in the unchanged run, [tokens, width].
at::Tensor difference_of(const Component& sender, const AblationRequest& request,
                         const std::vector<std::int64_t>& positions, const ContextRun& run,
                         const ContextRun& source) {
  const at::Tensor& x = run.at(sender.point());
  const Exchange values = exchange(sender, request.change, run, source, 0);
  const at::Tensor index = at::tensor(positions, at::kLong);
  const at::Tensor change = sender.replace(x, values.values, values.changed) - x;
  return at::zeros_like(x).index_copy_(0, index, change.index_select(0, index));
}

/// The receiver's outputs [n * tokens, d_model] when its input is `inputs`.
at::Tensor receiver_outputs(const Receiver& receiver, const at::Tensor& inputs,
                            const ContextRun& run, host_model::HostModel& model) {
  const std::int64_t n = inputs.size(0) / run.n_tokens();
  host_model::ForwardRequest request;
  request.first_block = receiver.block;
  at::Tensor out;
  const auto keep = [&out](const at::Tensor& activation) {
    out = activation.to(at::kCPU, at::kFloat).clone();
    return at::Tensor();
  };
  if (receiver.kind == Receiver::Kind::kAttention) {
    request.resid_pre = inputs;
    request.hooks[{Site::kAttnOut, receiver.block}] = keep;
  } else {
    request.resid_pre = run.at({Site::kResidPre, receiver.block}).repeat({n, 1});
    request.hooks[{Site::kResidMid, receiver.block}] = [&inputs](const at::Tensor&) {
      return inputs;
    };
    request.hooks[{Site::kMlpOut, receiver.block}] = keep;
  }
  model.forward(repeated(run.batch, n), request);
  return out;
}

/// Where a receiver that reads the stream plus `differences` [n * tokens, width] makes a run
/// differ.
std::vector<Replacement> replacements_of(const Receiver& receiver, const at::Tensor& differences,
                                         const ContextRun& run, host_model::HostModel& model) {
  const std::int64_t n = differences.size(0) / run.n_tokens();
  const bool is_attention = receiver.kind == Receiver::Kind::kAttention;
  HookPoint point{Site::kResidPost, model.info().n_blocks - 1};
  at::Tensor rows;
  if (receiver.kind == Receiver::Kind::kFinal) {
    rows = run.at(point).repeat({n, 1}) + differences;
  } else {
    const HookPoint input{is_attention ? Site::kResidPre : Site::kResidMid, receiver.block};
    point = {is_attention ? Site::kAttnOut : Site::kMlpOut, receiver.block};
    rows = receiver_outputs(receiver, run.at(input).repeat({n, 1}) + differences, run, model);
  }
  std::vector<Replacement> out;
  for (const at::Tensor& one : rows.chunk(n)) out.push_back({point, one});
  return out;
}

}  // namespace

std::string Receiver::name() const {
  if (kind == Kind::kFinal) return "final";
  return fmt::format("blocks.{}.{}", block, kind == Kind::kAttention ? "attn" : "mlp");
}

bool Receiver::reads(const Component& sender) const {
  if (kind == Kind::kFinal) return true;
  const Site input = kind == Kind::kAttention ? Site::kResidPre : Site::kResidMid;
  return std::pair(sender.point().block, sender.point().site) <= std::pair(block, input);
}

std::vector<Receiver> all_receivers(std::int64_t n_blocks) {
  std::vector<Receiver> out;
  for (std::int64_t block = 0; block < n_blocks; ++block) {
    out.push_back({Receiver::Kind::kAttention, block});
    out.push_back({Receiver::Kind::kMlp, block});
  }
  out.push_back({Receiver::Kind::kFinal, -1});
  return out;
}

std::vector<Edge> patch_paths(const AblationRequest& request,
                              const std::vector<Receiver>& receivers, double Outputs::*by,
                              const ContextRun& run, const ContextRun& source,
                              host_model::HostModel& model,
                              const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const std::vector<std::int64_t> positions = changed_positions(request, run, source);
  std::vector<at::Tensor> differences;
  for (const Component& sender : request.components) {
    if (sender.kind() == Component::Kind::kHookPoint && is_stream(sender.point().site)) {
      throw ConfigError(fmt::format("{} is the whole stream, no sender", sender.name()),
                        "embed, attn_out, mlp_out, latent:NUMBER or sae_error");
    }
    differences.push_back(difference_of(sender, request, positions, run, source));
  }
  const bool is_patch = request.change.method == Method::kPatch;
  const OutputReader reader(run, is_patch ? source : run, request.tokens, model);
  std::vector<Edge> edges;
  std::vector<Replacement> replacements;
  const auto flush = [&] {
    if (replacements.empty()) return;
    const std::vector<Outputs> outputs =
        reader.measure(run_replaced(run, replacements, model),
                       std::vector<std::int64_t>(replacements.size(), positions.front()));
    const std::size_t first = edges.size() - replacements.size();
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      edges[first + i].effect = difference(outputs[i], reader.unchanged());
    }
    replacements.clear();
  };
  for (std::size_t r = 0; r < receivers.size(); ++r) {
    std::vector<at::Tensor> rows;
    for (std::size_t s = 0; s < request.components.size(); ++s) {
      if (!receivers[r].reads(request.components[s])) continue;
      rows.push_back(differences[s]);
      edges.push_back({request.components[s].name(), receivers[r].name(), {}});
    }
    if (rows.empty()) continue;
    for (Replacement& one : replacements_of(receivers[r], at::cat(rows), run, model)) {
      replacements.push_back(std::move(one));
    }
    if (static_cast<std::int64_t>(replacements.size()) >= runs_per_batch(run)) flush();
    if (progress) {
      progress(static_cast<std::int64_t>(r + 1), static_cast<std::int64_t>(receivers.size()));
    }
  }
  flush();
  std::stable_sort(edges.begin(), edges.end(), [by](const Edge& a, const Edge& b) {
    return std::abs(a.effect.*by) > std::abs(b.effect.*by);
  });
  return edges;
}

}  // namespace thresher::features
