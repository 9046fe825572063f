#include "kernels/detail/backends.h"
#include "kernels/detail/columns_device.h"
#include "kernels/detail/cuda_support.h"
#include "kernels/detail/decoder_norm_device.h"
#include "kernels/detail/unit_rows_device.h"

namespace thresher::kernels::detail {
namespace {

constexpr int kThreads = 128;
constexpr std::int64_t kRowsPerBlock = kThreads / kRowLanes;
constexpr std::int64_t kWarpRows = kThreads / 32;  // where a warp has a row

__device__ RowGroup group_of_block(std::int64_t rows, std::int64_t cols) {
  return {static_cast<std::int64_t>(blockIdx.x) * kRowsPerBlock, rows, cols};
}

__global__ void norms_of_rows(std::int64_t rows, std::int64_t cols, const float* W, float* norms) {
  __shared__ double sums[kThreads];
  CudaBlock block;
  row_squares_block(
      block, group_of_block(rows, cols), W, sums,
      [norms](std::int64_t row, double sum) { norms[row] = static_cast<float>(sqrt(sum)); });
}

__global__ void squares_of_rows(std::int64_t rows, std::int64_t cols, const float* values,
                                double* squares) {
  __shared__ double sums[kThreads];
  CudaBlock block;
  row_squares_block(block, group_of_block(rows, cols), values, sums,
                    [squares](std::int64_t row, double sum) { squares[row] = sum; });
}

__global__ void unit_rows(std::int64_t rows, std::int64_t cols, float* W) {
  __shared__ double sums[kThreads];
  CudaBlock block;
  normalise_rows_block(block, group_of_block(rows, cols), sums, W);
}

__global__ void components_of_rows(std::int64_t rows, std::int64_t cols, const float* W,
                                   const float* grad, double* factors, double* squares) {
  __shared__ double sums[3 * kThreads];
  CudaBlock block;
  parallel_components_block(block, group_of_block(rows, cols), W, grad, sums,
                            [=](std::int64_t row, double factor, double square) {
                              factors[row] = factor;
                              squares[row] = square;
                            });
}

__global__ void squares_of_blocks(std::int64_t count, const float* values, double* parts) {
  __shared__ double sums[kSquareThreads];
  CudaBlock block;
  square_sum_block(block, blockIdx.x, count, values, sums, parts);
}

template <int kWidth>
__global__ void update_unit_rows(UnitRowsTask task, const UpdateControl* control) {
  __shared__ double sums[kThreads];
  if (!take_control(control, task.factors)) return;
  CudaBlock block;
  unit_rows_block<kWidth>(block, task, blockIdx.x * kWarpRows, sums);
}

template <int kWidth>
__global__ void components_by_warp(std::int64_t rows, std::int64_t cols, const float* W,
                                   const float* grad, double* factors, double* squares) {
  __shared__ double sums[3 * kThreads];
  CudaBlock block;
  row_components_block<kWidth>(block, rows, cols, blockIdx.x * kWarpRows, W, grad, sums,
                               [=](std::int64_t row, double factor, double square) {
                                 factors[row] = factor;
                                 squares[row] = square;
                               });
}

}  // namespace

void row_norms_cuda(void* stream, std::int64_t rows, std::int64_t cols, const float* W,
                    float* norms) {
  norms_of_rows<<<grid_of(rows, kRowsPerBlock), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      rows, cols, W, norms);
  check_launch("row_norms");
}

void normalise_rows_cuda(void* stream, std::int64_t rows, std::int64_t cols, float* W) {
  unit_rows<<<grid_of(rows, kRowsPerBlock), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      rows, cols, W);
  check_launch("normalise_rows");
}

