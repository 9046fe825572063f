#include "kernels/detail/backends.h"
#include "kernels/detail/column_sums_device.h"
#include "kernels/detail/cuda_support.h"

namespace thresher::kernels::detail {
namespace {

constexpr int kThreads = 128;

__global__ void sum_blocks(std::int64_t rows, std::int64_t cols, const float* coefficients,
                           const float* values, double* parts) {
  const std::int64_t block = blockIdx.x;
  for (std::int64_t col = threadIdx.x; col < cols; col += blockDim.x) {
    parts[block * cols + col] = column_block_sum(block, rows, cols, col, coefficients, values);
  }
}

/// One level of the tree, five of its rounds: parts [blocks, cols] -> sums [blocks / 32, cols].
__global__ void sum_groups(std::int64_t blocks, std::int64_t cols, const double* parts,
                           double* sums) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= tree_groups(blocks) * cols) return;
  sums[i] = column_group_sum(i / cols, blocks, cols, i % cols, parts);
}

}  // namespace

void tree_sums_on_cuda(void* stream, std::int64_t blocks, std::int64_t cols, const double* parts,
                       double* sums) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const std::int64_t room = tree_groups(blocks) * cols;
  StreamBuffer<double> odd(room, cuda_stream, "column_sums"),
      even(room, cuda_stream, "column_sums");
  StreamBuffer<double>* next = &odd;
  while (true) {
    const std::int64_t groups = tree_groups(blocks);
    double* out = groups == 1 ? sums : next->data();
    sum_groups<<<grid_of(groups * cols, kThreads), kThreads, 0, cuda_stream>>>(blocks, cols, parts,
                                                                               out);
    check_launch("column_sums");
    if (groups == 1) return;
    parts = out;
    blocks = groups;
    next = next == &odd ? &even : &odd;
  }
}

void column_sums_on_cuda(void* stream, std::int64_t rows, std::int64_t cols,
                         const float* coefficients, const float* values, double* sums) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (rows == 0) return set_zero(sums, cols, cuda_stream, "column_sums");
  const std::int64_t blocks = (rows + kSumRows - 1) / kSumRows;
  StreamBuffer<double> parts(blocks * cols, cuda_stream, "column_sums");
  sum_blocks<<<grid_of(blocks, 1), kThreads, 0, cuda_stream>>>(rows, cols, coefficients, values,
                                                               parts.data());
  check_launch("column_sums");
  tree_sums_on_cuda(stream, blocks, cols, parts.data(), sums);
}

void column_sums_cuda(void* stream, std::int64_t rows, std::int64_t cols, const float* coefficients,
                      const float* values, double* sums) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  StreamBuffer<double> result(cols, cuda_stream, "column_sums");
  column_sums_on_cuda(stream, rows, cols, coefficients, values, result.data());
  check_cuda(cudaMemcpyAsync(sums, result.data(), cols * sizeof(double), cudaMemcpyDeviceToHost,
                             cuda_stream),
             "column_sums");
  check_cuda(cudaStreamSynchronize(cuda_stream), "column_sums");
}

}  // namespace thresher::kernels::detail
