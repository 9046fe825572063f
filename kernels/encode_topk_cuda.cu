#include "kernels/detail/backends.h"
#include "kernels/detail/bfloat16_device.h"
#include "kernels/detail/cuda_support.h"
#include "kernels/detail/encode_plan.h"
#include "kernels/detail/encode_topk_device.h"

namespace thresher::kernels::detail {
namespace {

constexpr const char* kName = "encode_topk";
constexpr int kFinishThreads = 128;
constexpr std::uint32_t kSharedEntries = 4096;  // 32 KiB

__device__ float widened(float value) { return value; }
__device__ float widened(std::uint16_t value) { return from_bfloat16(value); }

/// 128 x 128 sums by 256 threads, each with every sixteenth row and column.
template <class T>
struct DirectProduct {
  static constexpr std::uint32_t kCols = 128;
  static constexpr std::uint32_t kThreadRows = 8, kThreadCols = 8;

  const T* x;
  const T* W_enc;
  std::int64_t rows, d, n_latents, first_row;
  float sums[kThreadRows][kThreadCols];

  __device__ std::uint32_t row(std::uint32_t thread, std::uint32_t i) const {
    return thread / 16 + 16 * i;
  }
  __device__ std::uint32_t col(std::uint32_t thread, std::uint32_t j) const {
    return thread % 16 + 16 * j;
  }
  __device__ float sum(std::uint32_t, std::uint32_t i, std::uint32_t j) const { return sums[i][j]; }

  __device__ void run(CudaBlock&, std::int64_t first_latent) {
    const std::uint32_t thread = threadIdx.x;
    const T* x_rows[kThreadRows];
    const T* W_rows[kThreadCols];
#pragma unroll
    for (std::uint32_t i = 0; i < kThreadRows; ++i) {
      x_rows[i] = x + min(first_row + row(thread, i), rows - 1) * d;
#pragma unroll
      for (std::uint32_t j = 0; j < kThreadCols; ++j) sums[i][j] = 0.0f;
    }
#pragma unroll
    for (std::uint32_t j = 0; j < kThreadCols; ++j) {
      W_rows[j] = W_enc + min(first_latent + col(thread, j), n_latents - 1) * d;
    }
    for (std::int64_t p = 0; p < d; ++p) {
#pragma unroll
      for (std::uint32_t j = 0; j < kThreadCols; ++j) {
        const float weight = widened(W_rows[j][p]);
#pragma unroll
        for (std::uint32_t i = 0; i < kThreadRows; ++i) {
          sums[i][j] = fmaf(widened(x_rows[i][p]), weight, sums[i][j]);
        }
      }
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kEncodeThreads)
    encode_direct(EncodeTask task, const T* x, const T* W_enc) {
  __shared__ EncodeState state;
  CudaBlock block;
  const EncodePlace place = EncodePlace::of_block(task, blockIdx.x);
  DirectProduct<T> product{x, W_enc, task.rows, task.d, task.n_latents, place.first_row, {}};
  encode_block(block, task, place, product, &state);
}

__global__ void finish_rows(EncodeLists lists, std::int64_t splits, std::uint32_t padded,
                            std::uint64_t* scratch, float* values, std::int32_t* indices) {
  __shared__ TopKState state;
  extern __shared__ std::uint64_t shared_entries[];
  const std::int64_t row = blockIdx.x;
  CudaBlock block;
  finish_row_block(block, lists, row, splits, padded, &state,
                   scratch != nullptr ? scratch + row * padded : shared_entries,
                   values + row * lists.k, indices + row * lists.k);
}

void finish(cudaStream_t stream, const EncodeLists& lists, std::int64_t rows, std::int64_t splits,
            float* values, std::int32_t* indices) {
  std::uint32_t padded = 1;
  while (padded < lists.k) padded *= 2;
  const bool is_shared = padded <= kSharedEntries;
  StreamBuffer<std::uint64_t> scratch(is_shared ? 0 : rows * padded, stream, kName);
  const std::size_t shared_bytes = is_shared ? padded * sizeof(std::uint64_t) : 0;
  finish_rows<<<grid_of(rows, 1), kFinishThreads, shared_bytes, stream>>>(
      lists, splits, padded, scratch.data(), values, indices);
  check_launch(kName);
}

/// Lists of one selection in device memory.
struct ListBuffers {
  ListBuffers(std::int64_t n_lists, std::int64_t k, const std::uint8_t* mask, cudaStream_t stream)
      : entries(k > 0 ? n_lists * (k + kSpareEntries) : 0, stream, kName),
        counts(k > 0 ? n_lists : 0, stream, kName),
        lists{static_cast<std::uint32_t>(k), mask, entries.data(), counts.data()} {}
  StreamBuffer<std::uint64_t> entries;
  StreamBuffer<std::uint32_t> counts;
  EncodeLists lists;
};

int multiprocessors() {
  int device = 0, count = 0;
  check_cuda(cudaGetDevice(&device), kName);
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), kName);
  return count;
}

template <class T>
void encode_rows(cudaStream_t stream, const EncoderOperands& operands, const EncodePlan& plan,
                 std::int64_t first_row, std::int64_t rows, const TopKSlots& main,
                 const std::uint8_t* mask, const TopKSlots* masked, std::int64_t* not_numbers) {
  const std::int64_t row_tiles = (rows + kEncodeRows - 1) / kEncodeRows;
  const std::int64_t blocks = row_tiles * plan.splits;
  const ListBuffers of_main(rows * plan.splits, main.k, nullptr, stream);
  const ListBuffers of_masked(rows * plan.splits, masked != nullptr ? masked->k : 0, mask, stream);
  StreamBuffer<std::uint64_t> movers(blocks * kEncodeWarps * kSpareEntries, stream, kName);
  const EncodeTask task{rows,
                        operands.d,
                        operands.n_latents,
                        plan.splits,
                        plan.split_latents,
                        operands.b_enc,
                        not_numbers,
                        movers.data(),
                        masked != nullptr ? 2 : 1,
                        {of_main.lists, of_masked.lists}};
  encode_direct<T><<<grid_of(blocks, 1), kEncodeThreads, 0, stream>>>(
      task, static_cast<const T*>(operands.x) + first_row * operands.d,
      static_cast<const T*>(operands.W_enc));
  check_launch(kName);
  finish(stream, of_main.lists, rows, plan.splits, main.values + first_row * main.k,
         main.indices + first_row * main.k);
  if (masked == nullptr) return;
  finish(stream, of_masked.lists, rows, plan.splits, masked->values + first_row * masked->k,
         masked->indices + first_row * masked->k);
}

}  // namespace

void encode_topk_cuda(void* stream, const EncoderOperands& operands, const TopKSlots& main,
                      const std::uint8_t* mask, const TopKSlots* masked,
                      std::int64_t* not_numbers) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const EncodePlan plan =
      plan_encode(operands.rows, operands.n_latents, main.k, masked != nullptr ? masked->k : 0,
                  DirectProduct<float>::kCols, 2 * multiprocessors());
  for (std::int64_t first = 0; first < operands.rows; first += plan.rows) {
    const std::int64_t rows = std::min(plan.rows, operands.rows - first);
    const auto encode =
        operands.type == OperandType::kFloat32 ? encode_rows<float> : encode_rows<std::uint16_t>;
    encode(cuda_stream, operands, plan, first, rows, main, mask, masked, not_numbers);
  }
}

}  // namespace thresher::kernels::detail
