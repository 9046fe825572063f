#include <fmt/format.h>

#include <cmath>
#include <set>

#include "activation_cache/cache.h"
#include "activation_cache/cache_format.h"
#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/version.h"

namespace thresher::activation_cache {

namespace {

// Far above anything real, low enough that products of two stay inside 64 bits.
constexpr std::int64_t kMaxWidth = std::int64_t{1} << 24;
constexpr std::int64_t kMaxContextTokens = std::int64_t{1} << 24;
constexpr std::int64_t kMaxContexts = (std::int64_t{1} << 31) - 1;  // numbers are int32 in shards
constexpr std::int64_t kMaxUnitTokens = std::int64_t{1} << 31;
constexpr std::size_t kMaxHookPoints = 4096;
constexpr std::uint64_t kMaxIdentityBytes = 64ULL << 20;
constexpr const char* kChecksumKey = "sha256";  // of the rest, as one line of JSON

std::int64_t ranged(const Json& json, std::string_view key, std::int64_t low, std::int64_t high,
                    std::string_view where) {
  const std::int64_t value = json.at(key).as_int(key);
  if (value < low || value > high) {
    throw DataError(fmt::format("{}: {} is {}", where, key, value),
                    fmt::format("from {} to {}", low, high));
  }
  return value;
}

}  // namespace

bool is_hook_point_name(std::string_view name) {
  if (name.empty() || name.size() > 200 || name == "." || name == "..") return false;
  for (const char c : name) {
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!is_letter && !(c >= '0' && c <= '9') && c != '.' && c != '_' && c != '-') return false;
  }
  return true;
}

namespace {

std::vector<HookPointWidth> read_hook_points(const Json& json, std::string_view where) {
  const Json::Array& items = json.at("hook_points").as_array("hook_points");
  if (items.empty() || items.size() > kMaxHookPoints) {
    throw DataError(fmt::format("{}: {} hook points", where, items.size()),
                    fmt::format("from 1 to {}", kMaxHookPoints));
  }
  std::vector<HookPointWidth> hook_points;
  std::set<std::string> names;
  for (const Json& item : items) {
    HookPointWidth hook{item.at("name").as_string("hook point name"),
                        ranged(item, "d_in", 1, kMaxWidth, where)};
    if (!is_hook_point_name(hook.hook_point) || !names.insert(hook.hook_point).second) {
      throw DataError(fmt::format("{}: hook point name \"{}\" is malformed or stands there twice",
                                  where, hook.hook_point));
    }
    hook_points.push_back(std::move(hook));
  }
  return hook_points;
}

}  // namespace

bool CacheIdentity::has_held_out_rows() const {
  const Json* kind = corpus.is_object() ? corpus.find("kind") : nullptr;
  return kind != nullptr && kind->is_string() && kind->as_string() == kOwnActivationsKind;
}

std::int64_t CacheIdentity::n_units() const {
  return (n_contexts + unit_contexts() - 1) / unit_contexts();
}

UnitRange CacheIdentity::unit_range(std::int64_t unit) const {
  THRESHER_CHECK(unit >= 0 && unit < n_units(), "unit out of range");
  const std::int64_t first = unit * unit_contexts();
  return {first, std::min(unit_contexts(), n_contexts - first)};
}

Json CacheIdentity::to_json() const {
  Json json = Json::object();
  json["format"] = kFormatName;
  json["format_version"] = kFormatVersion;
  json["numerics_version"] = kNumericsVersion;
  json["host_model"] = Json::object({{"family", host_family}, {"fingerprint", host_fingerprint}});
  if (host_dtype != Dtype::kFloat32) json["host_model"]["dtype"] = dtype_name(host_dtype);
  if (host_device != Device::kCpu) json["host_model"]["device"] = device_name(host_device);
  json["tokenizer"] = tokenizer_fingerprint;
  json["corpus"] = corpus;
  Json hooks = Json::array();
  for (const HookPointWidth& hook : hook_points) {
    hooks.push_back(Json::object({{"name", hook.hook_point}, {"d_in", hook.d_in}}));
  }
  json["hook_points"] = std::move(hooks);
  json["dtype"] = dtype_name(dtype);
  json["context_tokens"] = context_tokens;
  json["n_contexts"] = n_contexts;
  json["unit_tokens"] = unit_tokens;
  json["drop_first_positions"] = drop_first_positions;
  json["drop_special_tokens"] = drop_special_tokens;
  json["drop_norm_above"] = drop_norm_above;
  json["seed"] = seed;
  json["forward_contexts"] = forward_contexts;
  json["block_rows"] = block_rows;
  json["norm_limits"] = Json::array_of(norm_limits);
  return json;
}

