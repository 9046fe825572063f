#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace thresher::fuzz {

/// Input number `index` made from the seeds, the same on every machine: one of them (taken in turn)
/// after one to four edits. An edit flips a bit, sets a byte, cuts the end off, copies, removes or
/// repeats a run, puts in a run of another seed, a telling token (brackets, escapes, huge numbers,
/// invalid UTF-8) or number, or sets a little-endian field of 2, 4 or 8 bytes to a boundary value.
/// `purpose` keys the draws. `seeds` must not be empty; a seed may be.
std::string mutated(const std::vector<std::string>& seeds, const std::string& purpose,
                    std::uint64_t index);

}  // namespace thresher::fuzz
