#include <CLI/CLI.hpp>
#include <memory>

#include "cli/bench.h"
#include "cli/commands.h"
#include "cli/ranks.h"

namespace thresher::cli {
namespace {

/// Runs `bench` on every rank and prints rank 0's figures.
void run_on_ranks(const comm::CommConfig& config, Device device,
                  const std::function<Json(comm::Communicator&)>& bench) {
  with_ranks(config, device, [&](comm::Communicator& comm) {
    const Json figures = bench(comm);
    if (comm.is_root()) print_result(figures.dump(2) + "\n");
  });
}

void add_step_sizes(CLI::App& command, BenchStepOptions& step) {
  command.add_option("--size", step.size, "A, B, C or G: sizes that speed is quoted at")
      ->capture_default_str();
  const auto size = [&](const char* name, std::optional<std::int64_t>& value, const char* help) {
    command.add_option(name, value, help)
        ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30));
  };
  size("--d", step.d_in, "width of the activations, in place of the size's");
  size("--n", step.n_latents, "dictionary size, likewise");
  size("--batch", step.batch_tokens, "rows a step, likewise");
  size("--k", step.k, "active latents a token, likewise, where the variant has k");
  size("--threads", step.threads, "threads; left out: as training chooses them");
  size("--lanes", step.lanes, "micro-batches a step; left out: as in training");
  CLI::Option* steps =
      command.add_option("--steps", step.steps, "steps timed, after two warm ones")
          ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 30));
  command
      .add_option("--seconds", step.seconds, "in place of --steps: until so long, at least three")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0))
      ->excludes(steps);
}

void add_step(CLI::App& group, Action& action) {
  CLI::App* command = group.add_subcommand(
      "step", "the training step beside the encoder's product alone, on rows in memory");
  const auto options = std::make_shared<Options>();
  const auto step = std::make_shared<BenchStepOptions>();
  command->add_option("--variant", step->variant, "a type of SAE")->capture_default_str();
  add_step_sizes(*command, *step);
  command
      ->add_option("--l0", step->l0,
                   "biases that make about so many latents active, where the variant has no k; "
                   "left out: as initialised")
      ->check(CLI::Range(1e-3, 1e9));
  command
      ->add_option("--dead-fraction", step->dead_fraction,
                   "of the latents, dead from the start; AuxK then has work")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 0.99));
  command->add_option("--rows", step->rows, "float32 activations [4 batches, d] in a .npy file");
  command->add_flag("--logged", step->is_logged,
                    "with the norms that a step with a line in metrics.jsonl computes");
  command
      ->add_option("--device", step->device,
                   "where the step runs; cuda: on the first GPU, all rows as one lane, timed there")
      ->capture_default_str()
      ->check(CLI::IsMember({"cpu", "cuda"}));
  command
      ->add_option("--set", step->overrides,
                   "a field of the SAE, e.g. --set form=bricken (repeatable)")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  add_output_options(*command, *options);
  command->callback([&action, options, step] {
    action = [=] {
      start(*options);
      const Json figures = bench_step(*step);
      print_result(options->json ? figures.dump(2) + "\n" : step_table(figures));
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
      run_on_ranks(experiment.comm, experiment.run.place(), [&](comm::Communicator& comm) {
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
      run_on_ranks(*config, Device::kCpu,
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
