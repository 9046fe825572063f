#include <CLI/CLI.hpp>
#include <memory>

#include "cli/bench.h"
#include "cli/commands.h"
#include "cli/ranks.h"

namespace thresher::cli {
namespace {

/// Runs `bench` on every rank and prints rank 0's figures.
void run_on_ranks(const comm::CommConfig& config,
                  const std::function<Json(comm::Communicator&)>& bench) {
  with_ranks(config, [&](comm::Communicator& comm) {
    const Json figures = bench(comm);
    if (comm.is_root()) print_result(figures.dump(2) + "\n");
  });
}

void add_step(CLI::App& group, Action& action) {
  CLI::App* command = group.add_subcommand("step", "one training step on random rows");
  const auto options = std::make_shared<Options>();
  const auto step = std::make_shared<BenchStepOptions>();
  command->add_option("--sae", step->sae, "variant")->capture_default_str();
  const auto size = [&](const char* name, std::int64_t& value, const char* help) {
    command->add_option(name, value, help)
        ->capture_default_str()
        ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30));
  };
  size("--d-in", step->d_in, "width of the activations");
  size("--n-latents", step->n_latents, "dictionary size");
  size("--batch-tokens", step->batch_tokens, "rows a step");
  size("--k", step->k, "active latents a token (topk)");
  size("--threads", step->threads, "threads");
  size("--lanes", step->lanes, "micro-batches a step");
  size("--steps", step->steps, "steps timed, after three warm ones");
  command->add_option("--device", step->device, "cpu")->capture_default_str();
  add_output_options(*command, *options);
  command->callback([&action, options, step] {
    action = [=] {
      start(*options);
      print_result(bench_step(*step).dump(2) + "\n");
    };
  });
}

using BenchExperiment = Json (*)(const Experiment&, std::int64_t, comm::Communicator&);

void add_experiment_bench(CLI::App& group, Action& action, const char* name, const char* help,
                          std::int64_t default_steps, const char* steps_help,
                          BenchExperiment bench) {
  CLI::App* command = group.add_subcommand(name, help);
  const auto options = std::make_shared<Options>();
  const auto steps = std::make_shared<std::int64_t>(default_steps);
  add_experiment_options(*command, *options);
  command->add_option("--steps", *steps, steps_help)
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{default_steps > 0 ? 1 : 0}, std::int64_t{1} << 30));
  command->callback([&action, options, steps, bench] {
    action = [=] {
      start(*options);
      const Experiment experiment = load_experiment(options->path, options->overrides);
      run_on_ranks(experiment.comm, [&](comm::Communicator& comm) {
        set_threads(experiment.run.threads, comm);
        return bench(experiment, *steps, comm);
      });
    };
  });
}

void add_comm(CLI::App& group, Action& action) {
  CLI::App* command = group.add_subcommand(
      "comm", "all_reduce over the ranks of mpirun or srun, or over --ranks threads");
  const auto options = std::make_shared<Options>();
  const auto config = std::make_shared<comm::CommConfig>();
  const auto bytes = std::make_shared<std::int64_t>(std::int64_t{16} << 20);
  const auto repeats = std::make_shared<std::int64_t>(20);
  command->add_option("--ranks", config->ranks, "thread ranks, where no launcher gives ranks")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  command->add_option("--bytes", *bytes, "size of the vector, a multiple of 4")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{4}, std::int64_t{1} << 40));
  command->add_option("--repeats", *repeats, "reductions timed")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  add_output_options(*command, *options);
  command->callback([&action, options, config, bytes, repeats] {
    action = [=] {
      start(*options);
      run_on_ranks(*config,
                   [&](comm::Communicator& comm) { return bench_comm(*bytes, *repeats, comm); });
    };
  });
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  CLI::App* group = app.add_subcommand("bench", "measure speed; figures as JSON");
  group->require_subcommand(1);
  add_step(*group, action);
  add_experiment_bench(*group, action, "loader", "read a complete cache as training does", 0,
                       "batches; 0: an epoch", bench_loader);
  add_experiment_bench(*group, action, "harvest", "the host model's forward pass", 5,
                       "forward passes", bench_harvest);
  add_comm(*group, action);
}

}  // namespace thresher::cli
