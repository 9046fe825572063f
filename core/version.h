#pragma once

namespace thresher {

inline constexpr const char* kVersion = "0.1.0";

/// Raised whenever a change alters the bits that harvest or training produce. It stands in the identity of caches
/// and checkpoints; a rebuilt program with the same number continues a half-finished job.
inline constexpr int kNumericsVersion = 1;

}  // namespace thresher
