#include <ATen/ATen.h>
#include <fmt/format.h>

#include <array>
#include <bit>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/safetensors.h"
#include "trainer/checkpoint.h"
#include "trainer/checkpoint_format.h"

namespace thresher::trainer {
namespace {

static_assert(std::endian::native == std::endian::little, "checkpoints are little-endian");

/// Tensors on their way into a file, kept alive until it is written.
class TensorList {
 public:
  void add(const std::string& name, const at::Tensor& tensor) {
    // Row-major in the file, whatever the layout in memory and wherever that is.
    const at::Tensor& kept = kept_.emplace_back(tensor.contiguous().to(at::kCPU));
    const std::string dtype = kept.scalar_type() == at::kFloat    ? "F32"
                              : kept.scalar_type() == at::kDouble ? "F64"
                              : kept.scalar_type() == at::kLong   ? "I64"
                                                                  : "";
    THRESHER_CHECK(!dtype.empty(), "a checkpoint holds float32, float64 and int64: " + name);
    tensors_.push_back({name,
                        dtype,
                        kept.sizes().vec(),
                        {static_cast<const std::byte*>(kept.data_ptr()),
                         static_cast<std::size_t>(kept.nbytes())}});
  }
  void write(const std::filesystem::path& path) const { write_safetensors(path, tensors_); }

 private:
  std::vector<at::Tensor> kept_;
  std::vector<SafetensorsTensor> tensors_;
};

void write_model(const std::filesystem::path& path, std::span<const SaeSlot> saes) {
  TensorList tensors;
  for (const SaeSlot& slot : saes) {
    for (const sae::Parameter& parameter : slot.sae->parameters()) {
      tensors.add(slot.name + "." + parameter.name, parameter.weight);
    }
    for (std::size_t i = 0; i < slot.average->tensors().size(); ++i) {
      tensors.add(slot.name + "." + average_name(slot.sae->parameters()[i]),
                  slot.average->tensors()[i]);
    }
    for (const auto& [name, buffer] : slot.sae->buffers()) {
      tensors.add(slot.name + "." + name, buffer);
    }
    tensors.add(slot.name + ".input_centre", at::tensor(slot.transform->centre, at::kDouble));
    tensors.add(slot.name + ".input_scale", at::tensor({slot.transform->scale}, at::kDouble));
  }
  tensors.write(path);
}

void write_optimiser(const std::filesystem::path& path, std::span<const SaeSlot> saes) {
  TensorList tensors;
  for (const SaeSlot& slot : saes) {
    for (std::size_t i = 0; i < slot.moments->size(); ++i) {
      const std::string name = slot.name + "." + slot.sae->parameters()[i].name;
      tensors.add(name + ".m", (*slot.moments)[i].m);
      tensors.add(name + ".v", (*slot.moments)[i].v);
    }
  }
  tensors.write(path);
}

void write_state(const std::filesystem::path& path, const CheckpointState& state) {
  const Json json = Json::object({{"format", kCheckpointFormat},
                                  {"step", state.step},
                                  {"tokens", state.tokens},
                                  {"metrics_bytes", state.metrics_bytes},
                                  {"identity", state.identity},
                                  {"figures", state.figures}});
  write_file_atomically(path, json.dump(2) + "\n");
}

void write_commit(const std::filesystem::path& folder) {
  Json files = Json::array();
  for (const char* name : {kModelFile, kOptimiserFile, kStateFile, kConfigFile}) {
    files.push_back(Json::object({{"name", name},
                                  {"bytes", thresher::file_size(folder / name)},
                                  {"sha256", sha256_file(folder / name)}}));
  }
  const Json commit = Json::object(
      {{"format", kCheckpointFormat}, {"files", files}, {"sha256", commit_hash(files)}});
  write_file_atomically(folder / kCommitFile, commit.dump(2) + "\n");
}

/// Out of sight under one rename first, so that a half-removed folder never looks like a
/// checkpoint.
void remove_folder(const std::filesystem::path& folder) {
  const auto doomed = folder.parent_path() / (".del-" + folder.filename().string());
  std::error_code error;
  std::filesystem::remove_all(doomed, error);
  std::filesystem::rename(folder, doomed, error);
  if (error) {
    throw IoError(fmt::format("{}: cannot be removed: {}", folder.string(), error.message()));
  }
  failpoint("checkpoint.removal_named");
  std::filesystem::remove_all(doomed, error);
}

void write_files(const std::filesystem::path& folder, const CheckpointState& state,
                 std::span<const SaeSlot> saes, const std::string& config_yaml) {
  failpoint("checkpoint.begun");
  write_model(folder / kModelFile, saes);
  failpoint("checkpoint.model_written");
  write_optimiser(folder / kOptimiserFile, saes);
  failpoint("checkpoint.optimiser_written");
  write_state(folder / kStateFile, state);
  write_file_atomically(folder / kConfigFile, config_yaml);
  failpoint("checkpoint.state_written");
  write_commit(folder);
  sync_folder(folder);
  failpoint("checkpoint.committed");
}

}  // namespace

std::string checkpoint_name(std::int64_t step) { return fmt::format("step-{:08}", step); }

std::string commit_hash(const Json& files) { return sha256_hex(files.dump()); }

void write_checkpoint(const std::filesystem::path& run_dir, const CheckpointState& state,
                      std::span<const SaeSlot> saes, const std::string& config_yaml,
                      std::int64_t keep) {
  const auto root = checkpoints_folder(run_dir);
  const auto name = checkpoint_name(state.step);
  const auto temporary = root / (".tmp-" + name);
  make_folders(root);
  sync_folder(run_dir);
  std::filesystem::remove_all(temporary);
  try {
    make_folders(temporary);
    write_files(temporary, state, saes, config_yaml);
    if (!rename_no_replace(temporary, root / name)) {
      throw IoError(fmt::format("{}: is there already", (root / name).string()));
    }
    failpoint("checkpoint.renamed");
    sync_folder(root);
  } catch (const Error&) {
    // Frees a full disk for whoever needs it; the older checkpoints are untouched.
    std::error_code ignored;
    std::filesystem::remove_all(temporary, ignored);
    throw;
  }
  prune_checkpoints(run_dir, keep);
}

void prune_checkpoints(const std::filesystem::path& run_dir, std::int64_t keep) {
  const std::vector<CheckpointEntry> entries = list_checkpoints(run_dir);
  const auto n = static_cast<std::int64_t>(entries.size());
  for (std::int64_t i = 0; i < n - keep; ++i) {
    try {
      remove_folder(entries[i].folder);
    } catch (const Error& error) {
      // The new checkpoint is safe; a folder too many must not end the run.
      log_warning(error.what());
    }
  }
}

void clean_checkpoints(const std::filesystem::path& run_dir) {
  const auto root = checkpoints_folder(run_dir);
  if (!std::filesystem::exists(root)) return;
  for (const auto& path : list_folder(root)) {
    const std::string name = path.filename().string();
    if (name.starts_with(".tmp-") || name.starts_with(".del-")) {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  }
}

void set_checkpoint_aside(const CheckpointEntry& entry) {
  const std::string name = "damaged-" + entry.folder.filename().string();
  for (int n = 1;; ++n) {
    const auto aside = entry.folder.parent_path() / (n == 1 ? name : fmt::format("{}-{}", name, n));
    if (rename_no_replace(entry.folder, aside)) return;
  }
}

}  // namespace thresher::trainer
