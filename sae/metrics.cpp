#include "sae/metrics.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

#include "core/error.h"

namespace thresher::sae {
namespace {

constexpr double kFirstLogFrequency = -6;
constexpr double kBinWidth = 0.5;
constexpr std::size_t kBins = 12;

double ratio(double numerator, double denominator) {
  return denominator != 0 ? numerator / denominator : std::numeric_limits<double>::quiet_NaN();
}

void check_rows(const at::Tensor& values, std::int64_t rows, std::int64_t cols) {
  THRESHER_CHECK(values.dim() == 2 && values.size(0) == rows && values.size(1) == cols &&
                     values.scalar_type() == at::kFloat,
                 "metrics take float32 rows of the declared width");
}

}  // namespace

ReconstructionMetrics::ReconstructionMetrics(std::int64_t d_in, std::int64_t n_latents)
    : d_in_(d_in),
      n_latents_(n_latents),
      shift_(static_cast<std::size_t>(d_in), 0.0),
      sum_(static_cast<std::size_t>(d_in), 0.0),
      fire_counts_(static_cast<std::size_t>(n_latents), 0) {}

void ReconstructionMetrics::add(const at::Tensor& x_rows, const at::Tensor& recon_rows,
                                const at::Tensor& latent_acts) {
  const std::int64_t rows = x_rows.size(0);
  check_rows(x_rows, rows, d_in_);
  check_rows(recon_rows, rows, d_in_);
  THRESHER_CHECK(n_tokens_ == 0 || has_latents_ == latent_acts.defined(),
                 "latent activations are given for all rows or for none");
  if (rows == 0) return;
  const at::Tensor x = x_rows.contiguous();
  const at::Tensor recon = recon_rows.contiguous();
  if (!has_shift_) set_shift(x);
  has_latents_ = latent_acts.defined();
  n_tokens_ += rows;
  add_reconstruction(x, recon);
  if (has_latents_) {
    check_rows(latent_acts, rows, n_latents_);
    add_latents(latent_acts.contiguous());
  }
}

void ReconstructionMetrics::set_shift(const at::Tensor& x) {
  const float* row = x.const_data_ptr<float>();
  for (std::int64_t r = 0; r < x.size(0); ++r, row += d_in_) {
    for (std::int64_t j = 0; j < d_in_; ++j) shift_[j] += static_cast<double>(row[j]);
  }
  for (double& value : shift_) value /= static_cast<double>(x.size(0));
  has_shift_ = true;
}

void ReconstructionMetrics::add_reconstruction(const at::Tensor& x_rows,
                                               const at::Tensor& recon_rows) {
  const float* x = x_rows.const_data_ptr<float>();
  const float* recon = recon_rows.const_data_ptr<float>();
  for (std::int64_t r = 0; r < x_rows.size(0); ++r, x += d_in_, recon += d_in_) {
    double x_squares = 0, recon_squares = 0, product = 0, error = 0, centred_squares = 0;
    for (std::int64_t j = 0; j < d_in_; ++j) {
      const auto a = static_cast<double>(x[j]);
      const auto b = static_cast<double>(recon[j]);
      const double centred = a - shift_[j];
      sum_[j] += centred;
      centred_squares += centred * centred;
      error += (a - b) * (a - b);
      x_squares += a * a;
      recon_squares += b * b;
      product += a * b;
    }
    sum_squares_ += centred_squares;
    sum_squared_error_ += error;
    const double norms = std::sqrt(x_squares * recon_squares);  // of floats: cannot overflow
    // A zero vector has no direction; it counts 0. NaN must not be hidden by that.
    sum_cosine_ += norms == 0 ? 0 : product / norms;
  }
}

void ReconstructionMetrics::add_latents(const at::Tensor& latent_acts) {
  const float* act = latent_acts.const_data_ptr<float>();
  for (std::int64_t r = 0; r < latent_acts.size(0); ++r, act += n_latents_) {
    std::int64_t active = 0;
    double total = 0;
    for (std::int64_t i = 0; i < n_latents_; ++i) {
      const std::int64_t fires = act[i] > 0 ? 1 : 0;
      active += fires;
      fire_counts_[i] += fires;
      total += std::abs(static_cast<double>(act[i]));
    }
    sum_l0_ += static_cast<double>(active);
    sum_l1_ += total;
  }
}

void ReconstructionMetrics::move_shift(const std::vector<double>& shift) {
  // sum |x - b|^2 = sum |x - a|^2 + 2 (a - b) . sum (x - a) + n |a - b|^2
  const auto n = static_cast<double>(n_tokens_);
  for (std::size_t j = 0; j < shift.size(); ++j) {
    const double step = shift_[j] - shift[j];
    sum_squares_ += 2 * step * sum_[j] + n * step * step;
    sum_[j] += n * step;
  }
  shift_ = shift;
}

std::int64_t ReconstructionMetrics::n_tokens() const { return n_tokens_; }

double ReconstructionMetrics::fvu() const {
  double variance = sum_squares_;
  for (const double sum : sum_) variance -= sum * sum / static_cast<double>(n_tokens_);
  return ratio(sum_squared_error_, variance);
}

double ReconstructionMetrics::explained_variance() const { return 1 - fvu(); }

double ReconstructionMetrics::mse() const {
  return ratio(sum_squared_error_, static_cast<double>(n_tokens_) * static_cast<double>(d_in_));
}

double ReconstructionMetrics::cosine_similarity() const {
  return ratio(sum_cosine_, static_cast<double>(n_tokens_));
}

double ReconstructionMetrics::l0() const { return ratio(sum_l0_, static_cast<double>(n_tokens_)); }

double ReconstructionMetrics::l1() const { return ratio(sum_l1_, static_cast<double>(n_tokens_)); }

double ReconstructionMetrics::dead_fraction() const {
  const auto silent = std::count(fire_counts_.begin(), fire_counts_.end(), 0);
  return ratio(static_cast<double>(silent), static_cast<double>(n_latents_));
}

double ReconstructionMetrics::dense_fraction(double frequency) const {
  const double limit = frequency * static_cast<double>(n_tokens_);
  const auto dense = std::count_if(fire_counts_.begin(), fire_counts_.end(),
                                   [&](std::int64_t n) { return static_cast<double>(n) > limit; });
  return ratio(static_cast<double>(dense), static_cast<double>(n_latents_));
}

std::vector<std::int64_t> ReconstructionMetrics::fire_counts() const { return fire_counts_; }

Json ReconstructionMetrics::density_histogram() const {
  std::vector<std::int64_t> counts(kBins, 0);
  std::int64_t silent = 0;
  for (const std::int64_t count : fire_counts_) {
    if (count == 0) {
      ++silent;
      continue;
    }
    const double log_frequency =
        std::log10(static_cast<double>(count) / static_cast<double>(n_tokens_));
    const double bin = std::floor((log_frequency - kFirstLogFrequency) / kBinWidth);
    ++counts[static_cast<std::size_t>(std::clamp(bin, 0.0, static_cast<double>(kBins - 1)))];
  }
  std::vector<double> edges(kBins + 1);
  for (std::size_t i = 0; i <= kBins; ++i) {
    edges[i] = kFirstLogFrequency + kBinWidth * static_cast<double>(i);
  }
  return Json::object({{"log10_edges", Json::array_of(edges)},
                       {"counts", Json::array_of(counts)},
                       {"silent", silent}});
}

Json ReconstructionMetrics::json() const {
  Json out = Json::object({{"fvu", fvu()},
                           {"explained_variance", explained_variance()},
                           {"mse", mse()},
                           {"cosine_similarity", cosine_similarity()}});
  if (has_latents_) {
    out["l0"] = l0();
    out["l1"] = l1();
    out["dead_fraction"] = dead_fraction();
    out["dense_fraction"] = dense_fraction();
    out["density_histogram"] = density_histogram();
  }
  out["n_tokens"] = n_tokens_;
  return out;
}

}  // namespace thresher::sae
