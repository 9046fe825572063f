#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/inside_folder.h"
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

std::string read_text(const std::filesystem::path& path) {
  if (!std::filesystem::is_regular_file(path)) fail(path, "the file is missing");
  return read_text_file(path, kMaxJsonBytes);
}

void check_file(const std::filesystem::path& folder, const CommittedFile& listed) {
  const auto path = folder / listed.name;
  if (!std::filesystem::is_regular_file(path)) fail(path, "the file is missing");
  require_inside_folder(path);
  const std::uint64_t found = thresher::file_size(path);
  if (found != listed.bytes) {
    fail(path, fmt::format("{} bytes, COMMIT says {}", found, listed.bytes));
  }
  if (sha256_file(path) != listed.sha256) {
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
  const auto commit = folder / kCommitFile;
  for (const CommittedFile& file : parse_commit(read_text(commit), commit.string())) {
    check_file(folder, file);
  }
  return parse_state(read_text(folder / kStateFile), (folder / kStateFile).string());
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
