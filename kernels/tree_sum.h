#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace thresher::kernels {

/// Sum in float64 along a fixed binary tree over the elements: the same bits for any number of
/// threads, and for power-of-two groups summed apart and then together.
double tree_sum(std::span<const double> values);
double tree_sum(std::span<const float> values);

/// Adds buffers that arrive one a lane, in lane order, along the binary tree over lanes: at most
/// log2(lanes) buffers, and at least one, live at a time. After the last of 2^n lanes `result()`
/// holds the sum.
class LaneTree {
 public:
  explicit LaneTree(std::int64_t count) : count_(count) {}
  /// Takes the lane's values; `values.size() == count`.
  void add(std::span<const float> values);
  void clear();
  /// InternalError unless a power-of-two number of lanes has been added.
  std::span<const float> result() const;

 private:
  struct Node {
    std::int64_t lanes;
    std::vector<float> values;
  };
  std::vector<float> copy_of(std::span<const float> values);

  std::int64_t count_;
  std::vector<Node> stack_;
  std::vector<std::vector<float>> spare_;
};

}  // namespace thresher::kernels
