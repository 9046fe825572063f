#include "host_model/hf_config.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/files.h"
#include "core/visible_text.h"

namespace thresher::host_model {
namespace {

constexpr std::uint64_t kMaxConfigBytes = 16ULL << 20;
// What transformers takes where a file names no base.
constexpr double kDefaultRopeBase = 10'000;
constexpr NumberRange kFrequencyFactor{1e-3, 1e6};

[[noreturn]] void refuse(const HfConfig& config, std::string_view problem,
                         std::string_view expected) {
  throw DataError(fmt::format("{}: {}", config.where(), problem), expected);
}

const Json* find_member(const Json& object, std::string_view key) {
  const Json* value = object.find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

double number_of(const HfConfig& config, const Json& object, std::string_view path,
                 std::string_view key, const NumberRange& range) {
  const std::string name = fmt::format("{}.{}", path, key);
  const Json* value = find_member(object, key);
  if (value == nullptr) refuse(config, name + " is missing", "a number");
  if (!value->is_number()) refuse(config, name + " is not a number", "a number");
  return in_range(config.where(), name, value->as_double(name), range);
}

/// Under which key rotary positions are described, if they are; transformers 5 writes
/// rope_parameters. Which of two keys counts has changed between its versions.
const char* rope_key(const HfConfig& config) {
  const char* found = nullptr;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* value = config.find(key);
    if (value == nullptr) continue;
    if (!value->is_object()) refuse(config, fmt::format("{} is not an object", key), "an object");
    if (found == nullptr) {
      found = key;
    } else if (const std::string difference = first_difference(*config.find(found), *value);
               !difference.empty()) {
      throw DataError(fmt::format("{}: {} and {} differ: {}", config.where(), found, key,
                                  escape_control(difference.substr(0, 200))),
                      "one of them, or the same twice",
                      "keep the one that the model was trained with");
    }
  }
  return found;
}

std::string rope_type(const HfConfig& config, const Json& rope, std::string_view path) {
  for (const char* key : {"rope_type", "type"}) {
    const Json* value = find_member(rope, key);
    if (value == nullptr) continue;
    if (!value->is_string()) {
      refuse(config, fmt::format("{}.{} is not a string", path, key), "a string");
    }
    return value->as_string();
  }
  return "default";
}

void read_llama3_scaling(const HfConfig& config, const Json& rope, std::string_view path,
                         std::int64_t max_context_tokens, RopeScaling& scaling) {
  scaling.type = RopeScaling::Type::kLlama3;
  scaling.factor = number_of(config, rope, path, "factor", limits::kRopeFactor);
  scaling.low_freq_factor = number_of(config, rope, path, "low_freq_factor", kFrequencyFactor);
  scaling.high_freq_factor = number_of(config, rope, path, "high_freq_factor", kFrequencyFactor);
  scaling.original_context_tokens = max_context_tokens;
  if (const Json* tokens = find_member(rope, "original_max_position_embeddings")) {
    const std::string name = fmt::format("{}.original_max_position_embeddings", path);
    if (!tokens->is_integer()) refuse(config, name + " is not an integer", "an integer");
    scaling.original_context_tokens =
        in_range(config.where(), name, tokens->as_int(name), limits::kContextTokens);
  }
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    refuse(config,
           fmt::format("{}.high_freq_factor = {}, low_freq_factor = {}", path,
                       scaling.high_freq_factor, scaling.low_freq_factor),
           "a high_freq_factor above the low_freq_factor");
  }
}

void read_rope(const HfConfig& config, TransformerShape& shape) {
  const char* key = rope_key(config);
  const Json none = Json::object();
  const Json& rope = key == nullptr ? none : *config.find(key);
  const std::string path = key == nullptr ? "rope_parameters" : key;
  if (find_member(rope, "rope_theta") != nullptr) {
    shape.rope_base = number_of(config, rope, path, "rope_theta", limits::kRopeBase);
  } else {
    shape.rope_base = config.find("rope_theta") != nullptr
                          ? config.number("rope_theta", limits::kRopeBase)
                          : kDefaultRopeBase;
  }
  const Json* partial = find_member(rope, "partial_rotary_factor");
  if (partial == nullptr) partial = config.find("partial_rotary_factor");
  if (partial != nullptr && !(partial->is_number() && partial->as_double() == 1)) {
    refuse(config, fmt::format("partial_rotary_factor = {}", partial->dump()),
           "1: heads that are rotated whole");
  }
  const std::string type = rope_type(config, rope, path);
  if (type == "linear") {
    shape.rope_scaling.type = RopeScaling::Type::kLinear;
    shape.rope_scaling.factor = number_of(config, rope, path, "factor", limits::kRopeFactor);
  } else if (type == "llama3") {
    read_llama3_scaling(config, rope, path, shape.max_context_tokens, shape.rope_scaling);
  } else if (type != "default") {
    refuse(config, fmt::format("{}.rope_type = {}", path, Json(type.substr(0, 80)).dump()),
           "default, linear or llama3");
  }
}

void check_nothing_else_is_asked_for(const HfConfig& config) {
  const std::string activation = config.string_or("hidden_act", "silu");
  if (activation != "silu") {
    refuse(config, fmt::format("hidden_act = {}", Json(activation.substr(0, 80)).dump()), "silu");
  }
  if (config.find("quantization_config") != nullptr) {
    throw DataError(fmt::format("{}: quantization_config is set", config.where()),
                    "weights in F32, F16 or BF16",
                    "fetch the model without quantisation, or as a GGUF file");
  }
}

}  // namespace

