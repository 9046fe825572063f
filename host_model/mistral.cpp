#include "host_model/families.h"

namespace thresher::host_model {
namespace {

// What MistralConfig of transformers takes where config.json says nothing; null means no window.
constexpr std::int64_t kDefaultWindow = 4096;

}  // namespace

std::unique_ptr<HostModel> load_mistral_folder(const HfFolder& folder, const LoadRequest& request) {
  TransformerShape shape = read_llama_like_config(folder.config);
  const std::int64_t window =
      folder.config.is_null("sliding_window")
          ? 0
          : folder.config.integer_or("sliding_window", limits::kContextTokens, kDefaultWindow);
  shape.attention_windows.assign(static_cast<std::size_t>(shape.n_blocks), window);
  HfWeights weights(folder, "mistral");
  return load_transformer(shape, weights, request);
}

}  // namespace thresher::host_model
