#include <ATen/ATen.h>
#include <fmt/format.h>

#include <array>
#include <bit>
#include <utility>

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

const char* dtype_of(const CheckpointContent::Tensor& tensor) {
  switch (tensor.values.scalar_type()) {
    case at::kFloat:
      return "F32";
    case at::kDouble:
      return "F64";
    case at::kLong:
      return "I64";
    default:
      THRESHER_CHECK(false, "a checkpoint holds float32, float64 and int64: " + tensor.name);
  }
}

void write_tensors(const std::filesystem::path& path,
                   const std::vector<CheckpointContent::Tensor>& tensors) {
  std::vector<SafetensorsTensor> list;
  for (const CheckpointContent::Tensor& tensor : tensors) {
    list.push_back({tensor.name,
                    dtype_of(tensor),
                    tensor.values.sizes().vec(),
                    {static_cast<const std::byte*>(tensor.values.data_ptr()),
                     static_cast<std::size_t>(tensor.values.nbytes())}});
  }
  write_safetensors(path, list);
}

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

NamedTensors model_of(std::span<const SaeSlot> saes) {
  NamedTensors tensors;
  for (const SaeSlot& slot : saes) {
    for (const sae::Parameter& parameter : slot.sae->parameters()) {
      tensors.emplace_back(slot.name + "." + parameter.name, parameter.weight);
    }
    for (std::size_t i = 0; i < slot.average->tensors().size(); ++i) {
      tensors.emplace_back(slot.name + "." + average_name(slot.sae->parameters()[i]),
                           slot.average->tensors()[i]);
    }
    for (const auto& [name, buffer] : slot.sae->buffers()) {
      tensors.emplace_back(slot.name + "." + name, buffer);
    }
    tensors.emplace_back(slot.name + ".input_centre",
                         at::tensor(slot.transform->centre, at::kDouble));
    tensors.emplace_back(slot.name + ".input_scale",
                         at::tensor({slot.transform->scale}, at::kDouble));
  }
  return tensors;
}

NamedTensors optimiser_of(std::span<const SaeSlot> saes) {
  NamedTensors tensors;
  for (const SaeSlot& slot : saes) {
    for (std::size_t i = 0; i < slot.moments->size(); ++i) {
      const std::string name = slot.name + "." + slot.sae->parameters()[i].name;
      tensors.emplace_back(name + ".m", (*slot.moments)[i].m);
      tensors.emplace_back(name + ".v", (*slot.moments)[i].v);
    }
  }
  return tensors;
}

void borrow_tensors(const NamedTensors& from, std::vector<CheckpointContent::Tensor>& to) {
  to.clear();
  // Row-major in the file, whatever the layout in memory and wherever that is.
  for (const auto& [name, tensor] : from) {
    to.push_back({name, tensor.contiguous().to(at::kCPU)});
  }
}

void copy_tensors(const NamedTensors& from, std::vector<CheckpointContent::Tensor>& to) {
  to.resize(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) {
    const auto& [name, tensor] = from[i];
    at::Tensor& copy = to[i].values;
    const bool fits = copy.defined() && copy.sizes() == tensor.sizes() &&
                      copy.scalar_type() == tensor.scalar_type();
    if (!fits) {
      copy = at::empty(tensor.sizes(),
                       at::TensorOptions().dtype(tensor.scalar_type()).device(at::kCPU));
    }
    copy.copy_(tensor);
    to[i].name = name;
  }
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
  remove_tree(doomed);
  rename_file(folder, doomed);
  failpoint("checkpoint.removal_named");
  remove_if_possible(doomed);
}

void write_files(const std::filesystem::path& folder, const CheckpointContent& content) {
  failpoint("checkpoint.begun");
  write_tensors(folder / kModelFile, content.model());
  failpoint("checkpoint.model_written");
  write_tensors(folder / kOptimiserFile, content.optimiser());
  failpoint("checkpoint.optimiser_written");
  write_state(folder / kStateFile, content.state);
  write_file_atomically(folder / kConfigFile, content.config_yaml);
  failpoint("checkpoint.state_written");
  write_commit(folder);
  sync_folder(folder);
  failpoint("checkpoint.committed");
}

}  // namespace

void CheckpointContent::borrow(std::span<const SaeSlot> saes) {
  borrow_tensors(model_of(saes), model_);
  borrow_tensors(optimiser_of(saes), optimiser_);
  is_borrowed_ = true;
}

void CheckpointContent::copy(std::span<const SaeSlot> saes) {
  if (is_borrowed_) {
    model_.clear();
    optimiser_.clear();
    is_borrowed_ = false;
  }
  copy_tensors(model_of(saes), model_);
  copy_tensors(optimiser_of(saes), optimiser_);
}

void write_checkpoint(const std::filesystem::path& run_dir, const CheckpointContent& content,
                      std::int64_t keep) {
  const auto root = checkpoints_folder(run_dir);
  const auto name = checkpoint_name(content.state.step);
  const auto temporary = root / (".tmp-" + name);
  make_folders(root);
  sync_folder(run_dir);
  remove_tree(temporary);
  try {
    make_folders(temporary);
    write_files(temporary, content);
    if (!rename_no_replace(temporary, root / name)) {
      throw IoError(fmt::format("{}: is there already", (root / name).string()));
    }
    failpoint("checkpoint.renamed");
    sync_folder(root);
  } catch (const Error&) {
    // Frees a full disk for whoever needs it; the older checkpoints are untouched.
    remove_if_possible(temporary);
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
      remove_if_possible(path);
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
