// The product's side of recovery.py: trains on the synthetic world that EXPERIMENT describes, and
// hands out its rows and its truth as raw little-endian float32.
//
//   synthetic_recovery train EXPERIMENT RUN_DIR     trains the SAEs of the file
//   synthetic_recovery directions EXPERIMENT        [n_features, d_in]
//   synthetic_recovery rows EXPERIMENT N            the first N rows that training sees, in its
//   order synthetic_recovery held-out EXPERIMENT N        N rows that training never sees [N,
//   d_in], then their true feature
//                                                   activations [N, n_features]
#include <ATen/Parallel.h>

#include <cstdio>
#include <string>
#include <vector>

#include "activation_cache/synthetic_source.h"
#include "comm/communicator.h"
#include "core/config.h"
#include "core/error.h"
#include "trainer/trainer.h"

namespace thresher {
namespace {

using activation_cache::SyntheticSource;
using activation_cache::SyntheticWorld;

SyntheticWorld read_world(const ConfigNode& experiment) {
  SyntheticWorld world;
  std::int64_t seed = 0;
  ConfigReader reader(experiment.find("world"), "world");
  reader.field("d_in", world.d_in, {.help = ""});
  reader.field("n_features", world.n_features, {.help = ""});
  reader.field("mean_active", world.mean_active, {.help = ""});
  reader.field("zipf_exponent", world.zipf_exponent, {.help = ""});
  reader.field("seed", seed, {.help = ""});
  reader.finish();
  world.seed = static_cast<std::uint64_t>(seed);
  return world;
}

void train(const ConfigNode& experiment, const std::string& run_dir) {
  trainer::TrainJob job;
  ConfigReader reader(experiment.find("train"), "train");
  job.config.declare(reader);
  reader.finish();
  for (const ConfigNode& node : experiment.find("sae")->items) {
    job.saes.push_back(sae::read_sae_config(node, "sae"));
  }
  ConfigReader run(experiment.find("run"), "run");
  std::int64_t seed = 42;
  run.field("seed", seed, {.help = ""});
  run.finish();
  job.run_dir = run_dir;
  job.seed = static_cast<std::uint64_t>(seed);
  job.resolved_config = Json::object();
  job.export_metadata = Json::object({{"model_name", "synthetic"}, {"context_size", 1}});
  SyntheticSource source(read_world(experiment));
  trainer::train(job, source, *comm::make_self_communicator());
}

void write(const std::vector<float>& values) {
  if (std::fwrite(values.data(), sizeof(float), values.size(), stdout) != values.size()) {
    throw IoError("stdout: a write failed");
  }
}

void write_rows(const SyntheticSource& source, std::uint64_t first, std::int64_t n_rows) {
  constexpr std::int64_t kBlock = 4096;
  const std::int64_t d_in = source.hook_points()[0].d_in;
  for (std::int64_t begin = 0; begin < n_rows; begin += kBlock) {
    std::vector<float> rows(static_cast<std::size_t>(std::min(kBlock, n_rows - begin) * d_in));
    source.make_rows(first + static_cast<std::uint64_t>(begin), rows);
    write(rows);
  }
}

void write_truth(const SyntheticSource& source, std::uint64_t first, std::int64_t n_rows) {
  std::vector<float> truth(source.probabilities().size());
  for (std::int64_t row = 0; row < n_rows; ++row) {
    std::fill(truth.begin(), truth.end(), 0.0F);
    for (const auto& active : source.features_of(first + static_cast<std::uint64_t>(row))) {
      truth[static_cast<std::size_t>(active.feature)] = active.magnitude;
    }
    write(truth);
  }
}

void run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 2) throw UsageError("see the head of synthetic_recovery.cpp");
  at::set_num_threads(1);
  const ConfigNode experiment = parse_config_file(arguments[1]);
  const std::string& command = arguments[0];
  if (command == "train") return train(experiment, arguments.at(2));
  const SyntheticSource source(read_world(experiment));
  if (command == "directions") {
    write({source.directions().begin(), source.directions().end()});
  } else if (command == "rows") {
    write_rows(source, 0, std::stoll(arguments.at(2)));
  } else if (command == "held-out") {
    write_rows(source, SyntheticSource::held_out_row, std::stoll(arguments.at(2)));
    write_truth(source, SyntheticSource::held_out_row, std::stoll(arguments.at(2)));
  } else {
    throw UsageError("unknown command " + command);
  }
}

}  // namespace
}  // namespace thresher

int main(int argc, char** argv) {
  try {
    thresher::run({argv + 1, argv + argc});
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
