#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "core/json.h"
#include "host_model/transformer_shape.h"

namespace thresher::host_model {

/// The config.json of a model folder, as hostile input. A key with the value null counts as absent,
/// as in transformers. Every access checks type and range; DataError "<path>: <key> ..." otherwise.
class HfConfig {
 public:
  explicit HfConfig(const std::filesystem::path& path);

  const std::string& where() const { return where_; }
  /// DataError if it is missing.
  const std::string& model_type() const;

  const Json* find(std::string_view key) const;
  /// Whether the key is there with the value null, for the few whose default is something else.
  bool is_null(std::string_view key) const;
  std::int64_t integer(std::string_view key, const IntegerRange& range) const;
  std::int64_t integer_or(std::string_view key, const IntegerRange& range,
                          std::int64_t fallback) const;
  double number(std::string_view key, const NumberRange& range) const;
  bool boolean_or(std::string_view key, bool fallback) const;
  std::string string_or(std::string_view key, std::string_view fallback) const;

 private:
  std::string where_;
  Json json_;
};

/// What Llama, Mistral and Qwen2 configurations have in common: sizes, rotary positions
/// (`rope_parameters`, or `rope_theta` and `rope_scaling` as older files have it), tied embeddings.
/// Biases and windows are left to the family. DataError for what is not computed here: an
/// activation other than SiLU, rotary scaling other than linear and llama3, partly rotated heads,
/// quantised weights.
TransformerShape read_llama_like_config(const HfConfig& config);

}  // namespace thresher::host_model
