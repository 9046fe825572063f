#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/files.h"
#include "core/json.h"

namespace thresher::trainer {

/// RUN/tensorboard/SAE/: the figures of metrics.jsonl as scalars "train/FIGURE", so that
/// `tensorboard --logdir RUN/tensorboard` shows the run while it goes on. All but wall times follow
/// from metrics.jsonl.
///
/// One file an SAE, written anew from metrics.jsonl whenever training starts or continues: after
/// any kill there is one event a logged step, in order, and events that were not kept are gone.
/// Wall times of kept steps are taken over from the file before. Each new file has a higher number
/// in its name and begins with a session start at step 0, so that a TensorBoard that has read the
/// old file, now empty, moves on to the new one and forgets what it knew.
class TensorBoardLog {
 public:
  /// `metrics` is the run's metrics.jsonl, cut back to where training continues. IoError on
  /// failure.
  TensorBoardLog(const std::filesystem::path& run_dir, const std::filesystem::path& metrics,
                 const std::vector<std::string>& sae_names);
  /// Lines as they go into metrics.jsonl.
  void append(const Json::Array& lines);
  void sync();

 private:
  struct File {
    std::filesystem::path path;
    FileDescriptor descriptor;
  };
  std::map<std::string, File> files_;  // by SAE
};

/// What an evaluation found, in a file of its own beside those of training, emptying an older one:
/// scalars "evaluation/METRIC" of the numbers in `figures` and, where it has a density_histogram,
/// the histogram "evaluation/log10_density". `step` is the last step of training.
void write_evaluation_events(const std::filesystem::path& run_dir, const std::string& sae_name,
                             std::int64_t step, const Json& figures);

}  // namespace thresher::trainer
