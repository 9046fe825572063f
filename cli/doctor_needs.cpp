#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "activation_cache/cache.h"
#include "activation_cache/harvest/harvest.h"
#include "cli/doctor.h"
#include "cli/ranks.h"
#include "cli/stages.h"
#include "core/error.h"
#include "core/files.h"
#include "core/progress.h"

namespace thresher::cli {
namespace {

using Status = Check::Status;

constexpr double kMostOfMemory = 0.9;  // the rest is for the system and what else runs

/// Widths are all that an estimate asks of a source: there may be no cache yet.
class WidthsAlone : public activation_cache::ActivationSource {
 public:
  explicit WidthsAlone(std::vector<activation_cache::HookPointWidth> widths)
      : widths_(std::move(widths)) {}
  const std::vector<activation_cache::HookPointWidth>& hook_points() const override {
    return widths_;
  }
  Json identity() const override { return {}; }
  const activation_cache::SourceStatistics& statistics(std::size_t) const override { refuse(); }
  void sample_rows(std::size_t, std::uint64_t, std::int64_t, std::span<float>) override {
    refuse();
  }
  void start(const activation_cache::BatchPlan&, std::int64_t, std::int64_t,
             std::int64_t) override {
    refuse();
  }
  std::int64_t steps_per_epoch() const override { refuse(); }
  std::int64_t n_dropped_rows_per_epoch() const override { refuse(); }
  void read(std::int64_t, std::int64_t, std::size_t, std::span<float>) override { refuse(); }

 private:
  [[noreturn]] static void refuse() { throw InternalError("a source without rows was read"); }

  std::vector<activation_cache::HookPointWidth> widths_;
};

struct Need {
  std::string stage;  // "harvest"
  std::uint64_t memory_bytes_per_rank = 0, disk_bytes = 0;
  double seconds = 0;
  std::filesystem::path folder;  // where the disk is taken
};

Check compare(const Need& need, int ranks_on_host) {
  const std::uint64_t memory =
      need.memory_bytes_per_rank * static_cast<std::uint64_t>(ranks_on_host);
  const std::uint64_t usable = usable_memory_bytes();
  const std::uint64_t free_bytes = free_disk_bytes(nearest_folder(need.folder));
  Check check{
      Status::kOk, "need: " + need.stage,
      fmt::format("about {} of memory ({} {} on this host, {} usable), {} of disk ({} "
                  "free), {}",
                  format_bytes(memory), ranks_on_host, ranks_on_host == 1 ? "rank" : "ranks",
                  format_bytes(usable), format_bytes(need.disk_bytes), format_bytes(free_bytes),
                  format_duration(need.seconds))};
  if (need.disk_bytes > free_bytes) {
    check.status = Status::kFail;
    check.advice = fmt::format(
        "free {} where {} is, or point it elsewhere; cache.dtype: bfloat16 "
        "and fewer tokens need less",
        format_bytes(need.disk_bytes - free_bytes), need.folder.string());
  } else if (static_cast<double>(memory) > kMostOfMemory * static_cast<double>(usable)) {
    check.status = memory > usable ? Status::kFail : Status::kWarn;
    check.advice =
        need.stage == "harvest"
            ? "fewer ranks on this host; host_model.dtype: bfloat16; a smaller cache.unit_tokens"
            : "fewer ranks on this host, fewer SAEs at once, fewer latents or a smaller "
              "train.batch_tokens";
  }
  return check;
}

Need harvest_need(const Experiment& experiment, const Inputs& inputs, int ranks) {
  const auto estimate = inputs.rows
                            ? activation_cache::estimate_own_harvest(experiment.cache, *inputs.rows,
                                                                     inputs.files.identity, ranks)
                            : activation_cache::estimate_harvest(
                                  experiment.cache, pack_contexts(inputs, corpus::Split::kTraining),
                                  *inputs.model, ranks);
  return {"harvest", estimate.memory_bytes_per_rank, estimate.disk_bytes, estimate.seconds,
          experiment.cache.dir};
}

std::vector<activation_cache::HookPointWidth> widths_of(const Experiment& experiment,
                                                        const Inputs& inputs) {
  if (inputs.rows) return inputs.rows->hook_points();
  std::vector<activation_cache::HookPointWidth> widths;
  for (const std::string& hook : experiment.cache.hook_points) {
    widths.push_back({hook, inputs.model->info().width(host_model::HookPoint::parse(hook))});
  }
  return widths;
}

Need training_need(Experiment experiment, const activation_cache::ActivationSource& source,
                   std::int64_t rows, int ranks) {
  settle_training(experiment, rows);
  const trainer::TrainEstimate estimate =
      trainer::estimate_training(experiment.train_job(false), source, ranks);
  return {"training", estimate.memory_bytes_per_rank, estimate.disk_bytes, estimate.seconds,
          experiment.run_dir()};
}

}  // namespace

std::vector<Check> check_needs(Experiment experiment, int ranks, int ranks_on_host) {
  if (activation_cache::is_cache_complete(experiment.cache.dir)) {
    const auto source = activation_cache::open_cache_source(experiment.cache.dir);
    return {compare(training_need(experiment, *source, source->statistics(0).n_rows, ranks),
                    ranks_on_host)};
  }
  const auto self = comm::make_self_communicator();
  const Inputs inputs = load_inputs(experiment, *self);
  const std::int64_t rows =
      inputs.rows ? inputs.rows->n_rows() - inputs.rows->n_held_out()
                  : static_cast<std::int64_t>(
                        pack_contexts(inputs, corpus::Split::kTraining).token_ids.size());
  const std::vector<Check> checks = {
      compare(harvest_need(experiment, inputs, ranks), ranks_on_host),
      compare(training_need(experiment, WidthsAlone(widths_of(experiment, inputs)), rows, ranks),
              ranks_on_host)};
  // Makes the SAEs: not where they would fill the memory.
  if (checks.back().status != Status::kFail) check_saes(experiment, inputs);
  return checks;
}

}  // namespace thresher::cli
