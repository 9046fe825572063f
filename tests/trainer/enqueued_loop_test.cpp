#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "activation_cache/synthetic_source.h"
#include "core/files.h"
#include "sae/device_topk_sae.h"
#include "tests/sae/test_devices.h"
#include "trainer/checkpoint.h"
#include "trainer/identity.h"
#include "trainer/loop.h"
#include "trainer/trained_sae.h"
#include "training_testing.h"

// The loop around an SAE whose steps are enqueued, beside the loop of `train` on the CPU.

namespace thresher::trainer {
namespace {

constexpr std::int64_t kSteps = 30;

TrainJob topk_job(const std::filesystem::path& run_dir, Device device) {
  TrainJob job = tiny_job(run_dir, kSteps);
  job.saes.resize(1);
  job.config.ema_decay = 0.9;
  job.config.operand_dtype = "float32";
  job.device = device;
  return job;
}

/// What train() does, with an SAE for devices also where the device is the CPU.
void run_loop(const TrainJob& job, comm::Communicator& comm) {
  activation_cache::SyntheticSource source(tiny_world());
  std::vector<TrainedSae> saes = make_trained_saes(job, source);
  TrainedSae& topk = saes.front();
  if (!topk.sae->is_enqueued()) {
    topk.sae = std::make_unique<sae::DeviceTopKSae>(
        dynamic_cast<const sae::TopKConfig&>(*job.saes.front()), topk.sae->d_in(),
        training_place(job));
    topk.step = std::make_unique<Step>(*topk.sae, config_of(job.config, *job.saes.front()));
  }
  initialise(topk, job, source);
  std::optional<RunDirectory> directory;
  if (comm.is_root()) directory.emplace(job.run_dir, false);
  const std::int64_t n_lanes = job.config.lanes / comm.world_size();
  activation_cache::BatchPlan plan;
  plan.batch_tokens = job.config.batch_tokens;
  plan.lanes = job.config.lanes;
  plan.shuffle_window_tokens = job.config.shuffle_window_tokens;
  plan.seed = job.seed;
  source.start(plan, 0, comm.rank() * n_lanes, n_lanes);
  TrainingLoop(job, source, comm, directory ? &*directory : nullptr, saes,
               training_identity(job, source))
      .run(0, false);
}

std::vector<Json> metrics_of(const std::filesystem::path& run_dir) {
  std::vector<Json> lines;
  std::istringstream text(read_text_file(run_dir / "metrics.jsonl"));
  for (std::string line; std::getline(text, line);) lines.push_back(Json::parse(line, "metrics"));
  return lines;
}

class EnqueuedLoopTest : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    const std::string reason = sae::testing::missing(GetParam());
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};
INSTANTIATE_TEST_SUITE_P(Devices, EnqueuedLoopTest, ::testing::ValuesIn(sae::testing::devices()),
                         [](const auto& param) { return std::string(device_name(param.param)); });

TEST_P(EnqueuedLoopTest, LogsAndSavesWhatTrainOnTheCpuDoes) {
  const TemporaryFolder folder;
  train_on_threads(topk_job(folder / "cpu", Device::kCpu));
  const std::vector<Json> expected = metrics_of(folder / "cpu");
  ASSERT_EQ(expected.size(), static_cast<std::size_t>(kSteps));
  for (const int ranks : {1, 2}) {
    const auto run_dir = folder / std::to_string(ranks);
    comm::run_thread_ranks(ranks, 60, [&](comm::Communicator& comm) {
      run_loop(topk_job(run_dir, GetParam()), comm);
    });
    const std::vector<Json> actual = metrics_of(run_dir);
    ASSERT_EQ(actual.size(), expected.size());
    for (std::size_t i = 0; i < actual.size(); ++i) {
      for (const char* name : {"loss", "l0", "gradient_norm", "update_norm", "learning_rate"}) {
        const double wanted = expected[i].at(name).as_double();
        EXPECT_NEAR(actual[i].at(name).as_double(), wanted, 1e-4 * (1 + std::abs(wanted)))
            << name << " of step " << i + 1 << ", " << ranks << " ranks";
      }
    }
    const std::vector<CheckpointEntry> checkpoints = list_checkpoints(run_dir);
    ASSERT_FALSE(checkpoints.empty());
    EXPECT_EQ(checkpoints.back().step, kSteps);
    const auto cpu_checkpoint = list_checkpoints(folder / "cpu").back().folder;
    const auto a = sae::make_training_sae(*tiny_topk(), 16);
    const auto b = sae::make_training_sae(*tiny_topk(), 16);
    load_checkpoint_model(cpu_checkpoint, "topk", *a);
    load_checkpoint_model(checkpoints.back().folder, "topk", *b);
    for (std::size_t p = 0; p < 4; ++p) {
      EXPECT_TRUE(at::allclose(b->parameters()[p].weight, a->parameters()[p].weight, 1e-2, 1e-4));
    }
  }
}

}  // namespace
}  // namespace thresher::trainer
