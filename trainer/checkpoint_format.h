#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/json.h"

namespace thresher::trainer {

/// Names of docs/checkpoint-format.md, shared by writer and reader.
inline constexpr int kCheckpointFormat = 1;
inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kOptimiserFile = "optim.safetensors";
inline constexpr const char* kStateFile = "state.json";
inline constexpr const char* kConfigFile = "config.resolved.yaml";
inline constexpr const char* kCommitFile = "COMMIT";

inline std::filesystem::path checkpoints_folder(const std::filesystem::path& run_dir) {
  return run_dir / "ckpt";
}
/// "step-00001200"
std::string checkpoint_name(std::int64_t step);
/// The hash that COMMIT carries of its own other members.
std::string commit_hash(const Json& files);

}  // namespace thresher::trainer
