#pragma once

#include <ATen/core/Tensor.h>

#include "comm/communicator.h"
#include "kernels/topk.h"

namespace thresher::sae {

/// Where kernels that work on `tensor` run: its device, and on CUDA LibTorch's current stream
/// there.
kernels::Exec exec_of(const at::Tensor& tensor);

/// A dense float32, float64 or int64 tensor as ranks add it up: its memory, whatever its strides.
comm::DeviceValues device_values(const at::Tensor& tensor);

}  // namespace thresher::sae
