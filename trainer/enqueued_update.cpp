#include <ATen/ATen.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "kernels/decoder_norm.h"
#include "sae/exec.h"
#include "trainer/parameter_update.h"

namespace thresher::trainer {
namespace {

/// The tensor's memory as a row; parameters fill theirs without gaps.
at::Tensor flat(const at::Tensor& tensor) { return tensor.as_strided({tensor.numel()}, {1}); }

// Places in the norms' squares.
enum : int { kParameter, kUpdate, kNorms };

class EnqueuedUpdate final : public ParameterUpdate {
 public:
  EnqueuedUpdate(sae::TrainingSae& sae, std::vector<Moments>& moments, double clip_norm)
      : sae_(&sae),
        moments_(&moments),
        // Nothing is above infinity: no clipping.
        clip_norm_(clip_norm > 0 ? clip_norm : std::numeric_limits<double>::infinity()) {
    const std::vector<sae::Parameter>& parameters = sae.parameters();
    const at::TensorOptions options = parameters.front().weight.options().dtype(at::kDouble);
    const auto n = static_cast<std::int64_t>(parameters.size());
    squares_ = at::zeros({n}, options);
    static_assert(sizeof(kernels::UpdateControl) == 3 * sizeof(double));
    control_ = at::zeros({3}, options);
    norm_squares_ = at::zeros({kNorms, n}, options);
    const auto host = at::TensorOptions(at::kDouble).pinned_memory(options.device().is_cuda());
    host_control_ = at::zeros({3}, host);
    host_norms_ = at::zeros({kNorms}, host);
    for (const sae::Parameter& parameter : parameters) {
      parallel_.push_back(parameter.has_unit_rows ? at::zeros({parameter.memory_rows()}, options)
                                                  : at::Tensor());
    }
  }

  UpdateFigures run(const kernels::AdamStep& adam, bool wants_norms,
                    comm::Communicator& comm) override {
    const kernels::Exec exec = sae::exec_of(squares_);
    find_norm(exec);
    for (std::size_t i = 0; i < moments_->size(); ++i) update(exec, i, adam, wants_norms);
    host_control_.copy_(control_, /*non_blocking=*/true);
    if (wants_norms) host_norms_.copy_(norm_squares_.sum(1).sqrt(), /*non_blocking=*/true);
    comm.wait_for_device(exec.device, exec.stream, "step");
    kernels::UpdateControl control{};
    std::memcpy(&control, host_control_.const_data_ptr(), sizeof(control));
    UpdateFigures figures;
    figures.gradient_norm =
        control.is_finite != 0 ? control.gradient_norm : std::numeric_limits<double>::quiet_NaN();
    if (!wants_norms) return figures;
    // Not before the verdict: scaling a row that was not updated might move its last bits.
    if (control.is_finite != 0) sae_->constrain_weights();
    const auto* norms = host_norms_.const_data_ptr<double>();
    figures.parameter_norm = norms[kParameter];
    figures.update_norm = norms[kUpdate];
    return figures;
  }

 private:
  void find_norm(const kernels::Exec& exec) {
    auto* squares = squares_.mutable_data_ptr<double>();
    for (std::size_t i = 0; i < moments_->size(); ++i) {
      const sae::Parameter& parameter = sae_->parameters()[i];
      const float* gradient = parameter.gradient.data_ptr<float>();
      const std::int64_t rows = parameter.memory_rows();
      const std::int64_t cols = parameter.gradient.numel() / rows;
      if (parameter.has_unit_rows) {
        kernels::parallel_components(exec, rows, cols, parameter.weight.data_ptr<float>(), gradient,
                                     parallel_[i].mutable_data_ptr<double>(), squares + i);
      } else {
        kernels::sum_of_squares(exec, rows, cols, gradient, squares + i);
      }
    }
    kernels::decide_update(exec, squares_.numel(), squares, clip_norm_, control());
  }

  void update(const kernels::Exec& exec, std::size_t i, const kernels::AdamStep& adam,
              bool wants_norms) {
    const sae::Parameter& parameter = sae_->parameters()[i];
    at::Tensor before;
    if (wants_norms) {
      before = flat(parameter.weight).clone();
      put_square(exec, before, kParameter, i);
    }
    apply(exec, i, adam, !wants_norms);
    if (!wants_norms) return;
    put_square(exec, flat(parameter.weight) - before, kUpdate, i);
  }

  void apply(const kernels::Exec& exec, std::size_t i, const kernels::AdamStep& adam,
             bool renormalises) {
    const sae::Parameter& parameter = sae_->parameters()[i];
    const std::int64_t rows = parameter.memory_rows();
    const std::int64_t count = parameter.weight.numel();
    const float* gradient = parameter.gradient.data_ptr<float>();
    float* weights = parameter.weight.data_ptr<float>();
    float* m = (*moments_)[i].m.data_ptr<float>();
    float* v = (*moments_)[i].v.data_ptr<float>();
    auto* rounded = parameter.bfloat16.defined()
                        ? static_cast<std::uint16_t*>(parameter.bfloat16.data_ptr())
                        : nullptr;
    const kernels::AdamStep step = adam_of(parameter, adam);
    if (parameter.has_unit_rows) {
      kernels::adam_unit_rows(exec, step, control(), rows, count / rows, gradient,
                              parallel_[i].const_data_ptr<double>(), renormalises, weights, m, v,
                              rounded);
    } else {
      kernels::adam(exec, step, control(), count, gradient, weights, m, v, rounded);
    }
  }

  void put_square(const kernels::Exec& exec, const at::Tensor& values, int norm, std::size_t i) {
    auto* place = norm_squares_.mutable_data_ptr<double>() + norm * norm_squares_.size(1) +
                  static_cast<std::int64_t>(i);
    const std::int64_t rows = sae_->parameters()[i].memory_rows();
    kernels::sum_of_squares(exec, rows, values.numel() / rows, values.const_data_ptr<float>(),
                            place);
  }

  kernels::UpdateControl* control() {
    return static_cast<kernels::UpdateControl*>(control_.mutable_data_ptr());
  }

  sae::TrainingSae* sae_;
  std::vector<Moments>* moments_;
  double clip_norm_;
  at::Tensor squares_;                    // float64 [parameters], of the gradients
  at::Tensor control_;                    // room for an UpdateControl
  at::Tensor norm_squares_;               // float64 [norms, parameters]
  std::vector<at::Tensor> parallel_;      // a parameter: factors of parallel_components
  at::Tensor host_control_, host_norms_;  // in (pinned) host memory
};

}  // namespace

std::unique_ptr<ParameterUpdate> make_enqueued_update(sae::TrainingSae& sae,
                                                      std::vector<Moments>& moments,
                                                      double clip_norm) {
  return std::make_unique<EnqueuedUpdate>(sae, moments, clip_norm);
}

}  // namespace thresher::trainer
