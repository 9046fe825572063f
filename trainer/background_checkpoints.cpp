#include "trainer/background_checkpoints.h"

#include <chrono>

#include "core/error.h"

namespace thresher::trainer {

BackgroundCheckpoints::~BackgroundCheckpoints() {
  if (done_.valid()) done_.wait();
}

void BackgroundCheckpoints::begin(const CheckpointState& state, const std::string& config_yaml,
                                  std::span<const SaeSlot> saes) {
  THRESHER_CHECK(!done_.valid(), "one checkpoint at a time");
  content_.state = state;
  content_.config_yaml = config_yaml;
  content_.copy(saes);
  done_ = std::async(std::launch::async, [this] {
    try {
      write_(content_);
    } catch (...) {
      has_failed_ = true;
      throw;
    }
  });
}

bool BackgroundCheckpoints::is_writing() const {
  return done_.valid() && done_.wait_for(std::chrono::seconds(0)) != std::future_status::ready;
}

void BackgroundCheckpoints::finish() {
  if (!done_.valid()) return;
  has_failed_ = false;
  done_.get();
}

}  // namespace thresher::trainer
