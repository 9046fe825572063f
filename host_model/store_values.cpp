#include "host_model/store_values.h"

#include <ATen/ATen.h>

#include <cstddef>

#include "core/dtype.h"
#include "core/error.h"

namespace thresher::host_model {

void store_values(std::span<const float> values, std::int64_t first, at::Tensor& tensor) {
  THRESHER_CHECK(tensor.is_contiguous() && first >= 0 &&
                     static_cast<std::int64_t>(values.size()) <= tensor.numel() - first,
                 "store_values: outside of the tensor");
  const Dtype dtype = tensor.scalar_type() == at::kBFloat16 ? Dtype::kBfloat16 : Dtype::kFloat32;
  const std::size_t width = dtype_bytes(dtype);
  auto* bytes = static_cast<std::byte*>(tensor.mutable_data_ptr());
  encode_values(dtype, values,
                {bytes + static_cast<std::size_t>(first) * width, values.size() * width});
}

}  // namespace thresher::host_model
