#include "sae/batch_selection.h"

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"

namespace thresher::sae {
namespace {

// Bits of positive floats order as the floats do; 31 bits in three digits, highest first.
constexpr std::array<int, 3> kShifts{20, 10, 0};
constexpr std::uint32_t kDigitMask = (1U << 11) - 1;  // the first digit has eleven bits
constexpr std::uint32_t kLowMask = (1U << 10) - 1;

std::uint32_t key_of(float value) { return std::bit_cast<std::uint32_t>(value); }

std::uint32_t digit_of(std::uint32_t key, std::size_t place) {
  return (key >> kShifts[place]) & (place == 0 ? kDigitMask : kLowMask);
}

/// The key of the count-th largest value, digit by digit, and how many values with that key are to
/// be kept (the rest of `count`).
std::pair<std::uint32_t, std::int64_t> find_cut(const std::vector<float>& values,
                                                std::int64_t count, comm::Communicator& comm,
                                                std::string_view what) {
  std::uint32_t prefix = 0;
  std::int64_t left = count;
  for (std::size_t place = 0; place < kShifts.size(); ++place) {
    std::vector<std::int64_t> bins(kDigitMask + 1, 0);
    for (const float value : values) {
      const std::uint32_t key = key_of(value);
      if (place == 0 || key >> kShifts[place - 1] == prefix >> kShifts[place - 1]) {
        ++bins[digit_of(key, place)];
      }
    }
    comm.all_reduce_sum(std::span<std::int64_t>(bins), what);
    std::size_t digit = bins.size() - 1;
    while (bins[digit] < left) {
      left -= bins[digit];
      THRESHER_CHECK(digit > 0, "there are at least `count` values");
      --digit;
    }
    prefix |= static_cast<std::uint32_t>(digit) << kShifts[place];
  }
  return {prefix, left};
}

/// Of `wanted` values equal to the cut, those that fall to this rank: earlier ranks come first.
std::int64_t share_of_ties(std::int64_t mine, std::int64_t wanted, comm::Communicator& comm,
                           std::string_view what) {
  std::vector<std::int64_t> ties(static_cast<std::size_t>(comm.world_size()), 0);
  ties[static_cast<std::size_t>(comm.rank())] = mine;
  comm.all_reduce_sum(std::span<std::int64_t>(ties), what);
  const std::int64_t before = std::accumulate(ties.begin(), ties.begin() + comm.rank(), 0LL);
  return std::clamp<std::int64_t>(wanted - before, 0, mine);
}

}  // namespace

BatchCut keep_largest_of_batch(kernels::SelectedPairs& pairs, std::int64_t count,
                               comm::Communicator& comm, std::string_view what) {
  std::vector<std::int64_t> total{static_cast<std::int64_t>(pairs.values.size())};
  comm.all_reduce_sum(std::span<std::int64_t>(total), what);
  const std::int64_t kept = std::min(count, total[0]);
  if (kept == 0) {
    std::fill(pairs.row_offsets.begin(), pairs.row_offsets.end(), 0);
    pairs.values.clear();
    pairs.indices.clear();
    return {};
  }
  const auto [cut, wanted] = find_cut(pairs.values, kept, comm, what);
  const float smallest = std::bit_cast<float>(cut);
  const std::int64_t mine = std::count(pairs.values.begin(), pairs.values.end(), smallest);
  std::int64_t ties_left = share_of_ties(mine, wanted, comm, what);

  std::size_t out = 0;
  std::int64_t begin = pairs.row_offsets.front();
  for (std::size_t row = 0; row + 1 < pairs.row_offsets.size(); ++row) {
    const std::int64_t end = pairs.row_offsets[row + 1];
    for (auto p = static_cast<std::size_t>(begin); p < static_cast<std::size_t>(end); ++p) {
      const float value = pairs.values[p];
      if (value < smallest || (value == smallest && ties_left-- <= 0)) continue;
      pairs.values[out] = value;
      pairs.indices[out++] = pairs.indices[p];
    }
    begin = end;
    pairs.row_offsets[row + 1] = static_cast<std::int64_t>(out);
  }
  pairs.values.resize(out);
  pairs.indices.resize(out);
  return {kept, smallest};
}

}  // namespace thresher::sae
