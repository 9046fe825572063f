#pragma once

#include <cstdint>

namespace thresher::kernels {

/// A block of detail/device_code.h whose threads take turns, in an order that no kernel may rely
/// on.
class HostBlock {
 public:
  explicit HostBlock(std::uint32_t threads) : threads_(threads) {}
  std::uint32_t threads() const { return threads_; }
  template <class F>
  void each(F f) {
    ++rounds_;
    for (std::uint32_t i = 0; i < threads_; ++i) {
      f(rounds_ % 2 == 0 ? i : threads_ - 1 - i);
    }
  }
  std::uint32_t fetch_add(std::uint32_t* counter) { return (*counter)++; }
  void add(std::int64_t* counter, std::int64_t count) { *counter += count; }
  template <class F>
  void each_warp(F f) {
    ++rounds_;
    const std::uint32_t warps = threads_ / 32;
    for (std::uint32_t i = 0; i < warps; ++i) {
      HostBlock warp(32);
      f(warp, rounds_ % 2 == 0 ? i : warps - 1 - i);
    }
  }

 private:
  std::uint32_t threads_;
  std::uint32_t rounds_ = 0;
};

}  // namespace thresher::kernels
