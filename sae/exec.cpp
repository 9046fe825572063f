#include "sae/exec.h"

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "core/error.h"

namespace thresher::sae {

kernels::Exec exec_of(const at::Tensor& tensor) {
  if (tensor.is_cpu()) return {Device::kCpu, nullptr};
  THRESHER_CHECK(tensor.is_cuda(), "tensors live on the CPU or on a CUDA device");
  const c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
  return {Device::kCuda, cuda.getStream(tensor.device()).native_handle()};
}

comm::DeviceValues device_values(const at::Tensor& tensor) {
  THRESHER_CHECK(tensor.is_non_overlapping_and_dense(), "values fill their memory without gaps");
  const kernels::Exec exec = exec_of(tensor);
  comm::DeviceValues values;
  values.data = tensor.data_ptr();
  values.count = tensor.numel();
  values.device = exec.device;
  values.stream = exec.stream;
  switch (tensor.scalar_type()) {
    case at::kFloat:
      values.type = comm::DeviceValues::Type::kFloat32;
      return values;
    case at::kDouble:
      values.type = comm::DeviceValues::Type::kFloat64;
      return values;
    case at::kLong:
      values.type = comm::DeviceValues::Type::kInt64;
      return values;
    default:
      THRESHER_CHECK(false, "ranks add float32, float64 and int64");
  }
}

}  // namespace thresher::sae
