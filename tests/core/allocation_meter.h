#pragma once

#include <cstddef>

namespace thresher::testing {

/// The largest single request to operator new since the last reset; linking allocation_meter.cpp
/// replaces the global operators of the test program.
std::size_t largest_allocation();
void reset_largest_allocation();

}  // namespace thresher::testing
