#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

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

/// state.json: where a run stood. Holds nothing that depends on ranks, hosts or time.
struct CheckpointState {
  std::int64_t step = 0;           // steps completed
  std::int64_t tokens = 0;         // tokens seen
  std::int64_t metrics_bytes = 0;  // of RUN/metrics.jsonl at that moment
  Json identity;                   // what the numbers depend on (trainer/identity.h)
  Json figures = Json::object();   // the last step's figures, one object an SAE under its name
};

/// A file of a checkpoint, as COMMIT lists it.
struct CommittedFile {
  std::string name;
  std::uint64_t bytes = 0;
  std::string sha256;
};

/// What the text of a COMMIT or of a state.json says; `where` starts each message. DataError for
/// what is damaged, of another format, lacks one of the four files or names an unsafe one.
std::vector<CommittedFile> parse_commit(std::string_view text, const std::string& where);
CheckpointState parse_state(std::string_view text, const std::string& where);

}  // namespace thresher::trainer
