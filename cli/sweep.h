#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/config.h"

namespace thresher::cli {

/// More SAEs than this in one run are taken for a slip.
inline constexpr std::int64_t kMostSaes = 256;

/// The entries that one entry of `sae:` stands for. A field given as a list takes each of its
/// values, one given as a range takes `steps` values:
///
///     k: [16, 32, 64]
///     learning_rate: {from: 1e-4, to: 1e-3, steps: 4, scale: log}    # scale: linear is the
///     default
///
/// Both ends of a range are taken as they are, values between are rounded to four digits (and to
/// whole numbers where the field takes no others), so that what a name says is what was used.
/// Several such fields make every combination, the last one varying fastest. A combination's name
/// is that of the entry (or its type) and the values: topk-k16-lr0.001. Every SAE may thus be
/// trained alone by writing its values down. An entry without lists and ranges comes back as it is.
///
/// ConfigError with the place: an empty list, a value twice, a range that cannot be, `type` or
/// `name` as a list, more than kMostSaes combinations. `path` is the entry's name in messages.
std::vector<ConfigNode> expand_sweep(const ConfigNode& entry, const std::string& path);

}  // namespace thresher::cli
