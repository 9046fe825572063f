#include <fmt/format.h>

#include "core/error.h"
#include "host_model/families.h"
#include "host_model/gguf_model.h"

namespace thresher::host_model {
namespace {

// What Qwen2Config of transformers takes where config.json says nothing.
constexpr std::int64_t kDefaultWindow = 4096;
constexpr std::int64_t kDefaultFirstWindowedBlock = 28;

bool is_windowed(const HfConfig& config, const Json& type) {
  const bool is_text = type.is_string();
  if (is_text && type.as_string() == "sliding_attention") return true;
  if (is_text && type.as_string() == "full_attention") return false;
  throw DataError(fmt::format("{}: layer_types holds {}", config.where(),
                              is_text ? Json(type.as_string().substr(0, 80)).dump() : "no name"),
                  "full_attention or sliding_attention");
}

/// Which blocks have a window: `layer_types` if it is there, otherwise all from max_window_layers
/// on.
std::vector<bool> windowed_blocks(const HfConfig& config, std::int64_t n_blocks) {
  std::vector<bool> is_windowed_block(static_cast<std::size_t>(n_blocks));
  const Json* types = config.find("layer_types");
  if (types == nullptr) {
    const std::int64_t first = config.integer_or("max_window_layers", {0, limits::kBlocks.max},
                                                 kDefaultFirstWindowedBlock);
    for (std::int64_t block = first; block < n_blocks; ++block) is_windowed_block[block] = true;
    return is_windowed_block;
  }
  if (!types->is_array() || types->as_array().size() != is_windowed_block.size()) {
    throw DataError(
        fmt::format("{}: layer_types does not name {} layers", config.where(), n_blocks),
        "one name for each of num_hidden_layers");
  }
  for (std::size_t block = 0; block < is_windowed_block.size(); ++block) {
    is_windowed_block[block] = is_windowed(config, types->as_array()[block]);
  }
  return is_windowed_block;
}

}  // namespace

std::unique_ptr<HostModel> load_qwen2_gguf(const GgufFile& file, const LoadRequest& request) {
  const TransformerShape shape = read_gguf_shape(file, "qwen2");
  GgufWeights weights(file, shape, "qwen2", RotaryRows::kHalves);
  return load_transformer(shape, weights, request);
}

std::unique_ptr<HostModel> load_qwen2_folder(const HfFolder& folder, const LoadRequest& request) {
  TransformerShape shape = read_llama_like_config(folder.config);
  shape.has_qkv_bias = true;
  if (folder.config.boolean_or("use_sliding_window", false) &&
      !folder.config.is_null("sliding_window")) {
    const std::int64_t window =
        folder.config.integer_or("sliding_window", limits::kContextTokens, kDefaultWindow);
    for (const bool has_window : windowed_blocks(folder.config, shape.n_blocks)) {
      shape.attention_windows.push_back(has_window ? window : 0);
    }
  }
  HfWeights weights(folder, "qwen2");
  return load_transformer(shape, weights, request);
}

}  // namespace thresher::host_model
