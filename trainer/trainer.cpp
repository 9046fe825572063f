#include "trainer/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/log.h"
#include "core/system_error.h"
#include "trainer/identity.h"
#include "trainer/loop.h"
#include "trainer/patience.h"
#include "trainer/resume.h"
#include "trainer/run_directory.h"
#include "trainer/trained_sae.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kFewSteps = 400;

void check_job(const TrainJob& job, const comm::Communicator& comm) {
  THRESHER_CHECK(job.config.is_settled(), "the length of training is chosen before it starts");
  job.config.validate();
  const std::int64_t lanes = job.config.lanes;
  if (comm.world_size() > lanes || lanes % comm.world_size() != 0) {
    throw ConfigError(
        fmt::format("{} ranks do not divide train.lanes = {}", comm.world_size(), lanes),
        "a number of ranks that divides the lanes, so that every rank has as many as the others",
        fmt::format("start with a power of two up to {}", lanes));
  }
  if (job.saes.empty()) throw ConfigError("sae: the list is empty", "at least one SAE");
  std::set<std::string> names;
  for (std::size_t i = 0; i < job.saes.size(); ++i) {
    const std::string& name = job.saes[i]->name;
    if (!is_safe_file_name(name)) {
      throw ConfigError(fmt::format("sae[{}].name = \"{}\" cannot be a folder's name", i, name),
                        "letters, digits, '.', '_' and '-', not starting with '.' or '-'");
    }
    if (!names.insert(name).second) {
      throw ConfigError(
          fmt::format("sae[{}].name = {} is taken by another SAE of the list", i, name),
          "names that differ");
    }
    dead_window_tokens(*job.saes[i], job.config, i);
    config_of(job.config, *job.saes[i]);
  }
}

activation_cache::BatchPlan plan_of(const TrainJob& job) {
  activation_cache::BatchPlan plan;
  plan.batch_tokens = job.config.batch_tokens;
  plan.lanes = job.config.lanes;
  plan.shuffle_window_tokens = job.config.shuffle_window_tokens;
  plan.seed = job.seed;
  return plan;
}

/// The job while it runs: what the parts below share.
class Training {
 public:
  Training(const TrainJob& job, activation_cache::ActivationSource& source,
           comm::Communicator& comm)
      : job_(job), source_(source), comm_(comm) {}

  TrainResult run() {
    check_job(job_, comm_);  // the same verdict on every rank
    comm_.agree(
        [&] {
          if (comm_.is_root()) directory_.emplace(job_.run_dir, job_.fresh);
        },
        "train.start");
    // From here on this job owns the folder, and its end is told there whatever it is.
    try {
      const TrainResult result = train();
      tell("done", ExitCode::kDone, "");
      return result;
    } catch (const StoppedBySignal& stop) {
      failpoint("train.stopped");
      tell("stopped", stop.code(), stop.first_line());
      throw;
    } catch (const Error& error) {
      tell("failed", error.code(), error.first_line());
      throw;
    } catch (const std::exception& error) {
      tell("failed", ExitCode::kInternal, error.what());
      throw;
    }
  }

 private:
  TrainResult train() {
    const auto begin = std::chrono::steady_clock::now();
    std::optional<CheckpointState> saved;
    set_up(saved);
    TrainResult result;
    result.steps = n_steps(job_.config);
    result.tokens = result.steps * job_.config.batch_tokens;
    result.was_complete = step_ == result.steps && is_exported();
    if (result.was_complete) return result;

    const std::int64_t first_step = step_;
    if (step_ < result.steps) {
      start_source();
      TrainingLoop loop(job_, source_, comm_, root_directory(), saes_, identity_);
      try {
        loop.run(first_step, saved.has_value());
      } catch (...) {
        step_ = loop.step();
        throw;
      }
      step_ = loop.step();
    }
    run_on_root(
        comm_, [&] { export_saes(); }, "train.export");
    result.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    result.tokens_per_second =
        static_cast<double>((step_ - first_step) * job_.config.batch_tokens) /
        std::max(result.seconds, 1e-9);
    return result;
  }

  void set_up(std::optional<CheckpointState>& saved) {
    comm_.agree(
        [&] {
          identity_ = training_identity(job_, source_);
          saes_ = make_trained_saes(job_, source_);
        },
        "train.set_up");
    saved = resume_newest(job_.run_dir, root_directory(), identity_, saes_,
                          job_.config.keep_checkpoints, comm_);
    step_ = saved ? saved->step : 0;
    if (saved) {
      for (TrainedSae& trained : saes_) {
        trained.figures = saved->figures.at(trained.name);
        const Json* skipped = trained.figures.find(kSkippedSteps);
        trained.skipped_steps = skipped == nullptr ? 0 : skipped->as_int();
      }
      log_info(fmt::format("{}: continues after step {} of {}", job_.run_dir.string(), saved->step,
                           n_steps(job_.config)));
    } else {
      comm_.agree(
          [&] {
            for (TrainedSae& trained : saes_) initialise(trained, job_, source_);
          },
          "train.initialise");
    }
    run_on_root(
        comm_, [&] { announce(); }, "train.announce");
  }

