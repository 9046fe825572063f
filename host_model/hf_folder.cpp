#include "host_model/hf_folder.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "core/hash.h"
#include "host_model/store_values.h"

namespace thresher::host_model {
namespace {

constexpr const char* kConfigName = "config.json";
constexpr std::uint64_t kElementsPerRead = 1ULL << 20;

std::string in_quotes(std::string_view text) { return Json(text).dump(); }

std::filesystem::path config_of(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / kConfigName)) return folder / kConfigName;
  throw ConfigError(fmt::format("{}: there is no {}", folder.string(), kConfigName),
                    "a model folder as `save_pretrained` of transformers writes it",
                    "host_model.weights takes such a folder, or a GGUF file");
}

std::optional<Dtype> dtype_of(const SafetensorsEntry& entry) {
  if (entry.dtype == "F32") return Dtype::kFloat32;
  if (entry.dtype == "F16") return Dtype::kFloat16;
  if (entry.dtype == "BF16") return Dtype::kBfloat16;
  return std::nullopt;
}

}  // namespace

HfFolder::HfFolder(const std::filesystem::path& folder)
    : path(folder), config(config_of(folder)), tensors(folder) {}

std::string HfFolder::fingerprint() const {
  std::vector<std::filesystem::path> files = tensors.files();
  files.push_back(path / kConfigName);
  std::sort(files.begin(), files.end());
  std::string lines;
  for (const std::filesystem::path& file : files) {
    lines += fmt::format("{} {}\n", sha256_file(file), file.filename().string());
  }
  return sha256_hex(std::as_bytes(std::span(lines.data(), lines.size())));
}

HfWeights::HfWeights(const HfFolder& folder, std::string family)
    : folder_(folder), family_(std::move(family)) {}

bool HfWeights::has(const std::string& name) const {
  return folder_.tensors.find(name).entry != nullptr;
}

void HfWeights::check(const std::string& name, const std::vector<std::int64_t>& shape) const {
  const SafetensorsShards::Place place = folder_.tensors.find(name);
  if (place.entry == nullptr) {
    throw DataError(
        fmt::format("{}: tensor {} is missing", folder_.path.string(), in_quotes(name)),
        fmt::format("every weight of the {} family that {} asks for", family_, kConfigName));
  }
  const std::string tensor =
      fmt::format("{}: tensor {}", place.file->path().string(), in_quotes(name));
  if (place.entry->shape != shape) {
    throw DataError(fmt::format("{} has shape [{}]", tensor, fmt::join(place.entry->shape, ", ")),
                    fmt::format("[{}], by {}", fmt::join(shape, ", "), kConfigName));
  }
  if (!dtype_of(*place.entry)) {
    throw DataError(fmt::format("{} is {}", tensor, place.entry->dtype), "F32, F16 or BF16");
  }
}

void HfWeights::read(const std::string& name, at::Tensor out) {
  const SafetensorsShards::Place place = folder_.tensors.find(name);
  THRESHER_CHECK(place.entry != nullptr && dtype_of(*place.entry),
                 "a tensor is read that was not checked");
  read_.insert(name);
  const Dtype stored = *dtype_of(*place.entry);
  const bool is_as_stored = (stored == Dtype::kFloat32 && out.scalar_type() == at::kFloat) ||
                            (stored == Dtype::kBfloat16 && out.scalar_type() == at::kBFloat16);
  if (is_as_stored) {
    place.file->read(*place.entry, {static_cast<std::byte*>(out.mutable_data_ptr()), out.nbytes()});
    return;
  }
  const auto elements = static_cast<std::uint64_t>(out.numel());
  const std::uint64_t width = dtype_bytes(stored);
  std::vector<std::byte> raw(std::min(elements, kElementsPerRead) * width);
  std::vector<float> values(std::min(elements, kElementsPerRead));
  for (std::uint64_t done = 0; done < elements; done += kElementsPerRead) {
    const std::uint64_t count = std::min(kElementsPerRead, elements - done);
    const auto bytes = std::span(raw).first(count * width);
    place.file->read_part(*place.entry, done * width, bytes);
    decode_values(stored, bytes, std::span(values).first(count));
    store_values(std::span(values).first(count), static_cast<std::int64_t>(done), out);
  }
}

void HfWeights::check_all_read() const {
  for (const std::string& name : folder_.tensors.names()) {
    if (read_.contains(name) || name.ends_with(".rotary_emb.inv_freq")) continue;
    throw DataError(
        fmt::format("{}: tensor {} is not part of the {} family as computed here",
                    folder_.tensors.find(name).file->path().string(), in_quotes(name), family_),
        fmt::format("the weights that {} asks for and no others", kConfigName));
  }
}

}  // namespace thresher::host_model