CacheIdentity CacheIdentity::from_json(const Json& json, std::string_view where) {
  if (const Json* format = json.find("format");
      format == nullptr || !format->is_string() || format->as_string() != kFormatName) {
    throw DataError(fmt::format("{}: this is not an activation cache", where),
                    fmt::format("\"format\": \"{}\"", kFormatName));
  }
  ranged(json, "format_version", kFormatVersion, kFormatVersion, where);
  CacheIdentity identity;
  identity.host_family = json.at("host_model").at("family").as_string("family");
  identity.host_fingerprint = json.at("host_model").at("fingerprint").as_string("fingerprint");
  if (const Json* device = json.at("host_model").find("device")) {
    if (device->as_string("host model device") != device_name(Device::kCuda)) {
      throw DataError(fmt::format("{}: host model device is \"{}\"", where, device->as_string()),
                      "\"cuda\", or none for the CPU");
    }
    identity.host_device = Device::kCuda;
  }
  if (const Json* host_dtype = json.at("host_model").find("dtype")) {
    identity.host_dtype = parse_dtype(host_dtype->as_string("host model dtype"));
  }
  identity.tokenizer_fingerprint = json.at("tokenizer").as_string("tokenizer");
  identity.corpus = json.at("corpus");
  identity.hook_points = read_hook_points(json, where);
  identity.dtype = parse_dtype(json.at("dtype").as_string("dtype"));
  identity.context_tokens = ranged(json, "context_tokens", 1, kMaxContextTokens, where);
  identity.n_contexts = ranged(json, "n_contexts", 1, kMaxContexts, where);
  identity.unit_tokens =
      ranged(json, "unit_tokens", identity.context_tokens, kMaxUnitTokens, where);
  identity.drop_first_positions = ranged(json, "drop_first_positions", 0, kMaxContextTokens, where);
  identity.drop_special_tokens = json.at("drop_special_tokens").as_bool("drop_special_tokens");
  identity.drop_norm_above = json.at("drop_norm_above").as_double("drop_norm_above");
  identity.seed = json.at("seed").as_uint("seed");
  identity.forward_contexts = ranged(json, "forward_contexts", 1, kMaxContexts, where);
  identity.block_rows = ranged(json, "block_rows", 1, kMaxUnitTokens, where);
  for (const Json& limit : json.at("norm_limits").as_array("norm_limits")) {
    identity.norm_limits.push_back(limit.as_double("norm limit"));
  }
  const std::size_t n_limits = identity.drop_norm_above > 0 ? identity.hook_points.size() : 0;
  if (identity.norm_limits.size() != n_limits) {
    throw DataError(fmt::format("{}: {} norm limits", where, identity.norm_limits.size()),
                    fmt::format("{}", n_limits));
  }
  return identity;
}

Json read_cache_identity(const std::filesystem::path& dir) {
  const std::filesystem::path path = dir / kIdentityFile;
  if (!std::filesystem::exists(path)) {
    throw ConfigError(fmt::format("{}: there is no activation cache here", dir.string()),
                      fmt::format("a folder with {}", kIdentityFile),
                      "make one with `thresher harvest`, or correct cache.dir");
  }
  const Json json = Json::parse(read_text_file(path, kMaxIdentityBytes), path.string());
  const Json* checksum = json.is_object() ? json.find(kChecksumKey) : nullptr;
  if (checksum == nullptr) return json;  // older caches have none
  Json identity = Json::object();
  for (const auto& [key, value] : json.as_object()) {
    if (key != kChecksumKey) identity[key] = value;
  }
  if (!checksum->is_string() || sha256_hex(identity.dump()) != checksum->as_string()) {
    throw DataError(fmt::format("{}: the content does not match its own checksum", path.string()),
                    "", "the file is damaged: restore it, or harvest into another folder");
  }
  return identity;
}

std::vector<double> read_norm_limits(const Json& identity) {
  std::vector<double> limits;
  for (const Json& limit : identity.at("norm_limits").as_array("norm_limits")) {
    limits.push_back(limit.as_double("norm limit"));
  }
  return limits;
}

CacheIdentity read_identity(const std::filesystem::path& dir) {
  return CacheIdentity::from_json(read_cache_identity(dir), (dir / kIdentityFile).string());
}

void write_identity(const std::filesystem::path& dir, const CacheIdentity& identity) {
  Json json = identity.to_json();
  json[kChecksumKey] = sha256_hex(json.dump());
  write_file_atomically(dir / kIdentityFile, json.dump(2) + "\n");
}

void check_same_identity(const std::filesystem::path& dir, const Json& found,
                         const CacheIdentity& wanted) {
  Json there = found;
  Json here = wanted.to_json();
  if (there.find("norm_limits") != nullptr) there["norm_limits"] = Json::array();
  here["norm_limits"] = Json::array();
  const std::string difference = first_difference(there, here);
  if (difference.empty()) return;
  throw ConfigError(fmt::format("{}: this cache was made with other settings: {}",
                                (dir / kIdentityFile).string(), difference),
                    "the same settings (left: in the cache, right: now)",
                    "choose another cache.dir, or put the settings back");
}

}  // namespace thresher::activation_cache
