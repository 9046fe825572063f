#include "kernels/tree_sum.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "kernels/detail/lanes.h"
#include "kernels/parallel.h"

namespace thresher::kernels {
namespace {

constexpr std::size_t kBlock = 64;  // a power of two: whole blocks are subtrees

/// Adds neighbours until one value is left; an odd one waits for the next round. So the left
/// operand always holds the largest power of two of elements that fits.
template <class T>
double block_sum(const T* values, std::size_t count) {
  double level[kBlock];
  for (std::size_t i = 0; i < count; ++i) level[i] = static_cast<double>(values[i]);
  while (count > 1) {
    const std::size_t half = count / 2;
    for (std::size_t i = 0; i < half; ++i) level[i] = level[2 * i] + level[2 * i + 1];
    if (count % 2 == 1) level[half] = level[count - 1];
    count = half + count % 2;
  }
  return level[0];
}

template <class T>
double sum_tree(std::span<const T> values) {
  if (values.empty()) return 0.0;
  if (values.size() <= kBlock) return block_sum(values.data(), values.size());
  std::vector<double> sums((values.size() + kBlock - 1) / kBlock);
  for (std::size_t i = 0; i < sums.size(); ++i) {
    sums[i] = block_sum(values.data() + i * kBlock, std::min(kBlock, values.size() - i * kBlock));
  }
  return sum_tree<double>(sums);
}

constexpr std::int64_t kGrain = std::int64_t{1} << 16;

THRESHER_HOT void add_range(const float* right, std::int64_t count, float* left) {
  for (std::int64_t i = 0; i < count; ++i) left[i] += right[i];
}

void add_to(std::span<const float> right, float* left) {
  detail::parallel_for(static_cast<std::int64_t>(right.size()), kGrain,
                       [&](std::int64_t begin, std::int64_t end) {
                         add_range(right.data() + begin, end - begin, left + begin);
                       });
}

}  // namespace

double tree_sum(std::span<const double> values) { return sum_tree(values); }
double tree_sum(std::span<const float> values) { return sum_tree(values); }

void LaneTree::add(std::span<const float> values) {
  THRESHER_CHECK(static_cast<std::int64_t>(values.size()) == count_,
                 "LaneTree: a lane has another number of values");
  if (!stack_.empty() && stack_.back().lanes == 1) {
    add_to(values, stack_.back().values.data());
    stack_.back().lanes = 2;
  } else {
    stack_.push_back({1, copy_of(values)});
  }
  while (stack_.size() > 1 && stack_[stack_.size() - 2].lanes == stack_.back().lanes) {
    Node right = std::move(stack_.back());
    stack_.pop_back();
    Node& left = stack_.back();
    add_to(right.values, left.values.data());
    left.lanes += right.lanes;
    spare_.push_back(std::move(right.values));
  }
}

std::vector<float> LaneTree::copy_of(std::span<const float> values) {
  std::vector<float> copy;
  if (!spare_.empty()) {
    copy = std::move(spare_.back());
    spare_.pop_back();
  }
  copy.resize(values.size());
  detail::parallel_for(count_, kGrain, [&](std::int64_t begin, std::int64_t end) {
    std::copy(values.begin() + begin, values.begin() + end, copy.begin() + begin);
  });
  return copy;
}

void LaneTree::clear() {
  for (Node& node : stack_) spare_.push_back(std::move(node.values));
  stack_.clear();
}

std::span<const float> LaneTree::result() const {
  THRESHER_CHECK(stack_.size() == 1, "LaneTree: the number of lanes added is no power of two");
  return stack_.back().values;
}

}  // namespace thresher::kernels
