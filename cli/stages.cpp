#include "cli/stages.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "activation_cache/harvest/pulse.h"
#include "cli/ranks.h"
#include "cli/run_status.h"
#include "cli/text_inputs.h"
#include "cli/versions.h"
#include "comm/agreement.h"
#include "comm/rank_watch.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/stop_signal.h"
#include "evaluation/clean_pass.h"
#include "evaluation/row_evaluation.h"
#include "sae/thread_check.h"
#include "sae/training_sae.h"
#include "trainer/trained_sae.h"

namespace thresher::cli {
namespace {

constexpr std::int64_t kProbeContexts = 4;
// Below this the difference may be noise.
constexpr double kSlowerThanFloat32 = 1.2;

std::string need(std::uint64_t memory_bytes_per_rank, std::uint64_t disk_bytes, double seconds,
                 int ranks) {
  return fmt::format("needs about {} of memory{}, {} of disk and {}",
                     format_bytes(memory_bytes_per_rank), ranks > 1 ? " a rank" : "",
                     format_bytes(disk_bytes), format_duration(seconds));
}

/// Only the root speaks: ranks that are threads share one log.
void tell(const comm::Communicator& comm, const std::string& text) {
  if (comm.is_root()) log_info(text);
}

}  // namespace

void work_together(comm::Communicator& comm, std::string_view what,
                   const std::function<void()>& work) {
  activation_cache::run_with_pulse(comm, what, [&](activation_cache::Pulse&) { work(); });
}

std::unique_ptr<corpus::Tokenizer> load_experiment_tokenizer(const Experiment& experiment) {
  const std::string& path = experiment.corpus.tokenizer;
  return corpus::load_tokenizer(path.empty() ? experiment.host_model.weights : path);
}

namespace {

Inputs open_own_activations(Experiment& experiment, comm::Communicator& comm) {
  Inputs inputs;
  work_together(comm, "open the files of activations", [&] {
    inputs.rows = std::make_unique<activation_cache::OwnActivations>(*experiment.activations,
                                                                     experiment.cache.hook_points);
  });
  inputs.files = activation_cache::identify_own_files(*inputs.rows, experiment.cache.dir, comm);
  if (experiment.cache.dtype == "auto") {
    experiment.cache.dtype = dtype_name(inputs.rows->dtype());
  }
  std::string widths;
  for (const activation_cache::HookPointWidth& hook : inputs.rows->hook_points()) {
    widths += fmt::format("{}{} x {}", widths.empty() ? "" : ", ", hook.hook_point, hook.d_in);
  }
  tell(comm, fmt::format("activations: {} rows ({} held out) of {}, {} files, {}; cache in {}",
                         inputs.rows->n_rows(), inputs.rows->n_held_out(), widths,
                         inputs.rows->files().size(), format_bytes(inputs.rows->activation_bytes()),
                         experiment.cache.dtype));
  return inputs;
}

}  // namespace

Inputs load_inputs(Experiment& experiment, comm::Communicator& comm) {
  if (experiment.activations) return open_own_activations(experiment, comm);
  Inputs inputs;
  const corpus::CorpusConfig text_config = readable_corpus(experiment, comm);
  work_together(comm, "load the text and the host model", [&] {
    inputs.tokenizer = load_experiment_tokenizer(experiment);
    inputs.corpus =
        std::make_unique<corpus::Corpus>(text_config, *inputs.tokenizer, experiment.seed());
    inputs.model = host_model::load_host_model(experiment.host_model, experiment.run.place());
  });
  const corpus::CorpusSummary& text = inputs.corpus->summary();
  const host_model::HostModelInfo& model = inputs.model->info();
  tell(comm, fmt::format("tokenizer: {}", inputs.tokenizer->description()));
  if (comm.is_root() && inputs.tokenizer->adds_bos() && experiment.corpus.prepend_bos == "never") {
    log_warning(
        "the model's own tokenizer puts BOS before every text, this experiment does not: models "
        "trained with BOS behave oddly without (corpus.prepend_bos: document)");
  }
  tell(comm, fmt::format("corpus: {} documents ({} held out), {}", text.n_documents,
                         text.n_held_out_documents,
                         format_bytes(static_cast<std::uint64_t>(text.n_bytes))));
  tell(comm, fmt::format("host model: {}, {} blocks, width {}, {} of weights in {}", model.family,
                         model.n_blocks, model.d_model,
                         format_bytes(static_cast<std::uint64_t>(model.parameter_bytes)),
                         dtype_name(model.dtype)));
  return inputs;
}

corpus::PackedContexts pack_contexts(const Inputs& inputs, corpus::Split split) {
  corpus::PackedContexts contexts = inputs.corpus->pack(split);
  const host_model::HostModelInfo& model = inputs.model->info();
  if (contexts.n_contexts == 0) return contexts;
  if (contexts.context_tokens > model.max_context_tokens) {
    throw ConfigError(fmt::format("corpus.context_tokens = {}: the host model knows {} positions",
                                  contexts.context_tokens, model.max_context_tokens),
                      fmt::format("at most {}", model.max_context_tokens));
  }
  const std::int32_t highest =
      *std::max_element(contexts.token_ids.begin(), contexts.token_ids.end());
  if (highest >= model.n_vocabulary) {
    throw ConfigError(fmt::format("the text has token {}, the host model embeds {} tokens", highest,
                                  model.n_vocabulary),
                      "a tokenizer made for the host model",
                      "leave corpus.tokenizer out, or check that it belongs to host_model.weights");
  }
  return contexts;
}

/// The threads with which the model gives the bits that it gives with one, tried on a few contexts.
int model_threads(const Experiment& experiment, Inputs& inputs,
                  const corpus::PackedContexts& contexts) {
  const int threads = current_threads();
  if (inputs.model->info().device != Device::kCpu) return threads;
  if (threads == 1 || contexts.n_contexts == 0) return threads;
  const host_model::TokenBatch batch = evaluation::make_batch(
      contexts, 0, std::min<std::int64_t>(contexts.n_contexts, kProbeContexts));
  const auto deepest_activation = [&] {
    at::Tensor out;
    host_model::ForwardRequest request;
    for (const std::string& name : experiment.cache.hook_points) {
      request.hooks[host_model::HookPoint::parse(name)] = [&](const at::Tensor& activation) {
        out = activation.clone();
        return at::Tensor();
      };
    }
    inputs.model->forward(batch, request);
    return out;
  };
  if (sae::probes_that_differ({{"host model", deepest_activation}}, threads).empty()) {
    return threads;
  }
  log_warning(
      fmt::format("the host model gives other bits with {} threads than with one: it runs "
                  "with one thread, so that results do not depend on run.threads",
                  threads));
  return 1;
}

namespace {

std::int64_t width_at(const Inputs& inputs, const std::string& hook_point) {
  if (!inputs.rows) return inputs.model->info().width(host_model::HookPoint::parse(hook_point));
  for (const activation_cache::HookPointWidth& hook : inputs.rows->hook_points()) {
    if (hook.hook_point == hook_point) return hook.d_in;
  }
  THRESHER_CHECK(false, "SAEs look at hook points of the cache");
}

}  // namespace

void check_saes(const Experiment& experiment, const Inputs& inputs) {
  if (inputs.rows) evaluation::choose_held_out_rows(experiment.evaluation, *inputs.rows);
  for (std::size_t i = 0; i < experiment.saes.size(); ++i) {
    const sae::SaeConfig& config = *experiment.saes[i];
    const std::int64_t width = width_at(inputs, config.hook_point);
    try {
      sae::make_training_sae(config, width, trainer::training_place(experiment.train_job(false)));
    } catch (const ConfigError& error) {
      throw ConfigError(fmt::format("{}: {}", experiment.sae_places[i], error.what()));
    }
  }
}

void check_rank_count(const Experiment& experiment, const comm::Communicator& comm) {
  const std::int64_t lanes = experiment.train.lanes;
  const int ranks = comm.world_size();
  if (lanes % ranks == 0) return;
  throw ConfigError(
      fmt::format("{} ranks do not divide train.lanes = {}", ranks, lanes),
      "a number of ranks that divides the lanes, so that every rank has as many as the others",
      fmt::format("start with a power of two up to {}; harvest alone takes any number", lanes));
}

namespace {

void tell_estimate(const activation_cache::HarvestEstimate& estimate, const char* unit,
                   const comm::Communicator& comm) {
  log_info(fmt::format("harvest: {} {}, {} of {} units to do; {}",
                       format_count(static_cast<double>(estimate.tokens)), unit,
                       estimate.units_left, estimate.units,
                       need(estimate.memory_bytes_per_rank, estimate.disk_bytes, estimate.seconds,
                            comm.world_size())));
}

activation_cache::HarvestResult harvest_own_stage(const Experiment& experiment,
                                                  const Inputs& inputs, comm::Communicator& comm) {
  if (comm.is_root()) {
    tell_estimate(activation_cache::estimate_own_harvest(experiment.cache, *inputs.rows,
                                                         inputs.files.identity, comm.world_size()),
                  "rows", comm);
  }
  const activation_cache::HarvestResult result = activation_cache::harvest_own(
      experiment.cache, *inputs.rows, inputs.files.identity, comm, experiment.seed());
  comm.agree(
      [&] {
        if (comm.is_root()) {
          activation_cache::remember_own_files(inputs.files, experiment.cache.dir);
        }
      },
      "remember the files of activations");
  return result;
}

}  // namespace

activation_cache::HarvestResult harvest_stage(const Experiment& experiment, Inputs& inputs,
                                              comm::Communicator& comm) {
  if (inputs.rows) return harvest_own_stage(experiment, inputs, comm);
  corpus::PackedContexts contexts;
  work_together(comm, "pack the text",
                [&] { contexts = pack_contexts(inputs, corpus::Split::kTraining); });
  if (comm.is_root()) warn_about_text(inputs.corpus->summary(), contexts);
  if (comm.is_root()) {
    const activation_cache::HarvestEstimate estimate = activation_cache::estimate_harvest(
        experiment.cache, contexts, *inputs.model, comm.world_size());
    tell_estimate(estimate, "tokens", comm);
    if (estimate.seconds > kSlowerThanFloat32 * estimate.seconds_in_float32) {
      log_warning(fmt::format(
          "this processor multiplies bfloat16 {:.1f} times as slowly as float32: with "
          "host_model.dtype: float32 the harvest would take about {} and twice the memory",
          estimate.seconds / estimate.seconds_in_float32,
          format_duration(estimate.seconds_in_float32)));
    }
  }
  const ThreadsScope scope(model_threads(experiment, inputs, contexts));
  return activation_cache::harvest(
      experiment.cache, contexts,
      Json::object({{"fingerprint", inputs.corpus->fingerprint()}, {"split", "training"}}),
      *inputs.tokenizer, *inputs.model, comm, experiment.seed());
}

namespace {

/// Says what was chosen, because nobody wrote it down before.
void settle_lengths(Experiment& experiment, const activation_cache::ActivationSource& source,
                    const comm::Communicator& comm) {
  const std::int64_t rows = source.statistics(0).n_rows;
  if (!settle_training(experiment, rows)) return;
  const trainer::TrainConfig& train = experiment.train;
  tell(comm, fmt::format("train: chosen for a cache of {} rows: total_tokens {} ({:.3g} epochs), "
                         "batch_tokens {}, learning_rate {}, warmup_tokens {}, decay_tokens {}",
                         rows, train.total_tokens,
                         static_cast<double>(train.total_tokens) / static_cast<double>(rows),
                         train.batch_tokens, train.learning_rate, train.warmup_tokens,
                         train.decay_tokens));
}

}  // namespace

trainer::TrainResult train_stage(Experiment& experiment, bool fresh, comm::Communicator& comm) {
  std::unique_ptr<activation_cache::ActivationSource> source;
  check_rank_count(experiment, comm);
  work_together(comm, "open the cache", [&] {
    source = activation_cache::open_cache_source(experiment.cache.dir);
    settle_lengths(experiment, *source, comm);
    if (experiment.cache.dtype == "auto") {
      experiment.cache.dtype =
          activation_cache::read_cache_identity(experiment.cache.dir).at("dtype").as_string();
    }
  });
  // Ranks on other hosts may see another file system under the same name.
  comm::agree_on(comm, Json::object({{"cache", source->identity()}}), "open the cache");
  trainer::TrainJob job = experiment.train_job(fresh);
  job.start_facts = Json::object({{"command", command_line()},
                                  {"working_directory", std::filesystem::current_path().string()},
                                  {"versions", versions_json()}});
  if (comm.is_root()) {
    const trainer::TrainEstimate estimate =
        trainer::estimate_training(job, *source, comm.world_size());
    log_info(fmt::format("train: {} tokens in {} steps; {}",
                         format_count(static_cast<double>(estimate.tokens)), estimate.steps,
                         need(estimate.memory_bytes_per_rank, estimate.disk_bytes, estimate.seconds,
                              comm.world_size())));
  }
  int threads = current_threads();
  for (const auto& sae : job.saes) {
    if (job.device != Device::kCpu) break;  // threads only feed the device
    const std::int64_t d_in = source->hook_points()[source->hook_index(sae->hook_point)].d_in;
    threads = sae::threads_with_fixed_bits(job.config.batch_tokens / job.config.lanes, d_in,
                                           sae->latents(d_in), threads);
  }
  const ThreadsScope scope(threads);
  return trainer::train(job, *source, comm);
}

namespace {

/// What must be the same on every rank before it is worth to begin.
void check_same_job(const Experiment& experiment, comm::Communicator& comm) {
  Json versions = versions_json();
  const std::string processor = versions.at("cpu_capability").as_string();
  versions["cpu_capability"] = Json();
  comm::agree_on(comm,
                 Json::object({{"program_sha256", sha256_file("/proc/self/exe")},
                               {"versions", versions},
                               {"experiment", experiment.resolved()}}),
                 "start of the job");
  const auto all = comm.all_gather(std::as_bytes(std::span(processor)), "processors of the ranks");
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    log_warning(fmt::format(
        "rank {} computes with {}, rank 0 with {}: results may differ in their last bits from "
        "those "
        "of equal machines",
        rank, std::string(reinterpret_cast<const char*>(all[rank].data()), all[rank].size()),
        std::string(reinterpret_cast<const char*>(all[0].data()), all[0].size())));
    return;
  }
}

/// A rank is gone, and this one speaks for those that are left.
[[noreturn]] void end_without(const std::filesystem::path& run_dir, const std::string& message) {
  const Failure failure{ExitCode::kInternal,
                        fmt::format("{}\n  hint: run the same command again to continue; thresher "
                                    "flight {} shows what each rank was doing",
                                    message, run_dir.string())};
  print_failure(failure);
  mark_failed(run_dir, failure);
  comm::MpiEnvironment::abort(static_cast<int>(failure.code));
}

}  // namespace

