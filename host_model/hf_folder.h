#pragma once

#include <filesystem>
#include <set>
#include <string>

#include "core/safetensors_shards.h"
#include "host_model/hf_config.h"
#include "host_model/transformer_loading.h"

namespace thresher::host_model {

/// A folder as `save_pretrained` of transformers writes it: config.json and safetensors.
struct HfFolder {
  explicit HfFolder(const std::filesystem::path& folder);

  /// SHA-256 over the names and SHA-256 of config.json and of every weights file, in the order of
  /// their names.
  std::string fingerprint() const;

  std::filesystem::path path;
  HfConfig config;
  SafetensorsShards tensors;
};

/// F32, F16 and BF16 tensors. Tables that old files hold and that follow from the configuration
/// (self_attn.rotary_emb.inv_freq) are left out.
class HfWeights : public WeightSource {
 public:
  HfWeights(const HfFolder& folder, std::string family);
  bool has(const std::string& name) const override;
  void check(const std::string& name, const std::vector<std::int64_t>& shape) const override;
  void read(const std::string& name, at::Tensor out) override;
  void check_all_read() const override;

 private:
  const HfFolder& folder_;
  std::string family_;
  std::set<std::string, std::less<>> read_;
};

}  // namespace thresher::host_model
