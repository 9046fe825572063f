#include "trainer/loop.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <time.h>

#include "core/config.h"
#include "core/error.h"
#include "core/files.h"
#include "core/stop_signal.h"
#include "trainer/checkpoint.h"
#include "trainer/patience.h"
#include "trainer/resume.h"

namespace thresher::trainer {
namespace {

constexpr double kTimingSeconds = 10;
constexpr std::size_t kMostSaesInNote = 3;

/// Of all threads of this process: what a step costs, however busy the machine is otherwise.
double process_cpu_seconds() {
  timespec time{};
  THRESHER_CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) == 0, "clock_gettime failed");
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

TrainingLoop::TrainingLoop(const TrainJob& job, activation_cache::ActivationSource& source,
                           comm::Communicator& comm, RunDirectory* directory,
                           std::vector<TrainedSae>& saes, Json identity)
    : job_(&job),
      comm_(&comm),
      directory_(directory),
      saes_(&saes),
      identity_(std::move(identity)),
      steps_(n_steps(job.config)),
      rows_(source, saes, job.config.batch_tokens / job.config.lanes,
            comm.rank() * (job.config.lanes / comm.world_size()),
            job.config.lanes / comm.world_size(), steps_, job.device != Device::kCpu) {}

bool TrainingLoop::agree_on_flags(const std::exception_ptr& read_error) {
  std::int64_t flags[2] = {stop_requested() ? 1 : 0, read_error ? 1 : 0};
  comm_->all_reduce_max(flags, "step.flags");
  if (flags[1] != 0) {
    comm_->agree(
        [&] {
          if (read_error) std::rethrow_exception(read_error);
        },
        "step.read");
  }
  return flags[0] != 0;
}

void TrainingLoop::take_step() {
  sae::StepInfo info;
  info.step = step_;
  info.tokens_before = tokens();
  info.total_tokens = steps_ * job_->config.batch_tokens;
  info.batch_tokens = job_->config.batch_tokens;
  for (TrainedSae& trained : *saes_) {
    info.dead_window_tokens = trained.dead_window_tokens;
    info.seed = sae_seed(trained.sae->config(), job_->seed);
    const std::vector<at::Tensor>& inputs = rows_.inputs_of(trained);
    info.n_local_lanes = static_cast<std::int64_t>(inputs.size());
    trained.figures = trained.step->run(info, inputs, *comm_, is_logged(step_));
  }
  ++step_;
}

bool TrainingLoop::is_logged(std::int64_t step) const {
  return (step + 1) % job_->config.log_every_steps == 0 || step + 1 == steps_;
}

void TrainingLoop::write_metrics() {
  if (directory_ == nullptr) return;
  Json::Array lines;
  for (const TrainedSae& trained : *saes_) {
    // Resampling is told whenever it happens.
    if (!is_logged(step_ - 1) && trained.sae->replaced_latents().empty()) continue;
    Json line = Json::object({{"sae", trained.name}, {"step", step_}, {"tokens", tokens()}});
    for (const auto& [name, value] : trained.figures.as_object()) line[name] = value;
    lines.push_back(std::move(line));
  }
  if (!lines.empty()) directory_->append_metrics(lines);
}

void TrainingLoop::write_timing(bool is_last) {
  if (directory_ == nullptr) return;
  const auto now = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - timed_at_).count();
  if (step_ == timed_step_ || (seconds < kTimingSeconds && !is_last)) return;
  const double cpu = process_cpu_seconds();
  const std::int64_t n_tokens = (step_ - timed_step_) * job_->config.batch_tokens;
  directory_->timing().append(
      {Json::object({{"step", step_},
                     {"tokens", tokens()},
                     {"seconds", seconds},
                     {"cpu_seconds", cpu - timed_cpu_seconds_},
                     {"tokens_per_second", static_cast<double>(n_tokens) / std::max(seconds, 1e-9)},
                     {"cache_bytes", rows_.bytes_requested()}})});
  timed_at_ = now;
  timed_cpu_seconds_ = cpu;
  timed_step_ = step_;
}

bool TrainingLoop::is_checkpoint_due() const {
  const std::int64_t every = job_->config.checkpoint_every_tokens;
  if (step_ == steps_) return true;
  return every > 0 && tokens() / every > (tokens() - job_->config.batch_tokens) / every;
}

void TrainingLoop::save(bool is_stop) {
  if (saved_step_ == step_) return;
  run_on_root(
      *comm_,
      [&] {
        // Before the checkpoint that counts its bytes, never after.
        directory_->sync_metrics();
        failpoint("train.metrics_synced");
        CheckpointState state;
        state.step = step_;
        state.tokens = tokens();
        state.metrics_bytes = directory_->metrics().bytes();
        state.identity = identity_;
        for (const TrainedSae& trained : *saes_) state.figures[trained.name] = trained.figures;
        write_checkpoint(job_->run_dir, state, slots_of(*saes_), to_yaml(job_->resolved_config),
                         job_->config.keep_checkpoints);
        // Told here, and not only when the error has come up: the launcher may end the job by then.
        RunStatus status;
        status.state = is_stop ? "stopped" : "running";
        if (is_stop) status.exit_code = ExitCode::kStopped;
        status.step = step_;
        status.steps = steps_;
        status.tokens = tokens();
        status.ranks = comm_->world_size();
        write_status(job_->run_dir, status);
      },
      "checkpoint");
  saved_step_ = step_;
}

std::string TrainingLoop::note() const {
  std::string text;
  for (std::size_t i = 0; i < saes_->size() && i < kMostSaesInNote; ++i) {
    const Json* fvu = (*saes_)[i].figures.find("batch_fvu");
    if (fvu == nullptr) continue;
    text += fmt::format("{}{} fvu {:.3f}", text.empty() ? "" : ", ", (*saes_)[i].name,
                        fvu->as_double());
  }
  return text;
}

void TrainingLoop::run(std::int64_t first_step, bool is_saved) {
  step_ = timed_step_ = first_step;
  saved_step_ = is_saved ? first_step : -1;
  timed_at_ = std::chrono::steady_clock::now();
  timed_cpu_seconds_ = process_cpu_seconds();
  Progress progress("train", "tokens", steps_ * job_->config.batch_tokens, tokens(),
                    comm_->is_root());
  while (step_ < steps_) {
    std::exception_ptr read_error;
    try {
      rows_.take(step_);
    } catch (const Error&) {
      read_error = std::current_exception();
    }
    if (agree_on_flags(read_error)) {
      save(true);
      write_timing(true);
      throw StoppedBySignal(
          fmt::format("{}: stopped by a signal after step {} of {}, everything is saved",
                      job_->run_dir.string(), step_, steps_),
          "", "run the same command again to continue");
    }
    take_step();
    write_metrics();
    write_timing(step_ == steps_);
    failpoint("train.step");
    if (is_checkpoint_due()) save(false);
    progress.update(tokens(), note());
  }
  progress.finish();
}

}  // namespace thresher::trainer
