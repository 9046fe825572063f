#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "kernels/detail/backends.h"
#include "kernels/detail/row_loops.h"
#include "kernels/parallel.h"

namespace thresher::kernels::detail {
namespace {

// About this many multiply-adds are worth a thread.
constexpr std::int64_t kGrainFlops = 1 << 15;

/// Height of the node of the binary tree over lanes where two lanes meet.
int meeting_height(std::int64_t left, std::int64_t right) {
  return static_cast<int>(std::bit_width(static_cast<std::uint64_t>(left ^ right)));
}

/// The pairs of one latent, lane after lane. A lane without pairs would add +0 to a sum that
/// started at +0 and so is never -0: leaving it out changes no bit.
class PairList {
 public:
  PairList(bool wants_decoder, bool wants_encoder)
      : wants_decoder_(wants_decoder), wants_encoder_(wants_encoder) {}

  void read(std::int64_t latent, std::int64_t d, std::int64_t n_lanes, const LatentPairs* lanes) {
    clear();
    for (std::int64_t l = 0; l < n_lanes; ++l) {
      const LatentPairs& lane = lanes[l];
      const std::int64_t begin = lane.offsets[latent], end = lane.offsets[latent + 1];
      if (begin == end) continue;
      for (std::int64_t p = begin; p < end; ++p) {
        const std::int64_t row = lane.pair_rows[p];
        const std::int32_t slot = lane.pair_slots[p];
        if (wants_decoder_) {
          residuals_.push_back(lane.residuals + row * d);
          values_.push_back(lane.values[slot]);
        }
        if (!wants_encoder_) continue;
        inputs_.push_back(lane.inputs + (row < lane.n_inputs ? row : row - lane.n_inputs) * d);
        grad_values_.push_back(lane.grad_values[slot]);
      }
      n_pairs_ += end - begin;
      segments_.push_back({n_pairs_, 0});
      lanes_.push_back(l);
    }
    plan_merges();
  }

  void clear() {
    residuals_.clear();
    inputs_.clear();
    values_.clear();
    grad_values_.clear();
    segments_.clear();
    lanes_.clear();
    n_pairs_ = 0;
  }

  bool is_empty() const { return segments_.empty(); }
  RowSum decoder_sum(const PairList& next) const {
    return sum_of(residuals_, values_, next.residuals_);
  }
  RowSum encoder_sum(const PairList& next) const {
    return sum_of(inputs_, grad_values_, next.inputs_);
  }

  float bias_sum() const {
    float waiting[64];
    std::size_t depth = 0, i = 0;
    for (const LaneSegment& segment : segments_) {
      float sum = 0.0f;
      for (; i < static_cast<std::size_t>(segment.end); ++i) sum += grad_values_[i];
      for (std::int64_t m = 0; m < segment.merges; ++m) sum = waiting[--depth] + sum;
      waiting[depth++] = sum;
    }
    return depth == 0 ? 0.0f : waiting[0];
  }

 private:
  RowSum sum_of(const std::vector<const float*>& rows, const std::vector<float>& coefficients,
                const std::vector<const float*>& next) const {
    return {rows.data(),
            coefficients.data(),
            segments_.data(),
            static_cast<std::int64_t>(segments_.size()),
            nullptr,
            next.data(),
            static_cast<std::int64_t>(next.size())};
  }

  /// A lane's sum takes in every waiting sum that it meets below the node where the next lane
  /// joins.
  void plan_merges() {
    waiting_.clear();
    for (std::size_t i = 0; i < lanes_.size(); ++i) {
      const int joined = i + 1 < lanes_.size() ? meeting_height(lanes_[i], lanes_[i + 1]) : 64;
      while (!waiting_.empty() && meeting_height(waiting_.back(), lanes_[i]) < joined) {
        waiting_.pop_back();
        ++segments_[i].merges;
      }
      waiting_.push_back(lanes_[i]);
    }
  }

  bool wants_decoder_, wants_encoder_;
  std::int64_t n_pairs_ = 0;
  std::vector<const float*> residuals_, inputs_;
  std::vector<float> values_, grad_values_;
  std::vector<LaneSegment> segments_;
  std::vector<std::int64_t> lanes_, waiting_;
};

/// Pairs of the latents before `latent`, plus the latents themselves: what the work is proportional
/// to.
std::int64_t cost_before(std::int64_t latent, std::int64_t n_lanes, const LatentPairs* lanes) {
  std::int64_t cost = latent;
  for (std::int64_t lane = 0; lane < n_lanes; ++lane) cost += lanes[lane].offsets[latent];
  return cost;
}

}  // namespace

void accumulate_gradients_cpu(std::int64_t n_latents, std::int64_t d, std::int64_t n_lanes,
                              const LatentPairs* lanes, float* W_dec, float* W_enc, float* b_enc) {
  const RowLoops& loops = row_loops(cpu_isa());
  const int levels = meeting_height(n_lanes, 0);
  const auto cost = [&](std::int64_t latent) { return cost_before(latent, n_lanes, lanes); };
  const std::int64_t grain = std::max<std::int64_t>(1, kGrainFlops / std::max<std::int64_t>(1, d));
  parallel_for_cost(n_latents, grain, cost, [&](std::int64_t begin, std::int64_t end) {
    PairList now(W_dec != nullptr, W_enc != nullptr), next = now;
    std::vector<float> stack(static_cast<std::size_t>(levels * kMaxBlockCols));
    next.read(begin, d, n_lanes, lanes);
    for (std::int64_t latent = begin; latent < end; ++latent) {
      std::swap(now, next);
      if (latent + 1 < end) {
        next.read(latent + 1, d, n_lanes, lanes);
      } else {
        next.clear();
      }
      const auto sum = [&](const RowSum& rows, float* out) {
        if (now.is_empty()) {
          std::fill_n(out, d, 0.0f);
        } else {
          loops.sum(rows, d, stack.data(), out);
        }
      };
      if (W_dec != nullptr) sum(now.decoder_sum(next), W_dec + latent * d);
      if (W_enc == nullptr) continue;
      sum(now.encoder_sum(next), W_enc + latent * d);
      b_enc[latent] = now.bias_sum();
    }
  });
}

}  // namespace thresher::kernels::detail
