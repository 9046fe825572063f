#include <algorithm>
#include <bit>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace thresher::comm {
namespace {

// Buffers are reduced in chunks of this size, so that the memory needed does not grow with them.
constexpr std::size_t kChunkBytes = std::size_t{8} << 20;
// Smaller chunks are exchanged whole: one message a round instead of two.
constexpr std::size_t kHalvingBytes = std::size_t{16} << 10;

struct Add {
  template <class T>
  T operator()(T left, T right) const {
    return left + right;
  }
};
struct Max {
  template <class T>
  T operator()(T left, T right) const {
    return std::max(left, right);
  }
};
struct Min {
  template <class T>
  T operator()(T left, T right) const {
    return std::min(left, right);
  }
};

/// values = values (+) theirs with the lower rank's operand on the left.
template <class T, class Combine>
void combine_into(std::span<T> values, const std::vector<T>& theirs, bool mine_is_left,
                  Combine combine) {
  if (mine_is_left) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = combine(values[i], theirs[i]);
  } else {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = combine(theirs[i], values[i]);
  }
}

/// Adds the parts of ranks 0, 1, 2, ... along the tree whose left branches hold the largest power
/// of two that fits.
template <class T, class Combine>
class RankTree {
 public:
  explicit RankTree(Combine combine) : combine_(combine) {}
  void add(std::vector<T> values) {
    stack_.push_back({1, std::move(values)});
    while (stack_.size() > 1 && stack_[stack_.size() - 2].first == stack_.back().first) merge();
  }
  std::vector<T> result() {
    while (stack_.size() > 1) merge();
    return std::move(stack_.back().second);
  }

 private:
  void merge() {
    auto right = std::move(stack_.back());
    stack_.pop_back();
    auto& left = stack_.back();
    combine_into(std::span(left.second), right.second, /*mine_is_left=*/true, combine_);
    left.first += right.first;
  }

  Combine combine_;
  std::vector<std::pair<int, std::vector<T>>> stack_;
};

}  // namespace

/// Recursive halving, then doubling: round b combines the ranks that differ in bit b, so the order
/// of the additions is the binary tree over ranks, and every rank combines only the part that it
/// keeps.
template <class T, class Combine>
void Communicator::reduce_pairwise(std::span<T> values, Combine combine) {
  struct Cut {
    std::size_t begin, middle, end;
  };
  const int world = world_size();
  const bool is_halved = values.size_bytes() >= kHalvingBytes;
  std::vector<T> received;
  std::vector<Cut> cuts;
  std::size_t begin = 0, end = values.size();
  for (int bit = 1; bit < world; bit *= 2) {
    const int peer = rank() ^ bit;
    const bool is_lower = rank() < peer;
    const std::size_t middle = is_halved ? begin + (end - begin) / 2 : end;
    const auto low = values.subspan(begin, middle - begin);
    const auto high = values.subspan(middle, end - middle);
    const auto kept = is_halved && !is_lower ? high : low;
    const auto given = is_halved ? (is_lower ? high : low) : low;
    received.resize(kept.size());
    send_receive(peer, std::as_bytes(given), std::as_writable_bytes(std::span(received)));
    combine_into(kept, received, is_lower, combine);
    cuts.push_back({begin, middle, end});
    if (is_halved) (is_lower ? end : begin) = middle;
  }
  if (!is_halved) return;
  for (int bit = world / 2; bit >= 1; bit /= 2) {
    const Cut cut = cuts.back();
    cuts.pop_back();
    const int peer = rank() ^ bit;
    const auto low = values.subspan(cut.begin, cut.middle - cut.begin);
    const auto high = values.subspan(cut.middle, cut.end - cut.middle);
    const bool is_lower = rank() < peer;
    send_receive(peer, std::as_bytes(is_lower ? low : high),
                 std::as_writable_bytes(is_lower ? high : low));
  }
}

template <class T, class Combine>
void Communicator::reduce_at_root(std::span<T> values, Combine combine) {
  if (rank() != 0) {
    send_receive(0, std::as_bytes(values), {});
    send_receive(0, {}, std::as_writable_bytes(values));
    return;
  }
  RankTree<T, Combine> tree(combine);
  tree.add({values.begin(), values.end()});
  for (int peer = 1; peer < world_size(); ++peer) {
    std::vector<T> theirs(values.size());
    send_receive(peer, {}, std::as_writable_bytes(std::span(theirs)));
    tree.add(std::move(theirs));
  }
  const std::vector<T> result = tree.result();
  std::copy(result.begin(), result.end(), values.begin());
  for (int peer = 1; peer < world_size(); ++peer) send_receive(peer, std::as_bytes(values), {});
}

template <class T, class Combine>
void Communicator::all_reduce(std::span<T> values, std::string_view operation,
                              std::string_view what, Combine combine) {
  if (!begin(operation, what, values.size_bytes(), static_cast<std::int64_t>(values.size())))
    return;
  const std::size_t chunk = kChunkBytes / sizeof(T);
  const bool is_pairwise = std::has_single_bit(static_cast<unsigned>(world_size()));
  for (std::size_t start = 0; start < values.size(); start += chunk) {
    const auto part = values.subspan(start, std::min(chunk, values.size() - start));
    if (is_pairwise) {
      reduce_pairwise(part, combine);
    } else {
      reduce_at_root(part, combine);
    }
  }
  end();
}

void Communicator::all_reduce_sum(std::span<float> values, std::string_view what) {
  all_reduce(values, "all_reduce", what, Add{});
}
void Communicator::all_reduce_sum(std::span<double> values, std::string_view what) {
  all_reduce(values, "all_reduce", what, Add{});
}
void Communicator::all_reduce_sum(std::span<std::int64_t> values, std::string_view what) {
  all_reduce(values, "all_reduce", what, Add{});
}
void Communicator::all_reduce_max(std::span<std::int64_t> values, std::string_view what) {
  all_reduce(values, "all_reduce_max", what, Max{});
}
void Communicator::all_reduce_min(std::span<std::int64_t> values, std::string_view what) {
  all_reduce(values, "all_reduce_min", what, Min{});
}

}  // namespace thresher::comm
