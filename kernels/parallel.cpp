#include "kernels/parallel.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/error.h"

namespace thresher::kernels {
namespace {

thread_local int t_num_threads = 1;

/// Workers of one calling thread. They sleep between calls.
class Pool {
 public:
  explicit Pool(int workers) {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this, i] { work(i + 1); });
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      is_stopping_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  int workers() const { return static_cast<int>(threads_.size()); }

  /// Runs body(0) here and body(1) .. body(parts - 1) on the workers.
  void run(int parts, const std::function<void(int)>& body) {
    {
      const std::lock_guard lock(mutex_);
      body_ = &body;
      parts_ = parts;
      unfinished_ = parts - 1;
      errors_.assign(static_cast<std::size_t>(parts), nullptr);
      ++generation_;
    }
    wake_.notify_all();
    run_part(0, body);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return unfinished_ == 0; });
    for (const auto& error : errors_) {
      if (error) std::rethrow_exception(error);
    }
  }

 private:
  void run_part(int part, const std::function<void(int)>& body) {
    try {
      body(part);
    } catch (...) {
      errors_[static_cast<std::size_t>(part)] = std::current_exception();
    }
  }

  void work(int part) {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return is_stopping_ || generation_ != seen; });
      if (is_stopping_) return;
      seen = generation_;
      if (part >= parts_) continue;
      const auto* body = body_;
      lock.unlock();
      run_part(part, *body);
      lock.lock();
      if (--unfinished_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int)>* body_ = nullptr;
  int parts_ = 0;
  int unfinished_ = 0;
  std::uint64_t generation_ = 0;
  bool is_stopping_ = false;
  std::vector<std::exception_ptr> errors_;
  std::vector<std::thread> threads_;
};

thread_local std::unique_ptr<Pool> t_pool;

void run_parts(int parts, const std::function<void(int)>& body) {
  if (parts == 1) return body(0);
  if (!t_pool || t_pool->workers() < parts - 1) {
    t_pool.reset();
    t_pool = std::make_unique<Pool>(t_num_threads - 1);
  }
  t_pool->run(parts, body);
}

int parts_for(std::int64_t amount, std::int64_t grain) {
  return static_cast<int>(
      std::clamp<std::int64_t>(amount / std::max<std::int64_t>(grain, 1), 1, t_num_threads));
}

}  // namespace

void set_num_threads(int threads) {
  THRESHER_CHECK(threads >= 1, "set_num_threads: at least one thread is needed");
  if (threads != t_num_threads) t_pool.reset();
  t_num_threads = threads;
}

int num_threads() { return t_num_threads; }

namespace detail {

void parallel_for(std::int64_t count, std::int64_t grain,
                  const std::function<void(std::int64_t, std::int64_t)>& body) {
  parallel_for_cost(
      count, grain, [](std::int64_t item) { return item; }, body);
}

void parallel_for_cost(std::int64_t count, std::int64_t grain,
                       const std::function<std::int64_t(std::int64_t)>& cost_before,
                       const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return;
  if (t_num_threads == 1) return body(0, count);
  const std::int64_t total = cost_before(count);
  const int parts = parts_for(total, grain);
  std::vector<std::int64_t> bounds(static_cast<std::size_t>(parts) + 1, 0);
  bounds.back() = count;
  for (int part = 1; part < parts; ++part) {
    const std::int64_t target = total / parts * part;
    std::int64_t low = bounds[static_cast<std::size_t>(part) - 1], high = count;
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (cost_before(middle) < target) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    bounds[static_cast<std::size_t>(part)] = low;
  }
  run_parts(parts, [&](int part) {
    const std::int64_t begin = bounds[static_cast<std::size_t>(part)];
    const std::int64_t end = bounds[static_cast<std::size_t>(part) + 1];
    if (begin < end) body(begin, end);
  });
}

}  // namespace detail
}  // namespace thresher::kernels
