#pragma once

#include <filesystem>
#include <string>

namespace thresher::activation_cache::testing {

/// Harvests in a child process (so that killing it kills all its ranks). Returns the signal that
/// ended it, or 0 when it ended by itself, successfully; anything else fails the test.
/// `kill_after_ms` < 0: let it run.
int harvest_in_child(const std::filesystem::path& dir, int ranks, const std::string& failpoint = {},
                     int kill_after_ms = -1);

/// Kills harvests at `kills` random moments, over several caches, and continues each with another
/// number of ranks until it is complete; the bytes must be those of a harvest that was never
/// killed.
void check_random_kills(int kills, std::uint64_t seed);

}  // namespace thresher::activation_cache::testing
