#include "trainer/background_checkpoints.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <condition_variable>
#include <mutex>

#include "core/error.h"
#include "trainer/trained_sae.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

/// One SAE as `train` holds it, its weights set.
class BackgroundCheckpointsTest : public testing::Test {
 protected:
  BackgroundCheckpointsTest() {
    activation_cache::SyntheticSource source(tiny_world());
    saes_ = make_trained_saes(tiny_job("unused", 10), source);
    for (TrainedSae& trained : saes_) {
      slots_.push_back({trained.name, trained.sae.get(), &trained.step->moments(),
                        &trained.transform, &trained.step->average()});
      for (const sae::Parameter& parameter : trained.sae->parameters()) parameter.weight.fill_(1);
    }
  }
  static CheckpointState state(std::int64_t step) {
    CheckpointState state;
    state.step = step;
    return state;
  }

  std::vector<TrainedSae> saes_;
  std::vector<SaeSlot> slots_;
};

TEST_F(BackgroundCheckpointsTest, WriteWhatWasThereWhenTheyBegan) {
  std::mutex mutex;
  std::condition_variable changed;
  bool may_write = false;
  double seen = 0;
  BackgroundCheckpoints checkpoints([&](const CheckpointContent& content) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return may_write; });
    seen = content.model().front().values.sum().item<double>() /
           static_cast<double>(content.model().front().values.numel());
  });
  checkpoints.begin(state(1), "", slots_);
  EXPECT_TRUE(checkpoints.is_writing());
  saes_.front().sae->parameters().front().weight.fill_(7);
  {
    const std::lock_guard lock(mutex);
    may_write = true;
  }
  changed.notify_all();
  checkpoints.finish();
  EXPECT_FALSE(checkpoints.is_writing());
  EXPECT_EQ(seen, 1);
  // The next one has what is there now, in the same memory.
  checkpoints.begin(state(2), "", slots_);
  checkpoints.finish();
  EXPECT_EQ(seen, 7);
}

TEST_F(BackgroundCheckpointsTest, TellsAFailureOnce) {
  BackgroundCheckpoints checkpoints([](const CheckpointContent& content) {
    if (content.state.step == 1) throw IoError("disk full");
  });
  checkpoints.begin(state(1), "", slots_);
  while (checkpoints.is_writing()) {
  }
  EXPECT_TRUE(checkpoints.has_failed());
  EXPECT_THROW(checkpoints.finish(), IoError);
  EXPECT_FALSE(checkpoints.has_failed());
  checkpoints.begin(state(2), "", slots_);
  checkpoints.finish();
}

TEST_F(BackgroundCheckpointsTest, ContentThatWasBorrowedIsNotCopiedOnto) {
  CheckpointContent content;
  content.borrow(slots_);
  const at::Tensor weight = saes_.front().sae->parameters().front().weight;
  content.copy(slots_);
  weight.fill_(3);
  EXPECT_EQ(content.model().front().values.max().item<float>(), 1);
  EXPECT_FALSE(content.optimiser().empty());
}

}  // namespace
}  // namespace thresher::trainer