std::filesystem::path flight_folder(const std::filesystem::path& run_dir) {
  return run_dir.parent_path() / ".flight" / run_dir.filename();
}

void run_job(const Experiment& experiment, const std::string& stage,
             const std::function<void(comm::Communicator&)>& work) {
  const std::filesystem::path run_dir = experiment.run_dir();
  std::atomic<int> ranks = 1;
  if (experiment.train.max_runtime_minutes > 0) {
    stop_after(60 * experiment.train.max_runtime_minutes);
  }
  try {
    with_ranks(
        experiment.comm, experiment.run.place(),
        [&](comm::Communicator& comm) {
          ranks = comm.world_size();
          const int threads = set_threads(experiment.run.threads, comm);
          tell(comm, fmt::format("{} {} ({}), {} {} each", comm.world_size(),
                                 comm.world_size() == 1 ? "rank" : "ranks", comm.backend(), threads,
                                 threads == 1 ? "thread" : "threads"));
          check_same_job(experiment, comm);
          const comm::RankWatch watch(
              comm, flight_folder(run_dir),
              [&](const std::string& message) { end_without(run_dir, message); });
          work(comm);
        },
        [&](const Failure& failure, int, int world_size) {
          record_failure(run_dir, stage, failure, world_size);
        });
  } catch (...) {
    record_failure(run_dir, stage, describe_failure(std::current_exception()), ranks);
    throw;
  }
}

Json result_json(const activation_cache::HarvestResult& result) {
  return Json::object({{"tokens", result.tokens},
                       {"rows", result.rows},
                       {"seconds", result.seconds},
                       {"was_complete", result.was_complete}});
}

Json result_json(const trainer::TrainResult& result) {
  return Json::object({{"steps", result.steps},
                       {"tokens", result.tokens},
                       {"seconds", result.seconds},
                       {"tokens_per_second", result.tokens_per_second},
                       {"was_complete", result.was_complete}});
}

}  // namespace thresher::cli
