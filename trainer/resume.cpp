#include "trainer/resume.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/log.h"
#include "trainer/identity.h"
#include "trainer/patience.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kChunkBytes = std::int64_t{64} << 20;

void load(const CheckpointEntry& entry, std::vector<TrainedSae>& saes) {
  std::vector<SaeSlot> slots = slots_of(saes);
  std::vector<sae::InputTransform> saved(saes.size());
  for (std::size_t i = 0; i < slots.size(); ++i) slots[i].transform = &saved[i];
  load_checkpoint(entry.folder, slots);
  for (std::size_t i = 0; i < saes.size(); ++i) {
    const sae::InputTransform& ours = saes[i].transform;
    if (saved[i].centre != ours.centre || saved[i].scale != ours.scale) {
      throw ConfigError(fmt::format("{}: the statistics of {} have changed since it was made",
                                    entry.folder.string(), saes[i].sae->config().hook_point),
                        "the activations that the run was started on",
                        "start over with --fresh (the old directory is kept)");
    }
  }
}

/// Rank 0's part. Goes back from the newest until one loads.
std::optional<CheckpointState> load_newest(const std::filesystem::path& run_dir,
                                           const Json& identity, std::vector<TrainedSae>& saes) {
  clean_checkpoints(run_dir);
  std::vector<CheckpointEntry> entries = list_checkpoints(run_dir);
  std::reverse(entries.begin(), entries.end());
  std::vector<CheckpointEntry> damaged;
  std::string reasons;
  for (const CheckpointEntry& entry : entries) {
    try {
      CheckpointState state = verify_checkpoint(entry.folder);
      check_same_identity(state.identity, identity, entry.folder.string());
      load(entry, saes);
      for (const CheckpointEntry& bad : damaged) set_checkpoint_aside(bad);
      return state;
    } catch (const Error& error) {
      if (error.code() != ExitCode::kDamagedInput && error.code() != ExitCode::kIo) throw;
      log_warning(fmt::format("checkpoint skipped: {}", error.first_line()));
      reasons += fmt::format("{}{}", reasons.empty() ? "" : "; ", error.first_line());
      damaged.push_back(entry);
    }
  }
  if (damaged.empty()) return std::nullopt;
  throw DataError(fmt::format("{}: none of {} checkpoints is valid: {}", run_dir.string(),
                              damaged.size(), reasons),
                  "at least one whole checkpoint", "restore one, or start over with --fresh");
}

void broadcast_memory(std::byte* data, std::int64_t n_bytes, comm::Communicator& comm,
                      const std::string& what) {
  for (std::int64_t begin = 0; begin < n_bytes; begin += kChunkBytes) {
    const std::int64_t size = std::min(kChunkBytes, n_bytes - begin);
    std::vector<std::byte> chunk(static_cast<std::size_t>(size));
    if (comm.is_root()) std::memcpy(chunk.data(), data + begin, chunk.size());
    comm.broadcast(chunk, 0, what);
    THRESHER_CHECK(static_cast<std::int64_t>(chunk.size()) == size, "ranks differ in a tensor");
    std::memcpy(data + begin, chunk.data(), chunk.size());
  }
}

/// Strides are the same on every rank, so the raw memory is what has to travel.
void broadcast_tensor(const at::Tensor& tensor, comm::Communicator& comm, const std::string& what) {
  THRESHER_CHECK(tensor.is_non_overlapping_and_dense(), "a tensor without gaps: " + what);
  at::Tensor flat = tensor.as_strided({tensor.numel()}, {1});
  const at::Tensor host = flat.to(at::kCPU);
  broadcast_memory(static_cast<std::byte*>(host.data_ptr()),
                   static_cast<std::int64_t>(host.nbytes()), comm, what);
  if (!tensor.is_cpu()) flat.copy_(host);
}

void broadcast_saes(std::vector<TrainedSae>& saes, comm::Communicator& comm) {
  if (comm.world_size() == 1) return;
  for (TrainedSae& trained : saes) {
    const std::string prefix = "resume." + trained.name + ".";
    for (std::size_t i = 0; i < trained.sae->parameters().size(); ++i) {
      const sae::Parameter& parameter = trained.sae->parameters()[i];
      broadcast_tensor(parameter.weight, comm, prefix + parameter.name);
      broadcast_tensor(trained.step->moments()[i].m, comm, prefix + parameter.name + ".m");
      broadcast_tensor(trained.step->moments()[i].v, comm, prefix + parameter.name + ".v");
    }
    for (const at::Tensor& average : trained.step->average().tensors()) {
      broadcast_tensor(average, comm, prefix + "ema");
    }
    for (const auto& [name, buffer] : trained.sae->buffers()) {
      broadcast_tensor(buffer, comm, prefix + name);
    }
  }
}

std::optional<CheckpointState> broadcast_state(const std::optional<CheckpointState>& mine,
                                               comm::Communicator& comm) {
  Json json;
  if (mine) {
    json = Json::object({{"step", mine->step},
                         {"tokens", mine->tokens},
                         {"metrics_bytes", mine->metrics_bytes},
                         {"figures", mine->figures}});
  }
  const std::string text = json.dump();
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  comm.broadcast(bytes, 0, "resume.state");
  json = Json::parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, "resume.state");
  if (json.is_null()) return std::nullopt;
  CheckpointState state;
  state.step = json.at("step").as_int();
  state.tokens = json.at("tokens").as_int();
  state.metrics_bytes = json.at("metrics_bytes").as_int();
  state.figures = json.at("figures");
  return state;
}

}  // namespace

std::vector<SaeSlot> slots_of(std::vector<TrainedSae>& saes) {
  std::vector<SaeSlot> slots;
  for (TrainedSae& trained : saes) {
    slots.push_back({trained.name, trained.sae.get(), &trained.step->moments(), &trained.transform,
                     &trained.step->average()});
  }
  return slots;
}

std::optional<CheckpointState> resume_newest(const std::filesystem::path& run_dir,
                                             RunDirectory* directory, const Json& identity,
                                             std::vector<TrainedSae>& saes, std::int64_t keep,
                                             comm::Communicator& comm) {
  std::optional<CheckpointState> found;
  run_on_root(
      comm,
      [&] {
        found = load_newest(run_dir, identity, saes);
        // A kill between a commit and its clearing-up left one too many.
        prune_checkpoints(run_dir, keep);
        directory->metrics().truncate(found ? found->metrics_bytes : 0);
      },
      "resume");
  found = broadcast_state(found, comm);
  if (found) broadcast_saes(saes, comm);
  return found;
}

}  // namespace thresher::trainer
