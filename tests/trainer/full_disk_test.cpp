// A disk that fills up while a checkpoint is written: exit 74, nothing lost, and with room the run
// goes on.
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "core/error.h"
#include "core/files.h"
#include "trainer/checkpoint.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

class FullDiskTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(folder / "disk");
    if (mount("tmpfs", (folder / "disk").c_str(), "tmpfs", 0, "size=1m") != 0) {
      GTEST_SKIP() << "cannot mount a tmpfs: " << std::strerror(errno);
    }
    is_mounted = true;
  }
  void TearDown() override {
    if (is_mounted) umount2((folder / "disk").c_str(), MNT_DETACH);
  }
  void leave_free(std::uint64_t bytes) {
    const std::uint64_t free = free_disk_bytes(folder / "disk");
    std::ofstream(folder / "disk/filler") << std::string(free - bytes, 'x');
  }

  TemporaryFolder folder;
  bool is_mounted = false;
};

TEST_F(FullDiskTest, EndsTheRunWith74AndKeepsTheCheckpointsThatAreThere) {
  TrainJob job = tiny_job(folder / "disk/run", 40);
  job.config.keep_checkpoints = 4;
  leave_free(192 * 1024);
  try {
    train_on_threads(job);
    FAIL() << "expected IoError";
  } catch (const IoError& error) {
    EXPECT_NE(error.first_line().find("ckpt/.tmp-step-"), std::string::npos) << error.what();
    EXPECT_NE(error.first_line().find("disk full"), std::string::npos) << error.what();
  }
  const auto checkpoints = list_checkpoints(job.run_dir);
  ASSERT_FALSE(checkpoints.empty());
  for (const CheckpointEntry& entry : checkpoints) {
    EXPECT_NO_THROW(verify_checkpoint(entry.folder));
  }
  EXPECT_FALSE(std::filesystem::exists(job.run_dir / "ckpt/.tmp-step-00000040"))
      << "what cannot be finished does not stay to fill the disk";

  std::filesystem::remove(folder / "disk/filler");
  train_on_threads(job);
  TrainJob whole = tiny_job(folder / "whole", 40);
  whole.config.keep_checkpoints = 4;
  train_on_threads(whole);
  EXPECT_EQ(differing_files(folder / "whole", job.run_dir), "");
}

}  // namespace
}  // namespace thresher::trainer
