#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "host_model/host_model.h"
#include "host_model/transformer_shape.h"

namespace thresher::host_model {

/// Named tensors of a model file. Names are those of `transformers`
/// (model.layers.0.self_attn.q_proj.weight); a source translates them to its own.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual bool has(const std::string& name) const = 0;
  /// DataError if the tensor is missing, of another shape, or of a type that is not a number's.
  virtual void check(const std::string& name, const std::vector<std::int64_t>& shape) const = 0;
  /// Fills `out`, contiguous float32 or bfloat16 and of the shape that was checked, rounding to
  /// nearest even.
  virtual void read(const std::string& name, at::Tensor out) = 0;
  /// DataError naming a tensor that was never read: something that is not computed here.
  virtual void check_all_read() const = 0;
};

/// What a loader is told besides the file.
struct LoadRequest {
  HostModelInfo info;  // family and fingerprint
  Dtype dtype = Dtype::kFloat32;
  Device device = Device::kCpu;
};

/// Reads all weights of `shape` and makes the model. Each tensor is checked before memory is taken
/// for it and read straight into its place in host memory; then they go to the device together.
std::unique_ptr<HostModel> load_transformer(const TransformerShape& shape, WeightSource& source,
                                            const LoadRequest& request);

}  // namespace thresher::host_model
