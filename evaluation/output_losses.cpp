#include "evaluation/output_losses.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace thresher::evaluation {
namespace {

// Two chunks of logits should stay near the cores between the passes over them.
constexpr std::int64_t kChunkLogits = 4 << 20;
constexpr std::int64_t kMinChunkRows = 32;
constexpr std::int64_t kLanes = 8;

/// sum of term(i) for i < count in float64, in an order that does not depend on threads and that
/// compilers can vectorise.
template <class Term>
double lane_sum(std::int64_t count, Term term) {
  double lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  }
  for (std::int64_t lane = 0; i < count; ++i, ++lane) lanes[lane] += term(i);
  double total = 0;
  for (const double lane : lanes) total += lane;
  return total;
}

/// Logits of some rows and what is needed of their softmax.
struct Distribution {
  at::Tensor logits;            // [rows, n_vocabulary] float32
  at::Tensor exponentials;      // exp(logit - highest of the row)
  std::vector<double> highest;  // [rows]
  std::vector<double> log_sum;  // [rows] log of the sum of the row's exponentials
};

Distribution distribution_of(const at::Tensor& rows, host_model::HostModel& model) {
  Distribution out;
  out.logits = model.unembed(rows).to(at::kCPU).contiguous();
  const std::int64_t n_rows = out.logits.size(0);
  const std::int64_t n_vocabulary = out.logits.size(1);
  const at::Tensor highest = out.logits.amax(1, /*keepdim=*/true);
  out.exponentials = at::sub(out.logits, highest).exp_();
  const float* maxima = highest.const_data_ptr<float>();
  out.highest.assign(maxima, maxima + n_rows);
  out.log_sum.resize(static_cast<std::size_t>(n_rows));
  const float* exponentials = out.exponentials.const_data_ptr<float>();
  at::parallel_for(0, n_rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float* e = exponentials + row * n_vocabulary;
      out.log_sum[row] = std::log(
          lane_sum(n_vocabulary, [e](std::int64_t i) { return static_cast<double>(e[i]); }));
    }
  });
  return out;
}

at::Tensor select_rows(const at::Tensor& values, const at::Tensor& rows) {
  return values.index_select(0, rows.to(values.device()));
}

double cross_entropy(const Distribution& run, std::int64_t row, std::int64_t target) {
  const float* logits = run.logits.const_data_ptr<float>() + row * run.logits.size(1);
  return run.log_sum[row] + (run.highest[row] - static_cast<double>(logits[target]));
}

/// sum p (log p - log q) = E_p[(c - max c) - (r - max r)] + log_sum_r - log_sum_c, for logits c
/// (clean) and r (run).
double kl_divergence(const Distribution& clean, const Distribution& run, std::int64_t row) {
  const std::int64_t n_vocabulary = clean.logits.size(1);
  const float* c = clean.logits.const_data_ptr<float>() + row * n_vocabulary;
  const float* r = run.logits.const_data_ptr<float>() + row * n_vocabulary;
  const float* e = clean.exponentials.const_data_ptr<float>() + row * n_vocabulary;
  const double shift = clean.highest[row] - run.highest[row];
  const double weighted = lane_sum(n_vocabulary, [=](std::int64_t i) {
    return static_cast<double>(e[i]) *
           (static_cast<double>(c[i]) - static_cast<double>(r[i]) - shift);
  });
  return weighted / std::exp(clean.log_sum[row]) + run.log_sum[row] - clean.log_sum[row];
}

}  // namespace

std::vector<OutputLosses> output_losses(const at::Tensor& clean_final,
                                        const std::vector<at::Tensor>& runs,
                                        const at::Tensor& prediction_rows,
                                        const at::Tensor& targets, host_model::HostModel& model) {
  const std::int64_t n_rows = prediction_rows.numel();
  const std::int64_t* target = targets.const_data_ptr<std::int64_t>();
  std::vector<OutputLosses> out;
  for (std::size_t run = 0; run <= runs.size(); ++run) {
    out.push_back({at::zeros({n_rows}, at::kDouble), at::zeros({n_rows}, at::kDouble)});
  }
  const std::int64_t chunk = std::max(kMinChunkRows, kChunkLogits / model.info().n_vocabulary);
  for (std::int64_t start = 0; start < n_rows; start += chunk) {
    const std::int64_t count = std::min(chunk, n_rows - start);
    const at::Tensor rows = prediction_rows.narrow(0, start, count);
    const Distribution clean = distribution_of(select_rows(clean_final, rows), model);
    const auto fill = [&](const Distribution& run, OutputLosses& losses, bool is_clean) {
      double* ce = losses.cross_entropy.mutable_data_ptr<double>() + start;
      double* kl = losses.kl_divergence.mutable_data_ptr<double>() + start;
      at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
          ce[row] = cross_entropy(run, row, target[start + row]);
          if (!is_clean) kl[row] = kl_divergence(clean, run, row);
        }
      });
    };
    fill(clean, out[0], true);
    for (std::size_t run = 0; run < runs.size(); ++run) {
      fill(distribution_of(select_rows(runs[run], rows), model), out[run + 1], false);
    }
  }
  return out;
}

}  // namespace thresher::evaluation
