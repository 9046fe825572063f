#include "activation_cache/window_loader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace thresher::activation_cache {

WindowLoader::WindowLoader(std::shared_ptr<ShardReader> shards,
                           std::shared_ptr<const BatchLayout> layout, std::int64_t first_lane,
                           std::int64_t n_lanes, int n_threads)
    : shards_(std::move(shards)),
      layout_(std::move(layout)),
      first_lane_(first_lane),
      n_lanes_(n_lanes),
      lanes_(shards_->datasets().size()) {
  for (int i = 0; i < n_threads; ++i) threads_.emplace_back([this] { read_in_background(); });
}

WindowLoader::~WindowLoader() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  work_ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

LoaderStatistics WindowLoader::statistics() const {
  const std::lock_guard lock(mutex_);
  return statistics_;
}

void WindowLoader::read_in_background() {
  std::unique_lock lock(mutex_);
  while (true) {
    work_ready_.wait(lock, [&] { return is_stopping_ || !queue_.empty(); });
    if (is_stopping_) return;
    const Slot window = std::move(queue_.front());
    queue_.pop_front();
    if (window->is_unwanted) continue;
    window->state = State::kLoading;
    window->bytes = bytes_of(*window);
    statistics_.buffer_bytes += window->bytes;
    statistics_.peak_buffer_bytes =
        std::max(statistics_.peak_buffer_bytes, statistics_.buffer_bytes);
    lock.unlock();
    std::exception_ptr error;
    try {
      load(*window);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    window->error = error;
    window->state = error ? State::kFailed : State::kReady;
    ++statistics_.windows_loaded;
    window_done_.notify_all();
  }
}

std::uint64_t WindowLoader::bytes_of(const Window& window) const {
  return static_cast<std::uint64_t>(layout_->rows_in_window(window.number)) *
         static_cast<std::uint64_t>(shards_->datasets()[window.dataset].row_bytes());
}

// Rows are scattered to their shuffled places here, off the training thread, so that a batch is one
// contiguous read.
void WindowLoader::load(Window& window) {
  const auto row_bytes = static_cast<std::size_t>(shards_->datasets()[window.dataset].row_bytes());
  window.rows = std::make_unique_for_overwrite<std::byte[]>(window.bytes);
  const std::vector<std::int32_t> place = layout_->shuffled_rows(window.number, window.lane);
  std::vector<std::byte> block;
  for (const BatchLayout::Piece& piece : layout_->pieces(window.number, window.lane)) {
    block.resize(static_cast<std::size_t>(piece.block.n_rows) * row_bytes);
    shards_->read_block(piece.block.unit, window.dataset, piece.block.number, block);
    for (std::int64_t row = 0; row < piece.n_rows; ++row) {
      std::memcpy(
          window.rows.get() + static_cast<std::size_t>(place[piece.window_row + row]) * row_bytes,
          block.data() + static_cast<std::size_t>(piece.skip + row) * row_bytes, row_bytes);
    }
    const std::lock_guard lock(mutex_);
    statistics_.bytes_read += block.size();
    if (window.is_unwanted || is_stopping_) return;
  }
}

WindowLoader::Slot WindowLoader::request(std::int64_t number, std::int64_t lane,
                                         std::size_t dataset) {
  auto window = std::make_shared<Window>();
  window->number = number;
  window->lane = lane;
  window->dataset = dataset;
  statistics_.bytes_requested += bytes_of(*window);
  queue_.push_back(window);
  work_ready_.notify_one();
  return window;
}

// Waits for a reader to let go, so that never more than two windows a lane are in memory.
void WindowLoader::discard(Slot& slot, std::unique_lock<std::mutex>& lock) {
  if (!slot) return;
  slot->is_unwanted = true;
  window_done_.wait(lock, [&] { return slot->state != State::kLoading; });
  statistics_.buffer_bytes -= std::exchange(slot->bytes, 0);
  slot->rows.reset();
  slot.reset();
}

void WindowLoader::select(Lane& lane, std::int64_t number, std::int64_t lane_number,
                          std::size_t dataset, std::unique_lock<std::mutex>& lock) {
  if (lane.current && lane.current->number == number) return;
  discard(lane.current, lock);
  if (lane.next && lane.next->number == number) {
    lane.current = std::move(lane.next);
  } else {
    discard(lane.next, lock);
    lane.current = request(number, lane_number, dataset);
  }
  lane.next = request(number + 1, lane_number, dataset);
}

std::span<const std::byte> WindowLoader::window(std::int64_t window, std::int64_t lane,
                                                std::size_t dataset) {
  THRESHER_CHECK(lane >= first_lane_ && lane < first_lane_ + n_lanes_, "a lane of this rank");
  std::unique_lock lock(mutex_);
  std::vector<Lane>& lanes = lanes_.at(dataset);
  if (lanes.empty()) {
    // First windows of all lanes before second ones: the first batch needs them all.
    lanes.resize(static_cast<std::size_t>(n_lanes_));
    for (std::int64_t i = 0; i < n_lanes_; ++i) {
      lanes[i].current = request(window, first_lane_ + i, dataset);
    }
    for (std::int64_t i = 0; i < n_lanes_; ++i) {
      lanes[i].next = request(window + 1, first_lane_ + i, dataset);
    }
  }
  Lane& own = lanes[lane - first_lane_];
  select(own, window, lane, dataset, lock);
  const Slot current = own.current;
  window_done_.wait(
      lock, [&] { return current->state == State::kReady || current->state == State::kFailed; });
  if (current->error) std::rethrow_exception(current->error);
  return {current->rows.get(), current->bytes};
}

}  // namespace thresher::activation_cache
