#include "tests/comm/contract.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "core/error.h"

namespace thresher::comm {
namespace {

std::vector<std::byte> to_bytes(const std::string& text) {
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return {begin, begin + text.size()};
}

std::string to_text(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Values whose sum depends on the order of the additions.
float awkward(std::int64_t source, std::int64_t place) {
  const auto mixed =
      static_cast<std::uint32_t>(source * 7919 + place * 104729 + 12345) * 2654435761U;
  const float magnitude = std::ldexp(1.0f, static_cast<int>(mixed % 40) - 20);
  return (static_cast<float>(mixed >> 8) / 16777216.0f - 0.5f) * magnitude;
}

/// The sum over sources [first, last) along the tree whose left branch holds the largest power of
/// two that fits.
float tree(std::int64_t first, std::int64_t last, std::int64_t place) {
  if (last - first == 1) return awkward(first, place);
  const auto left =
      static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(last - first - 1)));
  return tree(first, first + left, place) + tree(first + left, last, place);
}

std::uint32_t bits(float value) { return std::bit_cast<std::uint32_t>(value); }

}  // namespace

void check_sums_are_exact(Communicator& comm) {
  const std::int64_t world = comm.world_size();
  const std::int64_t total = world * (world + 1) / 2;
  std::vector<float> floats{1.0f * static_cast<float>(comm.rank() + 1), 2.0f};
  comm.all_reduce_sum(floats, "floats");
  EXPECT_EQ(floats,
            (std::vector<float>{static_cast<float>(total), 2.0f * static_cast<float>(world)}));
  std::vector<double> doubles{0.5 * (comm.rank() + 1)};
  comm.all_reduce_sum(doubles, "doubles");
  EXPECT_EQ(doubles[0], 0.5 * static_cast<double>(total));
  std::vector<std::int64_t> integers{std::int64_t{1} << 60, comm.rank()};
  comm.all_reduce_sum(std::span(integers).subspan(1), "integers");
  EXPECT_EQ(integers, (std::vector<std::int64_t>{std::int64_t{1} << 60, total - world}));
}

void check_reduce_follows_the_tree(Communicator& comm) {
  for (const std::int64_t count : {1, 2, 3, 1000, 4095, 4096, 4097, 30011}) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i)
      values[static_cast<std::size_t>(i)] = awkward(comm.rank(), i);
    comm.all_reduce_sum(values, fmt::format("tree of {}", count));
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      wrong += bits(values[static_cast<std::size_t>(i)]) != bits(tree(0, comm.world_size(), i));
    }
    EXPECT_EQ(wrong, 0) << "of " << count;
  }
}

void check_long_buffers(Communicator& comm) {
  // More than one chunk of the all-reduce (8 MiB), with an odd rest.
  std::vector<float> values((std::size_t{9} << 18) + 7);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>((i + static_cast<std::size_t>(comm.rank())) % 1000);
  }
  comm.all_reduce_sum(values, "long");
  std::vector<float> expected(1000);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    for (std::size_t rank = 0; rank < static_cast<std::size_t>(comm.world_size()); ++rank) {
      expected[i] += static_cast<float>((i + rank) % 1000);
    }
  }
  std::int64_t wrong = 0;
  for (std::size_t i = 0; i < values.size(); ++i) wrong += values[i] != expected[i % 1000];
  EXPECT_EQ(wrong, 0);
}

void check_min_and_max(Communicator& comm) {
  std::vector<std::int64_t> low{comm.rank() + 5, -comm.rank()};
  std::vector<std::int64_t> high = low;
  comm.all_reduce_min(low, "low");
  comm.all_reduce_max(high, "high");
  EXPECT_EQ(low, (std::vector<std::int64_t>{5, 1 - comm.world_size()}));
  EXPECT_EQ(high, (std::vector<std::int64_t>{comm.world_size() + 4, 0}));
}

void check_gather(Communicator& comm) {
  // Rank 1 contributes nothing.
  std::string mine;
  for (int i = 0; comm.rank() != 1 && i <= comm.rank(); ++i)
    mine += fmt::format("r{} ", comm.rank());
  const auto parts = comm.all_gather(to_bytes(mine), "texts");
  ASSERT_EQ(static_cast<int>(parts.size()), comm.world_size());
  for (int rank = 0; rank < comm.world_size(); ++rank) {
    std::string expected;
    for (int i = 0; rank != 1 && i <= rank; ++i) expected += fmt::format("r{} ", rank);
    EXPECT_EQ(to_text(parts[static_cast<std::size_t>(rank)]), expected);
  }
}

void check_broadcast(Communicator& comm) {
  for (int root = 0; root < comm.world_size(); ++root) {
    auto bytes = to_bytes(fmt::format("what rank {} had", comm.rank()));
    if (comm.rank() == root) bytes.resize(100000 + static_cast<std::size_t>(root), std::byte{'.'});
    comm.broadcast(bytes, root, "news");
    EXPECT_EQ(bytes.size(), 100000 + static_cast<std::size_t>(root));
    EXPECT_EQ(to_text(bytes).substr(0, 16), fmt::format("what rank {} had.", root).substr(0, 16));
  }
  std::vector<std::byte> nothing(comm.is_root() ? 0 : 9);
  comm.broadcast(nothing, 0, "nothing");
  EXPECT_TRUE(nothing.empty());
}

void check_place_on_host(Communicator& comm) {
  // All ranks of these tests share a machine.
  const HostPlace place = place_on_host(comm);
  EXPECT_EQ(place.ranks_on_host, comm.world_size());
  EXPECT_EQ(place.rank_on_host, comm.rank());
}

void check_agree(Communicator& comm) {
  bool was_run = false;
  comm.agree([&] { was_run = true; }, "fine");
  EXPECT_TRUE(was_run);
  const int culprit = comm.world_size() / 2;
  try {
    comm.agree(
        [&] {
          if (comm.rank() >= culprit) {
            throw ConfigError(fmt::format("a.yaml:3:5: k = {}", 10 + comm.rank()), "k <= 4",
                              "lower k");
          }
        },
        "not fine");
    FAIL() << "expected ConfigError";
  } catch (const ConfigError& error) {
    const std::string prefix = comm.world_size() == 1 ? "" : fmt::format("rank {}: ", culprit);
    EXPECT_EQ(error.what(), fmt::format("{}a.yaml:3:5: k = {}\n  expected: k <= 4\n  hint: lower k",
                                        prefix, 10 + culprit));
  }
  comm.barrier("still usable after an agreed error");
}

void check_nothing_to_send(Communicator& comm) {
  std::vector<float> empty;
  comm.all_reduce_sum(empty, "nothing");
  EXPECT_EQ(static_cast<int>(comm.all_gather({}, "nothing").size()), comm.world_size());
  comm.barrier("end");
}

}  // namespace thresher::comm
