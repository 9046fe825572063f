#include "features/latent_pass.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "features/feature_store.h"

namespace thresher::features {
namespace {

constexpr std::int64_t kBatchValues = 1 << 25;
constexpr std::int64_t kMaxBatchRows = 2048;
// Above it sums of many activations would leave 64 bits; no model's stream comes near.
constexpr float kLargestActivation = 1e9F;
constexpr double kFractionScale = 4294967296.0;  // 2^32
constexpr std::int64_t kMergedLatents = 4096;

}  // namespace

LatentTallies::LatentTallies(std::int64_t n_latents)
    : n_fired(static_cast<std::size_t>(n_latents)),
      whole(n_fired.size()),
      fraction(n_fired.size()),
      histogram(n_fired.size() * kHistogramBins) {}

void LatentTallies::add(std::int64_t latent, float activation) {
  const double value = activation;
  const double floor = std::floor(value);
  ++n_fired[latent];
  whole[latent] += static_cast<std::int64_t>(floor);
  fraction[latent] += static_cast<std::int64_t>((value - floor) * kFractionScale);
  ++histogram[latent * kHistogramBins + histogram_bin(activation)];
}

double LatentTallies::sum(std::int64_t latent) const {
  return static_cast<double>(whole[latent]) +
         static_cast<double>(fraction[latent]) / kFractionScale;
}

void LatentTallies::sum_over_ranks(comm::Communicator& comm) {
  comm.all_reduce_sum(std::span(n_fired), "features.n_fired");
  comm.all_reduce_sum(std::span(whole), "features.sums");
  comm.all_reduce_sum(std::span(fraction), "features.sums");
  comm.all_reduce_sum(std::span(&n_tokens, 1), "features.n_tokens");
  const std::size_t slice = kMergedLatents * kHistogramBins;
  for (std::size_t first = 0; first < histogram.size(); first += slice) {
    const auto part =
        std::span(histogram).subspan(first, std::min(slice, histogram.size() - first));
    std::vector<std::int64_t> counts(part.begin(), part.end());
    comm.all_reduce_sum(std::span(counts), "features.histogram");
    std::transform(counts.begin(), counts.end(), part.begin(),
                   [](std::int64_t count) { return static_cast<std::uint32_t>(count); });
  }
}

LatentPass::LatentPass(const sae::InferenceSae& sae, const StoreOptions& options,
                       std::int64_t context_tokens)
    : sae_(&sae),
      context_tokens_(context_tokens),
      lists_(sae.n_latents(), options.n_top, options.n_quantiles * options.n_per_quantile,
             options.seed),
      tallies_(sae.n_latents()),
      co_firing_(options.max_pairs, options.seed) {}

std::int64_t LatentPass::batch_rows(const sae::InferenceSae& sae) {
  return std::clamp<std::int64_t>(kBatchValues / sae.n_latents(), 16, kMaxBatchRows);
}

void LatentPass::begin_context(const ContextUnit& unit, std::int64_t local) {
  const auto begin = local * context_tokens_, end = begin + context_tokens_;
  context_.context = unit.first_context + local;
  context_.token_ids.assign(unit.token_ids.begin() + begin, unit.token_ids.begin() + end);
  context_.documents.assign(unit.documents.begin() + begin, unit.documents.begin() + end);
  context_.firings.clear();
}

void LatentPass::end_context(FiringLogWriter& log) {
  std::vector<Firing>& firings = context_.firings;
  std::sort(firings.begin(), firings.end(), [](const Firing& a, const Firing& b) {
    return a.latent != b.latent ? a.latent < b.latent : a.position < b.position;
  });
  for (std::size_t i = 0; i < firings.size();) {
    ContextPeak peak = {firings[i].activation, firings[i].position, context_.context};
    const std::int32_t latent = firings[i].latent;
    for (; i < firings.size() && firings[i].latent == latent; ++i) {
      if (firings[i].activation <= peak.activation) continue;
      peak.activation = firings[i].activation;
      peak.position = firings[i].position;
    }
    lists_.offer(latent, peak);
  }
  log.add(context_);
}

void LatentPass::add_row(const ContextUnit& unit, std::size_t row, const std::int32_t* latents,
                         const float* activations, std::int64_t width) {
  std::vector<std::int32_t> active;
  for (std::int64_t i = 0; i < width; ++i) {
    const float activation = activations[i];
    if (activation == 0) continue;
    if (!(activation > 0 && activation < kLargestActivation)) {
      throw DataError(fmt::format("context {}, position {}: latent {} has activation {}",
                                  context_.context, unit.row_position[row], latents[i], activation),
                      fmt::format("a number from 0 to {}", kLargestActivation));
    }
    active.push_back(latents[i]);
    context_.firings.push_back({latents[i], unit.row_position[row], activation});
    tallies_.add(latents[i], activation);
  }
  ++tallies_.n_tokens;
  co_firing_.offer(context_.context * context_tokens_ + unit.row_position[row], std::move(active));
}

void LatentPass::add(const ContextUnit& unit, std::size_t hook, FiringLogWriter& log) {
  const at::Tensor& rows = unit.rows.at(hook);
  const std::int64_t n_rows = rows.size(0), batch = batch_rows(*sae_);
  std::int64_t next_context = 0;
  const auto reach = [&](std::int64_t local) {  // contexts without a row count, too
    while (next_context <= local) {
      if (next_context > 0) end_context(log);
      begin_context(unit, next_context++);
    }
  };
  for (std::int64_t first = 0; first < n_rows; first += batch) {
    const at::Tensor x =
        rows.slice(0, first, std::min(first + batch, n_rows)).to(at::kFloat).contiguous();
    const sae::SparseLatents latents = sae_->encode_sparse(x);
    const at::Tensor indices = latents.indices.contiguous(), values = latents.values.contiguous();
    const std::int64_t width = indices.size(1);
    for (std::int64_t i = 0; i < x.size(0); ++i) {
      const auto row = static_cast<std::size_t>(first + i);
      reach(unit.row_context[row]);
      add_row(unit, row, indices.const_data_ptr<std::int32_t>() + i * width,
              values.const_data_ptr<float>() + i * width, width);
    }
  }
  reach(unit.n_contexts - 1);
  end_context(log);
}

void LatentPass::merge(comm::Communicator& comm) {
  tallies_.sum_over_ranks(comm);
  if (comm.world_size() == 1) return;
  const std::int64_t n = sae_->n_latents();
  for (std::int64_t first = 0; first < n; first += kMergedLatents) {
    const std::int64_t end = std::min(first + kMergedLatents, n);
    const std::vector<std::byte> mine =
        comm.is_root() ? std::vector<std::byte>{} : lists_.pack(first, end);
    const auto all = comm.all_gather(mine, "features.lists");
    if (!comm.is_root()) continue;
    for (std::size_t rank = 1; rank < all.size(); ++rank) lists_.merge(first, end, all[rank]);
  }
  const std::vector<std::byte> mine = comm.is_root() ? std::vector<std::byte>{} : co_firing_.pack();
  const auto all = comm.all_gather(mine, "features.co_firing");
  if (!comm.is_root()) return;
  for (std::size_t rank = 1; rank < all.size(); ++rank) co_firing_.merge(all[rank]);
}

}  // namespace thresher::features
