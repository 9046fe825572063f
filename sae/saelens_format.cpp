#include "sae/saelens_format.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <span>
#include <vector>

#include "core/checked.h"
#include "core/error.h"
#include "core/file_calls.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "core/system_error.h"

namespace thresher::sae {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "cfg.json";
constexpr const char* kWeightsFile = "sae_weights.safetensors";
// The release whose reader and writer this file follows.
constexpr const char* kSaelensVersion = "6.54.12";
constexpr std::uint64_t kMaxConfigBytes = 16 << 20;
// Wider dictionaries than these are damage; their products must fit in int64 with room.
constexpr std::int64_t kMaxWidth = 1 << 24;
constexpr std::int64_t kMaxLatents = 1 << 30;
// Rows whose norm is 1 to float32 rounding are left as they are.
constexpr double kUnitTolerance = 1e-5;

std::string text_of(const Json& json, std::string_view key, std::string_view where) {
  const Json* value = json.find(key);
  return value == nullptr ? std::string() : value->as_string(fmt::format("{}: {}", where, key));
}

std::int64_t size_of(const Json& json, std::string_view key, std::int64_t max,
                     std::string_view where) {
  const std::string what = fmt::format("{}: {}", where, key);
  const Json* value = json.find(key);
  if (value == nullptr) throw DataError(what + " is missing");
  const std::int64_t size = value->as_int(what);
  if (size < 1 || size > max) {
    throw DataError(fmt::format("{} = {} is out of range", what, size),
                    fmt::format("1 <= {} <= {}", key, max));
  }
  return size;
}

void require_plain(const Json& json, std::string_view key, std::string_view plain,
                   std::string_view where) {
  const std::string value = text_of(json, key, where);
  if (value.empty() || value == plain) return;
  throw ConfigError(fmt::format("{}: {} {} is not supported", where, key, Json(value).dump()),
                    fmt::format("\"{}\"", plain),
                    "fold it into the weights with the tool that wrote the file");
}

void require_version_6(const Json& metadata, std::string_view where) {
  const std::string version = text_of(metadata, "sae_lens_version", where);
  const std::size_t digits = version.find_first_not_of("0123456789");
  const std::string major = version.substr(0, digits);
  if (!major.empty() && major.size() <= 6 && std::stol(major) >= 6) return;
  throw ConfigError(
      fmt::format("{}: metadata.sae_lens_version {} is not supported", where, Json(version).dump()),
      "6.0.0 or later", "load it with sae-lens >= 6 and save it again");
}

/// A float32 tensor of exactly this shape, all values finite.
at::Tensor read_tensor(const SafetensorsFile& file, const char* name,
                       const std::vector<std::int64_t>& shape, const fs::path& path) {
  const SafetensorsEntry& entry = file.at(name);
  if (entry.shape != shape) {
    throw DataError(
        fmt::format("{}: {} has shape [{}]", path.string(), name, fmt::join(entry.shape, ", ")),
        fmt::format("[{}], from {}", fmt::join(shape, ", "), kConfigFile));
  }
  const std::vector<float> values = file.read_float32(name);
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
  if (bad != values.end()) {
    throw DataError(fmt::format("{}: {} holds {} at element {}", path.string(), name, *bad,
                                bad - values.begin()),
                    "finite weights");
  }
  at::Tensor out = at::empty(shape, at::kFloat);
  std::copy(values.begin(), values.end(), out.mutable_data_ptr<float>());
  return out;
}

/// Moves the norms of the decoder rows into the encoder: the same reconstruction from unit rows.
void fold_decoder_norms(InferenceSae& sae) {
  at::Tensor norms = at::linalg_vector_norm(sae.W_dec.to(at::kDouble), 2, at::IntArrayRef{1});
  norms.masked_fill_(norms.eq(0), 1);
  if ((norms - 1).abs().max().item<double>() <= kUnitTolerance) return;
  sae.W_dec = (sae.W_dec.to(at::kDouble) / norms.unsqueeze(1)).to(at::kFloat);
  sae.W_enc = (sae.W_enc.to(at::kDouble) * norms).to(at::kFloat);
  sae.b_enc = (sae.b_enc.to(at::kDouble) * norms).to(at::kFloat);
  if (sae.threshold.defined()) {
    sae.threshold = (sae.threshold.to(at::kDouble) * norms).to(at::kFloat);
  }
}

SafetensorsTensor tensor_entry(const char* name, const at::Tensor& tensor) {
  THRESHER_CHECK(tensor.is_contiguous() && tensor.scalar_type() == at::kFloat,
                 "exported weights are contiguous float32");
  const auto* bytes = reinterpret_cast<const std::byte*>(tensor.const_data_ptr<float>());
  return {name,
          "F32",
          tensor.sizes().vec(),
          {bytes, static_cast<std::size_t>(tensor.numel()) * sizeof(float)}};
}

/// Puts `fresh` in the place of `folder`.
void publish(const fs::path& fresh, const fs::path& folder) {
  if (rename_no_replace(fresh, folder)) return;
  fs::path old = fresh;
  old += ".old";
  remove_tree(old);
  if (file_calls::rename(fresh, folder, RENAME_EXCHANGE) == 0) {
    // Or a power cut could take the old files and leave the old folder.
    sync_folder(folder.parent_path());
    remove_tree(fresh);
    return;
  }
  // A file system without exchange: two renames, and for a moment no folder.
  if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) {
    throw_system_error(fresh, "rename", errno);
  }
  rename_file(folder, old);
  rename_file(fresh, folder);
  remove_tree(old);
}

}  // namespace

