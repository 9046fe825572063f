#include "sae/training_sae.h"

#include <ATen/ATen.h>

#include "core/error.h"
#include "kernels/decoder_norm.h"
#include "sae/exec.h"

namespace thresher::sae {

void TrainingSae::check_lanes(const std::vector<at::Tensor>& lanes) const {
  for (const at::Tensor& x : lanes) {
    THRESHER_CHECK(
        x.dim() == 2 && x.size(1) == d_in_ && x.is_contiguous() && x.scalar_type() == at::kFloat,
        "a lane is a contiguous float32 [rows, d_in]");
  }
}

void TrainingSae::constrain_weights() {
  for (Parameter& parameter : parameters()) {
    if (!parameter.has_unit_rows) continue;
    const std::int64_t rows = parameter.memory_rows();
    kernels::normalise_rows(exec_of(parameter.weight), rows, parameter.weight.numel() / rows,
                            static_cast<float*>(parameter.weight.data_ptr()));
    if (parameter.bfloat16.defined()) parameter.bfloat16.copy_(parameter.weight);
  }
}

std::int64_t Parameter::memory_rows() const {
  return weight.dim() < 2 ? 1 : weight.size(weight.is_contiguous() ? 0 : 1);
}

}  // namespace thresher::sae
