#include <cub/device/device_radix_sort.cuh>

#include "kernels/detail/backends.h"
#include "kernels/detail/cuda_support.h"
#include "kernels/detail/sort_pairs_device.h"

namespace thresher::kernels::detail {
namespace {

constexpr int kThreads = 256;
constexpr const char* kName = "sort_pairs_by_latent";

__device__ std::int64_t thread_in_grid() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__global__ void make_keys(std::int64_t rows, std::int64_t n_latents, std::int64_t n_slots,
                          const std::int64_t* row_offsets, const std::int32_t* indices,
                          const float* values, std::uint32_t* keys, std::int32_t* slots) {
  const std::int64_t i = thread_in_grid();
  if (i >= n_slots) return;
  const std::int64_t slot = row_offsets[0] + i;
  keys[i] = pair_key(slot, row_offsets[rows], n_latents, indices, values);
  slots[i] = static_cast<std::int32_t>(slot);
}

__global__ void find_offsets(std::int64_t n_latents, std::int64_t n_slots,
                             const std::uint32_t* keys, std::int64_t* offsets) {
  const std::int64_t latent = thread_in_grid();
  if (latent > n_latents) return;
  offsets[latent] = keys_below(keys, n_slots, static_cast<std::uint32_t>(latent));
}

__global__ void find_rows(std::int64_t rows, std::int64_t n_latents, std::int64_t n_slots,
                          const std::int64_t* row_offsets, const std::uint32_t* keys,
                          const std::int32_t* pair_slots, std::int32_t* pair_rows) {
  const std::int64_t i = thread_in_grid();
  if (i >= n_slots || keys[i] >= n_latents) return;
  pair_rows[i] = row_of_slot(row_offsets, rows, pair_slots[i]);
}

int bits_of(std::int64_t largest) {
  int bits = 1;
  while (largest >> bits != 0) ++bits;
  return bits;
}

}  // namespace

void sort_pairs_by_latent_cuda(void* stream, std::int64_t rows, std::int64_t n_latents,
                               std::int64_t n_slots, const std::int64_t* row_offsets,
                               const std::int32_t* indices, const float* values,
                               std::int64_t* offsets, std::int32_t* pair_rows,
                               std::int32_t* pair_slots) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (n_slots == 0 || rows == 0) return set_zero(offsets, n_latents + 1, cuda_stream, kName);
  StreamBuffer<std::uint32_t> keys(n_slots, cuda_stream, kName),
      sorted(n_slots, cuda_stream, kName);
  StreamBuffer<std::int32_t> slots(n_slots, cuda_stream, kName);
  make_keys<<<grid_of(n_slots, kThreads), kThreads, 0, cuda_stream>>>(
      rows, n_latents, n_slots, row_offsets, indices, values, keys.data(), slots.data());
  check_launch(kName);
  const auto sort = [&](void* work, std::size_t& bytes) {
    check_cuda(cub::DeviceRadixSort::SortPairs(work, bytes, keys.data(), sorted.data(),
                                               slots.data(), pair_slots, static_cast<int>(n_slots),
                                               0, bits_of(n_latents), cuda_stream),
               kName);
  };
  std::size_t bytes = 0;
  sort(nullptr, bytes);
  StreamBuffer<unsigned char> work(static_cast<std::int64_t>(bytes), cuda_stream, kName);
  sort(work.data(), bytes);
  find_offsets<<<grid_of(n_latents + 1, kThreads), kThreads, 0, cuda_stream>>>(
      n_latents, n_slots, sorted.data(), offsets);
  check_launch(kName);
  find_rows<<<grid_of(n_slots, kThreads), kThreads, 0, cuda_stream>>>(
      rows, n_latents, n_slots, row_offsets, sorted.data(), pair_slots, pair_rows);
  check_launch(kName);
}

}  // namespace thresher::kernels::detail