  /// Rank 0 only: the files that say what is running, and the warning that costs most when it is
  /// missed.
  void announce() {
    directory_->write_config(job_.resolved_config);
    Json start = Json::object(
        {{"event", "start"},
         {"time", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))},
         {"host", host_name()},
         {"ranks", comm_.world_size()},
         {"backend", comm_.backend()},
         {"threads", at::get_num_threads()}});
    for (const auto& [name, value] : job_.start_facts.as_object()) start[name] = value;
    directory_->timing().append({start});
    if (job_.config.tensorboard && step_ < n_steps(job_.config)) {
      std::vector<std::string> names;
      for (const TrainedSae& trained : saes_) names.push_back(trained.name);
      directory_->open_tensorboard(names);
    }
    tell("running", std::nullopt, "");
    const std::int64_t steps = n_steps(job_.config);
    if (steps < kFewSteps) {
      log_warning(
          fmt::format("train: {} steps; with fewer than {} an SAE hardly leaves its "
                      "starting point (lower train.batch_tokens or take more tokens)",
                      steps, kFewSteps));
    }
  }

  void start_source() {
    comm_.agree(
        [&] {
          const std::int64_t n_lanes = job_.config.lanes / comm_.world_size();
          source_.start(plan_of(job_), step_, comm_.rank() * n_lanes, n_lanes);
          if (source_.steps_per_epoch() < 1) {
            throw ConfigError(fmt::format("train.batch_tokens = {}: the source has only {} rows",
                                          job_.config.batch_tokens,
                                          source_.statistics(saes_.front().hook_index).n_rows),
                              "at least one batch",
                              "harvest more text or lower train.batch_tokens");
          }
        },
        "train.source");
    log_info(fmt::format(
        "train: {} steps of {} tokens, {:.2f} epochs of {} steps, {} rows of each "
        "epoch fill no batch",
        n_steps(job_.config), job_.config.batch_tokens,
        static_cast<double>(n_steps(job_.config)) / static_cast<double>(source_.steps_per_epoch()),
        source_.steps_per_epoch(), source_.n_dropped_rows_per_epoch()));
  }

  /// The root looks: another rank could come late and find what the root is exporting.
  bool is_exported() {
    std::int64_t found =
        comm_.is_root() && std::all_of(saes_.begin(), saes_.end(), [&](const TrainedSae& trained) {
          const auto folder = sae_folder(job_.run_dir, trained.name);
          return std::filesystem::exists(folder / "cfg.json") &&
                 std::filesystem::exists(folder / "sae_weights.safetensors");
        });
    comm_.all_reduce_max({&found, 1}, "train.is_exported");
    return found != 0;
  }

  void export_saes() {
    for (const TrainedSae& trained : saes_) {
      failpoint("train.export");
      sae::InferenceSae sae = trained.step->average().to_inference(trained.transform);
      for (const auto& [name, value] : job_.export_metadata.as_object()) sae.metadata[name] = value;
      sae.metadata["hook_name"] = trained.sae->config().hook_point;
      sae.metadata["training_tokens"] = step_ * job_.config.batch_tokens;
      sae.metadata["training_steps"] = step_;
      sae.metadata["seed"] = sae_seed(trained.sae->config(), job_.seed);
      sae.metadata["last_batch"] = trained.figures;
      make_folders(job_.run_dir / "sae");
      sae::save_saelens(sae, sae_folder(job_.run_dir, trained.name));
    }
  }

  void tell(const std::string& state, std::optional<ExitCode> code, const std::string& message) {
    if (!directory_) return;
    RunStatus status;
    status.state = state;
    status.exit_code = code;
    status.message = message;
    status.step = step_;
    status.steps = n_steps(job_.config);
    status.tokens = step_ * job_.config.batch_tokens;
    status.ranks = comm_.world_size();
    try {
      write_status(job_.run_dir, status);
    } catch (const Error& error) {
      // A full disk is one reason to be here; the first error is the one to report.
      log_warning(error.what());
    }
  }

  RunDirectory* root_directory() { return directory_ ? &*directory_ : nullptr; }

  const TrainJob& job_;
  activation_cache::ActivationSource& source_;
  comm::Communicator& comm_;
  std::optional<RunDirectory> directory_;  // rank 0 only
  std::vector<TrainedSae> saes_;
  Json identity_;
  std::int64_t step_ = 0;
};

}  // namespace

TrainResult train(const TrainJob& job, activation_cache::ActivationSource& source,
                  comm::Communicator& comm) {
  return Training(job, source, comm).run();
}

}  // namespace thresher::trainer
