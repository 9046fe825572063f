#include "training_testing.h"

#include <ATen/Parallel.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>

#include "core/error.h"
#include "core/files.h"
#include "core/log.h"

namespace thresher::trainer {
namespace {

int exit_code_of(const std::function<void()>& work) {
  try {
    work();
    return 0;
  } catch (const Error& error) {
    if (error.code() != ExitCode::kStopped) std::fprintf(stderr, "child: %s\n", error.what());
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "child: %s\n", error.what());
    return 1;
  }
}

int code_of_status(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

TemporaryFolder::TemporaryFolder() {
  // These tests sync thousands of small files; memory does that in no time, and a killed process
  // cannot tell.
  const bool has_memory = access("/dev/shm", W_OK) == 0;
  const std::filesystem::path parent =
      has_memory ? std::filesystem::path("/dev/shm") : std::filesystem::temp_directory_path();
  std::string name = (parent / "thresher-trainer-XXXXXX").string();
  THRESHER_CHECK(mkdtemp(name.data()) != nullptr, "a temporary folder");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() { std::filesystem::remove_all(path_); }

activation_cache::SyntheticWorld tiny_world() {
  activation_cache::SyntheticWorld world;
  world.d_in = 16;
  world.n_features = 32;
  world.mean_active = 2;
  world.seed = 5;
  return world;
}

std::unique_ptr<sae::SaeConfig> tiny_topk(const std::string& name) {
  auto config = std::make_unique<sae::TopKConfig>();
  config->name = name;
  config->hook_point = "synthetic";
  config->type = "topk";
  config->n_latents = 64;
  config->k = 2;
  config->aux_k = 8;
  config->dead_window_tokens = 512;
  return config;
}

std::unique_ptr<sae::SaeConfig> tiny_relu(const std::string& name) {
  auto config = std::make_unique<sae::ReluL1Config>();
  config->name = name;
  config->hook_point = "synthetic";
  config->type = "relu_l1";
  config->n_latents = 48;
  config->l1_coefficient = 2;
  return config;
}

TrainJob tiny_job(const std::filesystem::path& run_dir, std::int64_t steps) {
  TrainJob job;
  job.config.batch_tokens = 64;
  job.config.lanes = 8;
  job.config.total_tokens = 64 * steps;
  job.config.learning_rate = 3e-3;
  job.config.warmup_tokens = 64 * steps / 10;
  job.config.decay_tokens = 64 * steps / 5;
  job.config.init_sample_rows = 512;
  job.config.checkpoint_every_tokens = 640;
  job.config.background_checkpoints = false;  // at a kill it is known which were written
  job.saes.push_back(tiny_topk());
  job.saes.push_back(tiny_relu());
  job.run_dir = run_dir;
  job.seed = 42;
  job.resolved_config = Json::object({{"run", Json::object({{"name", "tiny"}})}});
  job.export_metadata = Json::object({{"model_name", "synthetic"}, {"context_size", 1}});
  return job;
}

TrainJob rich_job(const std::filesystem::path& run_dir, std::int64_t steps) {
  TrainJob job = tiny_job(run_dir, steps);
  job.config.background_checkpoints = true;
  job.config.decay_shape = "cosine";
  job.config.decay_floor = 0.1;
  job.config.ema_decay = 0.9;
  job.saes.clear();
  auto annealed = std::make_unique<sae::TopKConfig>(
      dynamic_cast<const sae::TopKConfig&>(*tiny_topk("annealed")));
  annealed->k_start = 6;
  annealed->k_anneal_tokens = 64 * steps / 2;
  annealed->train.learning_rate = 1e-2;
  annealed->train.clip_gradient_norm = 0.5;
  job.saes.push_back(std::move(annealed));
  auto bricken = std::make_unique<sae::ReluL1Config>(
      dynamic_cast<const sae::ReluL1Config&>(*tiny_relu("bricken")));
  bricken->form = "bricken";
  bricken->use_form_defaults();
  bricken->l1_coefficient = 30;  // kills latents
  bricken->dead_window_tokens = 128;
  bricken->resample_every_tokens = 5 * 64;
  bricken->resample_until_tokens = 64 * steps;
  bricken->sparsity_decay_tokens = 64 * steps / 4;
  bricken->sparsity_decay_shape = "cosine";
  bricken->train.ema_decay = 0.8;
  bricken->train.learning_rate = 1e-2;
  job.saes.push_back(std::move(bricken));
  return job;
}

void train_on_threads(const TrainJob& job, int ranks) {
  at::set_num_threads(1);
  set_log_level(LogLevel::kError);
  if (ranks == 1) {
    activation_cache::SyntheticSource source(tiny_world());
    train(job, source, *comm::make_self_communicator());
    return;
  }
  comm::run_thread_ranks(ranks, 60, [&](comm::Communicator& comm) {
    activation_cache::SyntheticSource source(tiny_world());
    train(job, source, comm);
  });
}

void train_with_product_threads(const TrainJob& job, int threads) {
  at::set_num_threads(threads);
  set_log_level(LogLevel::kError);
  activation_cache::SyntheticWorld world = tiny_world();
  world.d_in = 128;
  activation_cache::SyntheticSource source(world);
  train(job, source, *comm::make_self_communicator());
}

std::map<std::string, std::string> promised_bytes(const std::filesystem::path& run_dir) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(run_dir)) {
    if (!entry.is_regular_file()) continue;
    const std::string name = std::filesystem::relative(entry.path(), run_dir).string();
    const bool is_promised =
        name == "metrics.jsonl" || name.starts_with("sae/") || name.starts_with("ckpt/");
    if (is_promised) files[name] = read_bytes(entry.path());
  }
  return files;
}

std::string differing_files(const std::filesystem::path& a, const std::filesystem::path& b) {
  const auto left = promised_bytes(a), right = promised_bytes(b);
  std::string names;
  for (const auto& [name, bytes] : left) {
    const auto found = right.find(name);
    if (found == right.end() || found->second != bytes) names += name + " ";
  }
  for (const auto& [name, bytes] : right) {
    if (!left.contains(name)) names += name + " ";
  }
  return left.empty() ? "nothing was written" : names;
}

ChildProcess::ChildProcess(const std::function<void()>& work) : pid_(fork()) {
  THRESHER_CHECK(pid_ >= 0, "fork");
  if (pid_ == 0) _exit(exit_code_of(work));
}

ChildProcess::~ChildProcess() {
  if (status_ != -1) return;
  ::kill(pid_, SIGKILL);
  waitpid(pid_, &status_, 0);
}

void ChildProcess::kill(int signal) { ::kill(pid_, signal); }

int ChildProcess::wait() {
  if (status_ == -1) {
    int status = 0;
    waitpid(pid_, &status, 0);
    status_ = code_of_status(status);
  }
  return status_;
}

bool ChildProcess::is_running() {
  if (status_ != -1) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) == 0) return true;
  status_ = code_of_status(status);
  return false;
}

std::string first_line_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.first_line();
  }
  return "no error";
}

}  // namespace thresher::trainer