HfConfig::HfConfig(const std::filesystem::path& path)
    : where_(path.string()), json_(Json::parse(read_text_file(path, kMaxConfigBytes), where_)) {
  if (!json_.is_object()) throw DataError(where_ + ": not an object", "a JSON object");
}

const Json* HfConfig::find(std::string_view key) const { return find_member(json_, key); }

bool HfConfig::is_null(std::string_view key) const {
  const Json* value = json_.find(key);
  return value != nullptr && value->is_null();
}

const std::string& HfConfig::model_type() const {
  const Json* type = find("model_type");
  if (type == nullptr || !type->is_string()) {
    throw DataError(where_ + ": model_type is missing", "the name of a model family");
  }
  return type->as_string();
}

std::int64_t HfConfig::integer(std::string_view key, const IntegerRange& range) const {
  const Json* value = find(key);
  if (value == nullptr) refuse(*this, fmt::format("{} is missing", key), "an integer");
  if (!value->is_integer()) refuse(*this, fmt::format("{} is not an integer", key), "an integer");
  return in_range(where_, key, value->as_int(key), range);
}

std::int64_t HfConfig::integer_or(std::string_view key, const IntegerRange& range,
                                  std::int64_t fallback) const {
  return find(key) == nullptr ? fallback : integer(key, range);
}

double HfConfig::number(std::string_view key, const NumberRange& range) const {
  const Json* value = find(key);
  if (value == nullptr) refuse(*this, fmt::format("{} is missing", key), "a number");
  if (!value->is_number()) refuse(*this, fmt::format("{} is not a number", key), "a number");
  return in_range(where_, key, value->as_double(key), range);
}

bool HfConfig::boolean_or(std::string_view key, bool fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_bool()) refuse(*this, fmt::format("{} is not true or false", key), "a boolean");
  return value->as_bool(key);
}

std::string HfConfig::string_or(std::string_view key, std::string_view fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) refuse(*this, fmt::format("{} is not a string", key), "a string");
  return value->as_string();
}

TransformerShape read_llama_like_config(const HfConfig& config) {
  TransformerShape shape;
  shape.n_blocks = config.integer("num_hidden_layers", limits::kBlocks);
  shape.d_model = config.integer("hidden_size", limits::kModelWidth);
  shape.n_heads = config.integer("num_attention_heads", limits::kHeads);
  shape.n_kv_heads = config.integer_or("num_key_value_heads", limits::kHeads, shape.n_heads);
  shape.d_mlp = config.integer("intermediate_size", limits::kMlpWidth);
  shape.n_vocabulary = config.integer("vocab_size", limits::kVocabulary);
  shape.max_context_tokens = config.integer("max_position_embeddings", limits::kContextTokens);
  shape.norm_epsilon = config.number("rms_norm_eps", limits::kNormEpsilon);
  shape.d_head = config.integer_or("head_dim", limits::kHeadWidth, 0);
  shape.is_tied = config.boolean_or("tie_word_embeddings", false);
  complete_shape(config.where(), shape);
  read_rope(config, shape);
  check_nothing_else_is_asked_for(config);
  return shape;
}

}  // namespace thresher::host_model
