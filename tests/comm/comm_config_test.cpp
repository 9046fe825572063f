#include <gtest/gtest.h>

#include <cstdlib>

#include "comm/communicator.h"
#include "core/error.h"

namespace thresher::comm {
namespace {

CommConfig read(const char* yaml) {
  const ConfigNode node = parse_config(yaml, "a.yaml");
  ConfigReader reader(&node, "comm");
  CommConfig config;
  config.declare(reader);
  reader.finish();
  return config;
}

TEST(CommConfigTest, HasUsableDefaults) {
  const CommConfig config = read("{}");
  EXPECT_EQ(config.backend, "auto");
  EXPECT_EQ(config.ranks, 1);
  EXPECT_EQ(config.timeout_seconds, 60);
}

TEST(CommConfigTest, ReadsItsFields) {
  const CommConfig config = read("{backend: threads, ranks: 4, timeout_seconds: 2.5}");
  EXPECT_EQ(config.backend, "threads");
  EXPECT_EQ(config.ranks, 4);
  EXPECT_EQ(config.timeout_seconds, 2.5);
}

TEST(CommConfigTest, RefusesWhatCannotWork) {
  EXPECT_THROW(read("{backend: gloo}"), ConfigError);
  EXPECT_THROW(read("{ranks: 0}"), ConfigError);
  EXPECT_THROW(read("{timeout_seconds: 0}"), ConfigError);
}

TEST(ChooseBackendTest, AutoFollowsLauncherDeviceAndRanks) {
  const CommConfig config = read("{}");
  EXPECT_EQ(choose_backend(config, Device::kCpu, false), Backend::kSelf);
  EXPECT_EQ(choose_backend(config, Device::kCuda, false), Backend::kSelf);
  EXPECT_EQ(choose_backend(config, Device::kCpu, true), Backend::kMpi);
  EXPECT_EQ(choose_backend(config, Device::kCuda, true), Backend::kNccl);
  EXPECT_EQ(choose_backend(read("{ranks: 2}"), Device::kCuda, false), Backend::kThreads);
}

TEST(ChooseBackendTest, TakesWhatIsAskedFor) {
  EXPECT_EQ(choose_backend(read("{backend: mpi}"), Device::kCuda, true), Backend::kMpi);
  EXPECT_EQ(choose_backend(read("{backend: self}"), Device::kCpu, true), Backend::kSelf);
  EXPECT_EQ(choose_backend(read("{backend: threads}"), Device::kCpu, true), Backend::kThreads);
  EXPECT_EQ(choose_backend(read("{backend: nccl}"), Device::kCuda, true), Backend::kNccl);
}

TEST(ChooseBackendTest, RefusesNcclWhereItCannotWork) {
  const CommConfig nccl = read("{backend: nccl}");
  try {
    choose_backend(nccl, Device::kCpu, true);
    FAIL() << "expected ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.first_line(),
              "comm.backend = nccl: run.device is cpu, and NCCL sums GPU memory");
  }
  try {
    choose_backend(nccl, Device::kCuda, false);
    FAIL() << "expected ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.first_line(),
              "comm.backend = nccl: this process was not started by mpirun or srun");
  }
}

class LauncherTest : public testing::Test {
 protected:
  void SetUp() override { clear(); }
  void TearDown() override { clear(); }
  static void clear() {
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMI_RANK", "PMI_FD", "PMIX_RANK",
                             "PMIX_NAMESPACE", "SLURM_STEP_NUM_TASKS"}) {
      unsetenv(name);
    }
  }
};

TEST_F(LauncherTest, SeesMpirun) {
  EXPECT_FALSE(is_launched_by_mpi());
  setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
  EXPECT_TRUE(is_launched_by_mpi());
}

TEST_F(LauncherTest, SeesSrunOnlyWithAPmiLibrary) {
  setenv("SLURM_STEP_NUM_TASKS", "2", 1);
  EXPECT_FALSE(is_launched_by_mpi());
  setenv("PMI_RANK", "0", 1);
  EXPECT_TRUE(is_launched_by_mpi());
}

}  // namespace
}  // namespace thresher::comm