void parallel_components_cuda(void* stream, std::int64_t rows, std::int64_t cols, const float* W,
                              const float* grad, double* factors, double* squares) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  StreamBuffer<double> on_device(rows, cuda_stream, "parallel_components");
  components_of_rows<<<grid_of(rows, kRowsPerBlock), kThreads, 0, cuda_stream>>>(
      rows, cols, W, grad, factors, on_device.data());
  check_launch("parallel_components");
  check_cuda(cudaMemcpyAsync(squares, on_device.data(), rows * sizeof(double),
                             cudaMemcpyDeviceToHost, cuda_stream),
             "parallel_components");
  check_cuda(cudaStreamSynchronize(cuda_stream), "parallel_components");
}

void adam_unit_rows_cuda(void* stream, const AdamStep& step, std::int64_t rows, std::int64_t cols,
                         const float* gradient, const double* factors, bool renormalises,
                         float* weights, float* m, float* v) {
  adam_unit_rows_controlled_cuda(stream, step, nullptr, rows, cols, gradient, factors, renormalises,
                                 weights, m, v, nullptr);
}

void adam_unit_rows_controlled_cuda(void* stream, const AdamStep& step,
                                    const UpdateControl* control, std::int64_t rows,
                                    std::int64_t cols, const float* gradient, const double* factors,
                                    bool renormalises, float* weights, float* m, float* v,
                                    std::uint16_t* bfloat16) {
  const UnitRowsTask task{
      rows, cols, adam_factors(step), gradient, factors, renormalises, weights, m, v, bfloat16};
  const int width =
      columns_width(cols, addresses_of(gradient, weights, m, v) | 2 * addresses_of(bfloat16));
  const auto kernel = width == 4 ? update_unit_rows<4> : update_unit_rows<1>;
  kernel<<<grid_of(rows, kWarpRows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(task,
                                                                                       control);
  check_launch("adam_unit_rows");
}

void parallel_components_on_cuda(void* stream, std::int64_t rows, std::int64_t cols, const float* W,
                                 const float* grad, double* factors, double* squares) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (rows == 0) return set_zero(squares, 1, cuda_stream, "parallel_components");
  StreamBuffer<double> of_rows(rows, cuda_stream, "parallel_components");
  const auto kernel = columns_width(cols, addresses_of(W, grad)) == 4 ? components_by_warp<4>
                                                                      : components_by_warp<1>;
  kernel<<<grid_of(rows, kWarpRows), kThreads, 0, cuda_stream>>>(rows, cols, W, grad, factors,
                                                                 of_rows.data());
  check_launch("parallel_components");
  tree_sums_on_cuda(stream, rows, 1, of_rows.data(), squares);
}

void sum_of_squares_on_cuda(void* stream, std::int64_t count, const float* values,
                            double* squares) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  if (count == 0) return set_zero(squares, 1, cuda_stream, "sum_of_squares");
  const std::int64_t blocks = (count + kSquaresPerBlock - 1) / kSquaresPerBlock;
  StreamBuffer<double> parts(blocks, cuda_stream, "sum_of_squares");
  squares_of_blocks<<<grid_of(blocks, 1), kSquareThreads, 0, cuda_stream>>>(count, values,
                                                                            parts.data());
  check_launch("sum_of_squares");
  tree_sums_on_cuda(stream, blocks, 1, parts.data(), squares);
}

void row_squares_cuda(void* stream, std::int64_t rows, std::int64_t cols, const float* values,
                      double* sums) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  StreamBuffer<double> squares(rows, cuda_stream, "sum_of_squares");
  squares_of_rows<<<grid_of(rows, kRowsPerBlock), kThreads, 0, cuda_stream>>>(rows, cols, values,
                                                                              squares.data());
  check_launch("sum_of_squares");
  check_cuda(cudaMemcpyAsync(sums, squares.data(), rows * sizeof(double), cudaMemcpyDeviceToHost,
                             cuda_stream),
             "sum_of_squares");
  check_cuda(cudaStreamSynchronize(cuda_stream), "sum_of_squares");
}

}  // namespace thresher::kernels::detail
