#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/safetensors.h"
#include "trainer/checkpoint.h"
#include "trainer/checkpoint_format.h"

namespace thresher::trainer {
namespace {

constexpr std::uint64_t kMaxJsonBytes = std::uint64_t{64} << 20;

[[noreturn]] void fail(const std::filesystem::path& file, const std::string& problem) {
  throw DataError(fmt::format("{}: {}", file.string(), problem),
                  "the files that COMMIT lists, unchanged");
}

Json read_json(const std::filesystem::path& path) {
  if (!std::filesystem::is_regular_file(path)) fail(path, "the file is missing");
  return Json::parse(read_text_file(path, kMaxJsonBytes), path.string());
}

void check_format(const Json& json, const std::filesystem::path& path) {
  const std::int64_t format = json.at("format").as_int("format");
  if (format != kCheckpointFormat) {
    throw DataError(fmt::format("{}: checkpoint format {}", path.string(), format),
                    fmt::format("format {}", kCheckpointFormat));
  }
}

void check_file(const std::filesystem::path& folder, const Json& entry) {
  const std::string& name = entry.at("name").as_string("name");
  if (!is_safe_file_name(name)) fail(folder / kCommitFile, "names an unsafe file");
  const auto path = folder / name;
  if (!std::filesystem::is_regular_file(path)) fail(path, "the file is missing");
  const std::uint64_t expected = entry.at("bytes").as_uint("bytes");
  const std::uint64_t found = thresher::file_size(path);
  if (found != expected) {
    fail(path, fmt::format("{} bytes, COMMIT says {}", found, expected));
  }
  if (sha256_file(path) != entry.at("sha256").as_string("sha256")) {
    fail(path, "the content does not match the SHA-256 in COMMIT");
  }
}

const char* dtype_of(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kFloat    ? "F32"
         : tensor.scalar_type() == at::kDouble ? "F64"
                                               : "I64";
}

void read_tensor(const SafetensorsFile& file, const std::filesystem::path& path,
                 const std::string& name, at::Tensor tensor) {
  const SafetensorsEntry& entry = file.at(name);
  if (entry.dtype != dtype_of(tensor) || entry.shape != tensor.sizes().vec()) {
    fail(path, fmt::format("tensor {} is {} [{}], the run needs {} [{}]", name, entry.dtype,
                           fmt::join(entry.shape, ", "), dtype_of(tensor),
                           fmt::join(tensor.sizes().vec(), ", ")));
  }
  at::Tensor rows = at::empty(tensor.sizes(), tensor.scalar_type());
  file.read(entry,
            {static_cast<std::byte*>(rows.data_ptr()), static_cast<std::size_t>(rows.nbytes())});
  tensor.copy_(rows);
}

void read_model(const SafetensorsFile& file, const std::filesystem::path& path,
                const std::string& name, sae::TrainingSae& sae, sae::InputTransform& transform) {
  for (const sae::Parameter& parameter : sae.parameters()) {
    read_tensor(file, path, name + "." + parameter.name, parameter.weight);
  }
  for (const auto& [buffer_name, buffer] : sae.buffers()) {
    read_tensor(file, path, name + "." + buffer_name, buffer);
  }
  const at::Tensor centre = at::empty({sae.d_in()}, at::kDouble);
  const at::Tensor scale = at::empty({1}, at::kDouble);
  read_tensor(file, path, name + ".input_centre", centre);
  read_tensor(file, path, name + ".input_scale", scale);
  transform.centre.assign(centre.data_ptr<double>(), centre.data_ptr<double>() + sae.d_in());
  transform.scale = *scale.data_ptr<double>();
}

}  // namespace

std::vector<CheckpointEntry> list_checkpoints(const std::filesystem::path& run_dir) {
  std::vector<CheckpointEntry> entries;
  const auto root = checkpoints_folder(run_dir);
  if (!std::filesystem::is_directory(root)) return entries;
  for (const auto& path : list_folder(root)) {
    const std::string name = path.filename().string();
    std::int64_t step = 0;
    if (!name.starts_with("step-")) continue;
    const auto [end, error] = std::from_chars(name.data() + 5, name.data() + name.size(), step);
    if (error != std::errc() || step < 0 || name != checkpoint_name(step)) continue;
    entries.push_back({path, step});
  }
  std::sort(entries.begin(), entries.end(),
            [](const CheckpointEntry& a, const CheckpointEntry& b) { return a.step < b.step; });
  return entries;
}

CheckpointState verify_checkpoint(const std::filesystem::path& folder) {
  const auto commit_path = folder / kCommitFile;
  const Json commit = read_json(commit_path);
  check_format(commit, commit_path);
  const Json& files = commit.at("files");
  if (commit_hash(files) != commit.at("sha256").as_string("sha256")) {
    fail(commit_path, "its own SHA-256 does not match");
  }
  for (const char* required : {kModelFile, kOptimiserFile, kStateFile, kConfigFile}) {
    const auto& entries = files.as_array("files");
    const bool is_listed = std::any_of(entries.begin(), entries.end(), [&](const Json& entry) {
      return entry.at("name").as_string("name") == required;
    });
    if (!is_listed) fail(commit_path, fmt::format("does not list {}", required));
  }
  for (const Json& entry : files.as_array("files")) check_file(folder, entry);

  const Json json = read_json(folder / kStateFile);
  check_format(json, folder / kStateFile);
  CheckpointState state;
  state.step = json.at("step").as_int("step");
  state.tokens = json.at("tokens").as_int("tokens");
  state.metrics_bytes = json.at("metrics_bytes").as_int("metrics_bytes");
  state.identity = json.at("identity");
  state.figures = json.at("figures");
  return state;
}

void load_checkpoint(const std::filesystem::path& folder, std::span<const SaeSlot> saes) {
  const SafetensorsFile model(folder / kModelFile);
  const SafetensorsFile optimiser(folder / kOptimiserFile);
  for (const SaeSlot& slot : saes) {
    read_model(model, folder / kModelFile, slot.name, *slot.sae, *slot.transform);
    if (slot.average != nullptr) {
      for (std::size_t i = 0; i < slot.average->tensors().size(); ++i) {
        read_tensor(model, folder / kModelFile,
                    slot.name + "." + average_name(slot.sae->parameters()[i]),
                    slot.average->tensors()[i]);
      }
    }
    if (slot.moments == nullptr) continue;
    for (std::size_t i = 0; i < slot.moments->size(); ++i) {
      const std::string name = slot.name + "." + slot.sae->parameters()[i].name;
      read_tensor(optimiser, folder / kOptimiserFile, name + ".m", (*slot.moments)[i].m);
      read_tensor(optimiser, folder / kOptimiserFile, name + ".v", (*slot.moments)[i].v);
    }
  }
}

sae::InputTransform load_checkpoint_model(const std::filesystem::path& folder,
                                          const std::string& sae_name, sae::TrainingSae& sae) {
  verify_checkpoint(folder);
  sae::InputTransform transform;
  const SafetensorsFile model(folder / kModelFile);
  read_model(model, folder / kModelFile, sae_name, sae, transform);
  bool is_averaged = false;
  for (const sae::Parameter& parameter : sae.parameters()) {
    const std::string name = sae_name + "." + average_name(parameter);
    if (model.find(name) == nullptr) continue;
    read_tensor(model, folder / kModelFile, name, parameter.weight);
    is_averaged = true;
  }
  if (is_averaged) sae.constrain_weights();
  return transform;
}

}  // namespace thresher::trainer
