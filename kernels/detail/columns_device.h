#pragma once

#include <cstdint>

#include "kernels/detail/bfloat16_device.h"
#include "kernels/detail/device_code.h"

namespace thresher::kernels::detail {

/// Neighbouring elements of a row, one load or store of a thread.
template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Columns {
  T at[kWidth];
};

template <int kWidth, class T>
THRESHER_DEVICE Columns<T, kWidth> load_columns(const T* from) {
  return *reinterpret_cast<const Columns<T, kWidth>*>(from);
}
template <int kWidth, class T>
THRESHER_DEVICE void store_columns(T* to, const Columns<T, kWidth>& columns) {
  *reinterpret_cast<Columns<T, kWidth>*>(to) = columns;
}

THRESHER_DEVICE inline float widened(float value) { return value; }
THRESHER_DEVICE inline float widened(std::uint16_t value) { return from_bfloat16(value); }

/// Bitwise or.
template <class... T>
std::uintptr_t addresses_of(const T*... arrays) {
  return (reinterpret_cast<std::uintptr_t>(arrays) | ... | std::uintptr_t{0});
}

/// The number of elements that a thread may take at a time: 4 where every row of every array begins
/// at a multiple of four elements, else 1. `addresses` is addresses_of all float arrays
/// and twice those of bfloat16 arrays.
inline int columns_width(std::int64_t d, std::uintptr_t addresses) {
  return d % 4 == 0 && addresses % 16 == 0 ? 4 : 1;
}

/// Threads for a row of `d` elements: whole warps, as few as make equally many rounds of at most
/// `most`.
inline int row_threads(std::int64_t d, int width, int most) {
  const std::int64_t columns = (d + width - 1) / width;
  const std::int64_t rounds = (columns + most - 1) / most;
  const std::int64_t threads = (columns + rounds - 1) / rounds;
  return static_cast<int>((threads + 31) / 32 * 32);
}

}  // namespace thresher::kernels::detail
