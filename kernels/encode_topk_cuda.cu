#include "kernels/detail/backends.h"
#include "kernels/detail/cuda_support.h"
#include "kernels/detail/encode_plan.h"
#include "kernels/detail/encode_tensor_cuda.h"
#include "kernels/detail/encode_topk_device.h"

namespace thresher::kernels::detail {
namespace {

constexpr const char* kName = "encode_topk";
constexpr int kFinishThreads = 128;
constexpr std::uint32_t kSharedEntries = 4096;  // 32 KiB

constexpr std::size_t kTensorBytes =
    std::size_t{TensorTile::kStages} * TensorTile::kStageChunks * sizeof(uint4);
constexpr std::size_t kFusedBytes = std::size_t{2} * FusedTile::kStageFloats * sizeof(float);

__global__ void __launch_bounds__(kEncodeThreads, 1)
    encode_tensor(EncodeTask task, EncodeInputs<std::uint16_t> in) {
  __shared__ EncodeState state;
  extern __shared__ __align__(128) unsigned char stages[];
  CudaBlock block;
  const EncodePlace place = EncodePlace::of_block(task, blockIdx.x);
  TensorProduct product(in, place, reinterpret_cast<uint4*>(stages));
  encode_block(block, task, place, product, &state);
}

__global__ void __launch_bounds__(kEncodeThreads, 2)
    encode_fused(EncodeTask task, EncodeInputs<float> in) {
  __shared__ EncodeState state;
  extern __shared__ __align__(128) unsigned char stages[];
  CudaBlock block;
  const EncodePlace place = EncodePlace::of_block(task, blockIdx.x);
  FusedProduct product(in, place, reinterpret_cast<float*>(stages));
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

/// What the two operand types differ in.
struct TensorEncoder {
  using Element = std::uint16_t;
  using Tile = TensorTile;
  static constexpr auto kernel = &encode_tensor;
  static constexpr std::size_t kBytes = kTensorBytes;
};
struct FusedEncoder {
  using Element = float;
  using Tile = FusedTile;
  static constexpr auto kernel = &encode_fused;
  static constexpr std::size_t kBytes = kFusedBytes;
};

/// How many blocks of a kernel the device holds at a time. Allows it its shared memory.
template <class Encoder>
std::int64_t resident_blocks() {
  int device = 0, multiprocessors = 0, blocks = 0;
  check_cuda(cudaGetDevice(&device), kName);
  check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
             kName);
  check_cuda(cudaFuncSetAttribute(Encoder::kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(Encoder::kBytes)),
             kName);
  check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, Encoder::kernel, kEncodeThreads,
                                                           Encoder::kBytes),
             kName);
  return std::int64_t{multiprocessors} * std::max(blocks, 1);
}

template <class T>
bool is_aligned(const EncoderOperands& operands) {
  const auto address = reinterpret_cast<std::uintptr_t>(operands.x) |
                       reinterpret_cast<std::uintptr_t>(operands.W_enc);
  return address % 16 == 0 && operands.d * sizeof(T) % 16 == 0;
}

template <class Encoder>
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
  using T = typename Encoder::Element;
  const EncodeInputs<T> in{static_cast<const T*>(operands.x) + first_row * operands.d,
                           static_cast<const T*>(operands.W_enc),
                           rows,
                           operands.d,
                           operands.n_latents,
                           is_aligned<T>(operands)};
  Encoder::kernel<<<grid_of(blocks, 1), kEncodeThreads, Encoder::kBytes, stream>>>(task, in);
  check_launch(kName);
  finish(stream, of_main.lists, rows, plan.splits, main.values + first_row * main.k,
         main.indices + first_row * main.k);
  if (masked == nullptr) return;
  finish(stream, of_masked.lists, rows, plan.splits, masked->values + first_row * masked->k,
         masked->indices + first_row * masked->k);
}

template <class Encoder>
void encode(cudaStream_t stream, const EncoderOperands& operands, const TopKSlots& main,
            const std::uint8_t* mask, const TopKSlots* masked, std::int64_t* not_numbers) {
  const EncodePlan plan =
      plan_encode(operands.rows, operands.n_latents, main.k, masked != nullptr ? masked->k : 0,
                  Encoder::Tile::kCols, resident_blocks<Encoder>());
  for (std::int64_t first = 0; first < operands.rows; first += plan.rows) {
    const std::int64_t rows = std::min(plan.rows, operands.rows - first);
    encode_rows<Encoder>(stream, operands, plan, first, rows, main, mask, masked, not_numbers);
  }
}

}  // namespace

void encode_topk_cuda(void* stream, const EncoderOperands& operands, const TopKSlots& main,
                      const std::uint8_t* mask, const TopKSlots* masked,
                      std::int64_t* not_numbers) {
  const auto run =
      operands.type == OperandType::kFloat32 ? encode<FusedEncoder> : encode<TensorEncoder>;
  run(static_cast<cudaStream_t>(stream), operands, main, mask, masked, not_numbers);
}

}  // namespace thresher::kernels::detail
