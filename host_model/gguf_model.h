#pragma once

#include <set>
#include <string>

#include "core/gguf.h"
#include "host_model/transformer_loading.h"
#include "host_model/transformer_shape.h"

namespace thresher::host_model {

/// The shape that a file's metadata (`<architecture>.block_count` and so on) and its tensors tell:
/// biases are there if block 0 has them. DataError where hyper-parameters are out of range or ask
/// for something that is not computed here.
TransformerShape read_gguf_shape(const GgufFile& file, const std::string& architecture);

/// How a file orders the rows of queries and keys.
enum class RotaryRows {
  kHalves,  // as transformers: value i of a head turns with value i + d_head / 2
  kPairs,   // value 2 i turns with value 2 i + 1; put back to halves when read
};

class GgufWeights : public WeightSource {
 public:
  GgufWeights(const GgufFile& file, const TransformerShape& shape, std::string architecture,
              RotaryRows rows);
  bool has(const std::string& name) const override;
  void check(const std::string& name, const std::vector<std::int64_t>& shape) const override;
  void read(const std::string& name, at::Tensor out) override;
  void check_all_read() const override;

 private:
  const GgufFile& file_;
  const TransformerShape& shape_;
  std::string architecture_;
  RotaryRows rows_;
  std::set<std::string, std::less<>> read_;
};

}  // namespace thresher::host_model
