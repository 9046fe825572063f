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

__global__ void sum_tree(std::int64_t blocks, std::int64_t cols, const double* parts,
                         double* sums) {
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (col < cols) sums[col] = column_tree_sum(blocks, cols, col, parts);
}

}  // namespace

void column_sums_cuda(void* stream, std::int64_t rows, std::int64_t cols, const float* coefficients,
                      const float* values, double* sums) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const std::int64_t blocks = (rows + kSumRows - 1) / kSumRows;
  StreamBuffer<double> parts(blocks * cols, cuda_stream, "column_sums");
  StreamBuffer<double> result(cols, cuda_stream, "column_sums");
  sum_blocks<<<grid_of(blocks, 1), kThreads, 0, cuda_stream>>>(rows, cols, coefficients, values,
                                                               parts.data());
  check_launch("column_sums");
  sum_tree<<<grid_of(cols, kThreads), kThreads, 0, cuda_stream>>>(blocks, cols, parts.data(),
                                                                  result.data());
  check_launch("column_sums");
  check_cuda(cudaMemcpyAsync(sums, result.data(), cols * sizeof(double), cudaMemcpyDeviceToHost,
                             cuda_stream),
             "column_sums");
  check_cuda(cudaStreamSynchronize(cuda_stream), "column_sums");
}

}  // namespace thresher::kernels::detail
