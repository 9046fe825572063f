#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "kernels/decoder_norm.h"
#include "kernels/tree_sum.h"
#include "trainer/parameter_update.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kNormBlock = std::int64_t{1} << 18;  // values; 1 MiB
constexpr kernels::Exec kExec{};

class HostUpdate final : public ParameterUpdate {
 public:
  HostUpdate(sae::TrainingSae& sae, std::vector<Moments>& moments, double clip_norm)
      : sae_(&sae), moments_(&moments), clip_norm_(clip_norm), parallel_(sae.parameters().size()) {
    for (const sae::Parameter& parameter : sae.parameters()) {
      THRESHER_CHECK(parameter.weight.is_cpu(), "this update reads gradients on the host");
    }
  }

  UpdateFigures run(const kernels::AdamStep& adam, bool wants_norms,
                    comm::Communicator& /*comm*/) override {
    UpdateFigures figures;
    figures.gradient_norm = gradient_norm();
    if (!std::isfinite(figures.gradient_norm)) return figures;
    kernels::AdamStep clipped = adam;
    clipped.gradient_scale = clip_norm_ > 0 && figures.gradient_norm > clip_norm_
                                 ? clip_norm_ / figures.gradient_norm
                                 : 1.0;
    if (wants_norms) {
      update_with_norms(clipped, figures);
    } else {
      for (std::size_t i = 0; i < moments_->size(); ++i) {
        update_rows(i, clipped, 0, sae_->parameters()[i].memory_rows(), true);
      }
    }
    return figures;
  }

 private:
  /// Without what is parallel to unit rows, which goes to parallel_.
  double gradient_norm() {
    std::vector<double> squares;
    for (std::size_t i = 0; i < moments_->size(); ++i) {
      const sae::Parameter& parameter = sae_->parameters()[i];
      const at::Tensor& gradient = parameter.gradient;
      const std::int64_t rows = parameter.memory_rows();
      const std::int64_t cols = gradient.numel() / rows;
      if (!parameter.has_unit_rows) {
        squares.push_back(kernels::sum_of_squares(kExec, rows, cols, gradient.data_ptr<float>()));
        continue;
      }
      parallel_[i].resize(static_cast<std::size_t>(rows));
      squares.push_back(
          kernels::parallel_components(kExec, rows, cols, parameter.weight.data_ptr<float>(),
                                       gradient.data_ptr<float>(), parallel_[i].data()));
    }
    return std::sqrt(kernels::tree_sum(squares));
  }

  /// Rows [first, first + rows) of parameter i, as they lie in memory.
  void update_rows(std::size_t i, const kernels::AdamStep& adam, std::int64_t first,
                   std::int64_t rows, bool renormalises) {
    const sae::Parameter& parameter = sae_->parameters()[i];
    const std::int64_t cols = parameter.weight.numel() / parameter.memory_rows();
    const float* gradient = parameter.gradient.data_ptr<float>() + first * cols;
    float* weights = parameter.weight.data_ptr<float>() + first * cols;
    float* m = (*moments_)[i].m.data_ptr<float>() + first * cols;
    float* v = (*moments_)[i].v.data_ptr<float>() + first * cols;
    const kernels::AdamStep step = adam_of(parameter, adam);
    if (parameter.has_unit_rows) {
      kernels::adam_unit_rows(kExec, step, rows, cols, gradient, parallel_[i].data() + first,
                              renormalises, weights, m, v);
    } else {
      kernels::adam(kExec, step, rows * cols, gradient, weights, m, v);
    }
  }

  /// In blocks that stay in the cache, so that the copy of the old weights costs next to nothing.
  void update_with_norms(const kernels::AdamStep& adam, UpdateFigures& figures) {
    std::vector<float> block;
    std::vector<double> before, changed;
    for (std::size_t i = 0; i < moments_->size(); ++i) {
      const sae::Parameter& parameter = sae_->parameters()[i];
      const std::int64_t all_rows = parameter.memory_rows();
      const std::int64_t cols = parameter.weight.numel() / all_rows;
      const std::int64_t block_rows = std::max<std::int64_t>(1, kNormBlock / cols);
      for (std::int64_t first = 0; first < all_rows; first += block_rows) {
        const std::int64_t rows = std::min(block_rows, all_rows - first);
        float* weights = parameter.weight.data_ptr<float>() + first * cols;
        before.push_back(kernels::sum_of_squares(kExec, rows, cols, weights));
        block.assign(weights, weights + rows * cols);
        update_rows(i, adam, first, rows, false);
        for (std::int64_t j = 0; j < rows * cols; ++j) block[j] = weights[j] - block[j];
        changed.push_back(kernels::sum_of_squares(kExec, rows, cols, block.data()));
        if (parameter.has_unit_rows) kernels::normalise_rows(kExec, rows, cols, weights);
      }
    }
    figures.parameter_norm = std::sqrt(kernels::tree_sum(before));
    figures.update_norm = std::sqrt(kernels::tree_sum(changed));
  }

  sae::TrainingSae* sae_;
  std::vector<Moments>* moments_;
  double clip_norm_;
  std::vector<std::vector<double>> parallel_;  // a parameter: factors of parallel_components
};

}  // namespace

kernels::AdamStep adam_of(const sae::Parameter& parameter, kernels::AdamStep adam) {
  adam.learning_rate *= parameter.learning_rate_factor;
  return adam;
}

std::unique_ptr<ParameterUpdate> make_host_update(sae::TrainingSae& sae,
                                                  std::vector<Moments>& moments, double clip_norm) {
  return std::make_unique<HostUpdate>(sae, moments, clip_norm);
}

}  // namespace thresher::trainer
