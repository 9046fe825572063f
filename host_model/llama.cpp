#include "host_model/families.h"
#include "host_model/gguf_model.h"

namespace thresher::host_model {

std::unique_ptr<HostModel> load_llama_gguf(const GgufFile& file, const LoadRequest& request) {
  const TransformerShape shape = read_gguf_shape(file, "llama");
  GgufWeights weights(file, shape, "llama", RotaryRows::kPairs);
  return load_transformer(shape, weights, request);
}

std::unique_ptr<HostModel> load_llama_folder(const HfFolder& folder, const LoadRequest& request) {
  TransformerShape shape = read_llama_like_config(folder.config);
  shape.has_qkv_bias = folder.config.boolean_or("attention_bias", false);
  shape.has_attn_out_bias = shape.has_qkv_bias;
  shape.has_mlp_bias = folder.config.boolean_or("mlp_bias", false);
  HfWeights weights(folder, "llama");
  return load_transformer(shape, weights, request);
}

}  // namespace thresher::host_model
