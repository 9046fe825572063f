#pragma once

#include <filesystem>
#include <string>

#include "tests/activation_cache/harvest_testing.h"

namespace thresher::activation_cache::testing {

/// Harvests in a child process (so that killing it kills all its ranks) with a THRESHER_FAILPOINT.
/// Returns its exit code (an Error's code), or 128 + the signal that ended it.
int harvest_in_child(const HarvestSetup& setup, const std::string& failpoint = {});
/// The same with fake_config on `ranks` ranks, slowed down a little.
int harvest_in_child(const std::filesystem::path& dir, int ranks, const std::string& failpoint = {},
                     int kill_after_ms = -1);
inline constexpr int kKilled = 128 + 9;

/// Kills harvests at `kills` random moments, over several caches, and continues each with another
/// number of ranks until it is complete; the bytes must be those of a harvest that was never
/// killed.
void check_random_kills(int kills, std::uint64_t seed);

}  // namespace thresher::activation_cache::testing
