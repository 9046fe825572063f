#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/random.h"

namespace thresher::sae {

/// Draws up to `count` different elements, one after the other, each with probability proportional
/// to its weight among those left (Efraimidis and Spirakis 2006: the smallest exponential times of
/// rates `weights`). Element i uses draw `first_draw + i` of the stream, so the choice depends on
/// nothing but weights and position. Elements of weight 0 are never drawn. In the order of drawing.
std::vector<std::int64_t> draw_without_replacement(std::span<const double> weights,
                                                   std::int64_t count, const RandomStream& stream,
                                                   std::uint64_t first_draw);

}  // namespace thresher::sae
