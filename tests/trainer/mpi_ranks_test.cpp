// Under mpirun: the ranks of the job leave the bytes of one process alone.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstring>

#include "core/error.h"
#include "core/log.h"
#include "core/stop_signal.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

class MpiRanksTest : public testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    set_log_level(LogLevel::kError);
    comm = comm::make_mpi_communicator(60);
    std::vector<std::byte> name;
    if (comm->is_root()) {
      own = std::make_unique<TemporaryFolder>();
      const std::string text = own->path().string();
      name.resize(text.size());
      std::memcpy(name.data(), text.data(), text.size());
    }
    comm->broadcast(name, 0, "folder");
    folder = std::string(reinterpret_cast<const char*>(name.data()), name.size());
  }
  void TearDown() override { comm->barrier("end"); }

  void train_together(const TrainJob& job) {
    activation_cache::SyntheticSource source(tiny_world());
    train(job, source, *comm);
  }
  void expect_bytes_of_one_process() {
    comm->barrier("trained");
    if (!comm->is_root()) return;
    train_on_threads(tiny_job(folder / "one", 40), 1);
    EXPECT_EQ(differing_files(folder / "one", folder / "together"), "");
  }

  std::unique_ptr<comm::Communicator> comm;
  std::unique_ptr<TemporaryFolder> own;
  std::filesystem::path folder;
};

TEST_F(MpiRanksTest, LeaveTheBytesOfOneProcess) {
  train_together(tiny_job(folder / "together", 40));
  expect_bytes_of_one_process();
}

TEST_F(MpiRanksTest, StopTogetherWhenOneIsAskedAndContinue) {
  const TrainJob job = tiny_job(folder / "together", 40);
  const bool is_asked = comm->rank() == comm->world_size() - 1;
  set_stop_requested(is_asked);
  const std::string line = first_line_of([&] { train_together(job); });
  set_stop_requested(false);
  EXPECT_EQ(line, job.run_dir.string() + ": stopped by " +
                      (is_asked ? "a signal" : "another rank") +
                      " after step 0 of 40, everything is saved");
  train_together(job);
  expect_bytes_of_one_process();
}

}  // namespace
}  // namespace thresher::trainer