Json saelens_config(const InferenceSae& sae) {
  Json metadata = sae.metadata;
  if (metadata.find("sae_lens_version") == nullptr) metadata["sae_lens_version"] = kSaelensVersion;
  if (metadata.find("sae_lens_training_version") == nullptr) {
    metadata["sae_lens_training_version"] = nullptr;
  }
  Json json = Json::object({{"d_in", sae.d_in()},
                            {"d_sae", sae.n_latents()},
                            {"dtype", "float32"},
                            {"device", "cpu"},
                            {"apply_b_dec_to_input", sae.apply_b_dec_to_input},
                            {"normalize_activations", "none"},
                            {"reshape_activations", "none"},
                            {"metadata", metadata}});
  if (sae.architecture == "topk") {
    json["k"] = sae.k;
    json["rescale_acts_by_decoder_norm"] = false;
  }
  json["architecture"] = sae.architecture;
  return json;
}

SaelensConfig parse_saelens_config(const Json& json, std::string_view where) {
  if (!json.is_object()) throw DataError(fmt::format("{}: is not a JSON object", where));
  SaelensConfig out;
  out.architecture = text_of(json, "architecture", where);
  if (out.architecture != "topk" && out.architecture != "standard" &&
      out.architecture != "jumprelu") {
    throw ConfigError(
        fmt::format("{}: architecture {} is not known", where, Json(out.architecture).dump()),
        "one of topk, standard, jumprelu");
  }
  const Json* metadata = json.find("metadata");
  if (metadata != nullptr && !metadata->is_null()) {
    metadata->as_object(fmt::format("{}: metadata", where));
    out.metadata = *metadata;
  }
  require_version_6(out.metadata, where);
  require_plain(json, "normalize_activations", "none", where);
  require_plain(json, "reshape_activations", "none", where);
  out.d_in = size_of(json, "d_in", kMaxWidth, where);
  out.d_sae = size_of(json, "d_sae", kMaxLatents, where);
  const auto flag = [&](const char* key, bool absent) {
    const Json* value = json.find(key);
    return value == nullptr ? absent : value->as_bool(fmt::format("{}: {}", where, key));
  };
  out.apply_b_dec_to_input = flag("apply_b_dec_to_input", true);
  if (out.architecture == "topk") {
    out.k = size_of(json, "k", out.d_sae, where);
    out.rescale_acts_by_decoder_norm = flag("rescale_acts_by_decoder_norm", false);
  }
  return out;
}

void save_saelens(const InferenceSae& sae, const fs::path& folder) {
  const fs::path parent = folder.has_parent_path() ? folder.parent_path() : fs::path(".");
  const fs::path fresh = parent / fmt::format(".{}.writing", folder.filename().string());
  make_folders(parent);
  remove_tree(fresh);  // left by a save that was killed
  make_folders(fresh);

  std::vector tensors = {tensor_entry("W_enc", sae.W_enc), tensor_entry("W_dec", sae.W_dec),
                         tensor_entry("b_enc", sae.b_enc), tensor_entry("b_dec", sae.b_dec)};
  THRESHER_CHECK((sae.architecture == "jumprelu") == sae.threshold.defined(),
                 "jumprelu, and nothing else, has thresholds");
  if (sae.threshold.defined()) tensors.push_back(tensor_entry("threshold", sae.threshold));
  write_safetensors(fresh / kWeightsFile, tensors, {{"format", "pt"}});
  write_file_atomically(fresh / kConfigFile, saelens_config(sae).dump(2) + "\n");
  sync_folder(fresh);
  publish(fresh, folder);
  sync_folder(parent);
}

InferenceSae load_saelens(const fs::path& folder) {
  const fs::path config_path = folder / kConfigFile;
  const std::string where = config_path.string();
  const SaelensConfig config =
      parse_saelens_config(Json::parse(read_text_file(config_path, kMaxConfigBytes), where), where);

  const fs::path weights_path = folder / kWeightsFile;
  const SafetensorsFile weights(weights_path);
  InferenceSae sae;
  sae.architecture = config.architecture;
  sae.apply_b_dec_to_input = config.apply_b_dec_to_input;
  sae.k = config.k;
  sae.metadata = config.metadata;
  sae.W_enc = read_tensor(weights, "W_enc", {config.d_in, config.d_sae}, weights_path);
  sae.b_enc = read_tensor(weights, "b_enc", {config.d_sae}, weights_path);
  sae.W_dec = read_tensor(weights, "W_dec", {config.d_sae, config.d_in}, weights_path);
  sae.b_dec = read_tensor(weights, "b_dec", {config.d_in}, weights_path);
  if (config.architecture == "jumprelu") {
    sae.threshold = read_tensor(weights, "threshold", {config.d_sae}, weights_path);
  }
  // topk without rescaling selects by the raw pre-activations: other norms would change the
  // selection.
  if (config.architecture != "topk" || config.rescale_acts_by_decoder_norm) {
    fold_decoder_norms(sae);
  }
  return sae;
}

}  // namespace thresher::sae
