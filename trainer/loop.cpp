#include "trainer/loop.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <time.h>

#include "core/config.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
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
            job.config.lanes / comm.world_size(), steps_, job.device != Device::kCpu),
      stragglers_(comm) {
  if (directory_ == nullptr || !job.config.background_checkpoints) return;
  background_.emplace([this](const CheckpointContent& content) { write(content, false); });
}

TrainingLoop::Agreed TrainingLoop::agree(const std::exception_ptr& read_error) {
  const bool has_failed = read_error || (background_ && background_->has_failed());
  const bool is_writing = background_ && background_->is_writing();
  std::int64_t flags[4] = {stop_requested(), has_failed, is_checkpoint_due(), is_writing};
  comm_->all_reduce_max(flags, "step.flags");
  if (flags[1] != 0) {
    comm_->agree(
        [&] {
          if (read_error) std::rethrow_exception(read_error);
          if (background_) background_->finish();
        },
        "step.read");
  }
  return {flags[0] != 0, flags[2] != 0, flags[3] != 0};
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
    trained.was_skipped = false;
    try {
      trained.figures = trained.step->run(info, inputs, *comm_, is_logged(step_));
    } catch (const BadStep& bad) {
      leave_out(trained, bad, inputs);
    }
    if (trained.skipped_steps > 0) trained.figures[kSkippedSteps] = trained.skipped_steps;
  }
  ++step_;
}

void TrainingLoop::leave_out(TrainedSae& trained, const BadStep& bad,
                             const std::vector<at::Tensor>& inputs) {
  const std::filesystem::path kept = keep_bad_step(job_->run_dir, bad, inputs, identity_, *comm_);
  const bool may_skip =
      job_->config.on_bad_step == "skip" && trained.skipped_steps < job_->config.max_skipped_steps;
  if (!may_skip) {
    throw DataError(
        bad.first_line(),
        fmt::format("finite activations, weights and gradients; nothing was updated by this step{}",
                    trained.skipped_steps > 0
                        ? fmt::format(", {} were left out before it", trained.skipped_steps)
                        : ""),
        fmt::format("the batch is kept in {}; if it is at fault, verify the cache (thresher cache "
                    "verify DIR) or leave such steps out (train.on_bad_step: skip); else lower "
                    "train.learning_rate",
                    kept.string()));
  }
  ++trained.skipped_steps;
  trained.was_skipped = true;
  if (!comm_->is_root()) return;
  log_warning(fmt::format("{}; the step is left out ({} of at most {}), its batch kept in {}",
                          bad.first_line(), trained.skipped_steps, job_->config.max_skipped_steps,
                          kept.string()));
}

bool TrainingLoop::is_logged(std::int64_t step) const {
  return (step + 1) % job_->config.log_every_steps == 0 || step + 1 == steps_;
}

void TrainingLoop::write_metrics() {
  if (directory_ == nullptr) return;
  Json::Array lines;
  for (const TrainedSae& trained : *saes_) {
    if (trained.was_skipped) continue;
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
  Json line =
      Json::object({{"step", step_},
                    {"tokens", tokens()},
                    {"seconds", seconds},
                    {"cpu_seconds", cpu - timed_cpu_seconds_},
                    {"tokens_per_second", static_cast<double>(n_tokens) / std::max(seconds, 1e-9)},
                    {"cache_bytes", rows_.bytes_requested()}});
  if (!rank_seconds_.is_null()) line["rank_seconds"] = rank_seconds_;
  directory_->timing().append({line});
  timed_at_ = now;
  timed_cpu_seconds_ = cpu;
  timed_step_ = step_;
}

bool TrainingLoop::is_checkpoint_due() const {
  if (directory_ == nullptr || saved_step_ == step_) return false;
  const std::int64_t every = job_->config.checkpoint_every_tokens;
  if (every > 0 && tokens() / every > (tokens() - job_->config.batch_tokens) / every) return true;
  const double minutes = job_->config.checkpoint_every_minutes;
  const std::chrono::duration<double> age = std::chrono::steady_clock::now() - saved_at_;
  const bool is_writing = background_ && background_->is_writing();
  return minutes > 0 && age.count() > 60 * minutes && !is_writing;
}

CheckpointState TrainingLoop::state() const {
  CheckpointState state;
  state.step = step_;
  state.tokens = tokens();
  state.metrics_bytes = directory_->metrics().bytes();
  state.identity = identity_;
  for (const TrainedSae& trained : *saes_) state.figures[trained.name] = trained.figures;
  return state;
}

void TrainingLoop::write(const CheckpointContent& content, bool is_stop) {
  // Before the checkpoint that counts its bytes, never after.
  directory_->sync_metrics();
  failpoint("train.metrics_synced");
  write_checkpoint(job_->run_dir, content, job_->config.keep_checkpoints);
  // Told here, and not only when the error has come up: the launcher may end the job by then.
  RunStatus status;
  status.state = is_stop ? "stopped" : "running";
  if (is_stop) status.exit_code = ExitCode::kStopped;
  status.step = content.state.step;
  status.steps = steps_;
  status.tokens = content.state.tokens;
  status.ranks = comm_->world_size();
  write_status(job_->run_dir, status);
}

void TrainingLoop::checkpoint(bool is_writing) {
  if (!job_->config.background_checkpoints) return save_now(false);
  if (is_writing) {
    // Slow storage: the others wait with patience, not against a call's deadline.
    run_on_root(
        *comm_, [&] { background_->finish(); }, "checkpoint before");
  }
  // One that has just failed is told to all ranks before the next step.
  if (background_ && !background_->has_failed()) {
    background_->finish();
    background_->begin(state(), to_yaml(job_->resolved_config), slots_of(*saes_));
  }
  saved_step_ = step_;
  saved_at_ = std::chrono::steady_clock::now();
}

void TrainingLoop::save_now(bool is_stop) {
  run_on_root(
      *comm_,
      [&] {
        if (background_) background_->finish();
        if (saved_step_ == step_) return;
        CheckpointContent content;
        content.state = state();
        content.config_yaml = to_yaml(job_->resolved_config);
        content.borrow(slots_of(*saes_));
        write(content, is_stop);
      },
      "checkpoint");
  saved_step_ = step_;
  saved_at_ = std::chrono::steady_clock::now();
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
  timed_at_ = saved_at_ = std::chrono::steady_clock::now();
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
    const Agreed agreed = agree(read_error);
    if (agreed.is_stop_requested) {
      save_now(true);
      write_timing(true);
      throw StoppedBySignal(
          fmt::format("{}: stopped by {} after step {} of {}, everything is saved",
                      job_->run_dir.string(), stop_reason(), step_, steps_),
          "", "run the same command again to continue");
    }
    if (agreed.is_checkpoint_due) checkpoint(agreed.is_writing);
    take_step();
    write_metrics();
    if (const auto seconds = stragglers_.after_step()) {
      rank_seconds_ = Json::array();
      for (const double one : *seconds) rank_seconds_.push_back(one);
    }
    write_timing(step_ == steps_);
    failpoint("train.step");
    progress.update(tokens(), note());
  }
  save_now(false);
  progress.finish();
}

}  // namespace thresher::trainer
