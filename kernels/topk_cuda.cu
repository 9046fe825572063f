#include <vector>

#include "kernels/detail/backends.h"
#include "kernels/detail/cuda_support.h"
#include "kernels/detail/topk_device.h"

namespace thresher::kernels::detail {
namespace {

constexpr int kThreads = 256;
constexpr std::uint32_t kSharedEntries = 4096;  // 32 KiB

__global__ void topk_radix(std::int64_t cols, std::uint32_t k, std::uint32_t padded,
                           const float* pre_acts, const std::uint8_t* mask, std::uint64_t* scratch,
                           float* values, std::int32_t* indices) {
  __shared__ TopKState state;
  extern __shared__ std::uint64_t shared_entries[];
  const std::int64_t row = blockIdx.x;
  std::uint64_t* entries = scratch != nullptr ? scratch + row * padded : shared_entries;
  CudaBlock block;
  topk_block(block, TopKRow{pre_acts + row * cols, mask, static_cast<std::uint32_t>(cols)}, k,
             padded, &state, entries, values + row * k, indices + row * k);
}

void launch(cudaStream_t stream, std::int64_t rows, std::int64_t cols, std::int64_t k,
            const float* pre_acts, const std::uint8_t* mask, float* values, std::int32_t* indices) {
  std::uint32_t padded = 1;
  while (padded < k) padded *= 2;
  const bool is_shared = padded <= kSharedEntries;
  StreamBuffer<std::uint64_t> scratch(is_shared ? 0 : rows * padded, stream, "topk");
  const std::size_t shared_bytes = is_shared ? padded * sizeof(std::uint64_t) : 0;
  topk_radix<<<grid_of(rows, 1), kThreads, shared_bytes, stream>>>(
      cols, static_cast<std::uint32_t>(k), padded, pre_acts, mask, scratch.data(), values, indices);
  check_launch("topk");
}

}  // namespace

void topk_cuda(void* stream, std::int64_t rows, std::int64_t cols, std::int64_t k,
               const float* pre_acts, float* values, std::int32_t* indices) {
  launch(static_cast<cudaStream_t>(stream), rows, cols, k, pre_acts, nullptr, values, indices);
}

void topk_masked_cuda(void* stream, std::int64_t rows, std::int64_t cols, std::int64_t k,
                      const float* pre_acts, const std::uint8_t* mask, float* values,
                      std::int32_t* indices) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  // A row with fewer open columns than k has no answer, and the kernel could not say so.
  std::vector<std::uint8_t> host_mask(static_cast<std::size_t>(cols));
  check_cuda(cudaMemcpyAsync(host_mask.data(), mask, host_mask.size(), cudaMemcpyDeviceToHost,
                             cuda_stream),
             "topk_masked");
  check_cuda(cudaStreamSynchronize(cuda_stream), "topk_masked");
  std::int64_t n_open = 0;
  for (const std::uint8_t is_open : host_mask) n_open += is_open != 0;
  check_open_columns(k, n_open, cols);
  launch(cuda_stream, rows, cols, k, pre_acts, mask, values, indices);
}

}  // namespace thresher::kernels::detail
