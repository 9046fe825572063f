#pragma once

#include <cstdint>

#include "kernels/detail/cuda_support.h"
#include "kernels/detail/encode_tile_device.h"

namespace thresher::kernels::detail {

/// The operands of a block, and whether all their rows can be read 16 bytes at a time.
template <class T>
struct EncodeInputs {
  const T* x;
  const T* W_enc;
  std::int64_t rows, d, n_latents;
  bool is_aligned;
};

/// The sums of TensorTile on tensor cores. The loads of all the block's tiles are one pipeline of
/// kStages stages: those of the next tile run while this one's sums are compared.
class TensorProduct : public TensorTile {
 public:
  /// `stages` [kStages * kStageChunks], 128-byte aligned shared memory.
  __device__ TensorProduct(const EncodeInputs<std::uint16_t>& in, const EncodePlace& place,
                           uint4* stages)
      : in_(in), place_(place), stages_(stages), load_latent_(place.first_latent) {
    for (std::uint32_t i = 0; i + 1 < kStages; ++i) load_next();
  }

  __device__ float sum(std::uint32_t, std::uint32_t i, std::uint32_t j) const {
    return sums_[i / 2][j / 2][i % 2 * 2 + j % 2];
  }

  __device__ void run(CudaBlock&, std::int64_t) {
#pragma unroll
    for (std::uint32_t i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (std::uint32_t j = 0; j < kColTiles; ++j) {
#pragma unroll
        for (std::uint32_t e = 0; e < 4; ++e) sums_[i][j][e] = 0.0f;
      }
    }
    for (std::int64_t depth = 0; depth < in_.d; depth += kDepth) {
      // All but the youngest group of copies of this thread are there, then of all threads; and
      // every thread is done with the stage that is filled next.
      asm volatile("cp.async.wait_group %0;\n" ::"n"(kStages - 2) : "memory");
      __syncthreads();
      load_next();
      multiply(stages_ + stage_ * kStageChunks);
      stage_ = stage_ + 1 == kStages ? 0 : stage_ + 1;
    }
  }

 private:
  /// Copies the next stage, if there is one, and closes a group of copies in any case.
  __device__ void load_next() {
    if (load_latent_ < place_.end_latent) {
      uint4* to = stages_ + load_stage_ * kStageChunks;
      const std::uint32_t chunk = copy_chunk(threadIdx.x);
      const std::int64_t left = in_.d - (load_depth_ + chunk * kChunk);
#pragma unroll
      for (std::uint32_t i = 0; i < kCopies; ++i) {
        const std::uint32_t row = copy_row(threadIdx.x, i);
        const bool is_x = row < kEncodeRows;
        const std::int64_t from =
            is_x ? place_.first_row + row : load_latent_ + (row - kEncodeRows);
        const bool is_there = left > 0 && from < (is_x ? in_.rows : in_.n_latents);
        const std::uint16_t* base = is_x ? in_.x : in_.W_enc;
        const std::uint16_t* source =
            is_there ? base + from * in_.d + (load_depth_ + chunk * kChunk) : base;
        copy(to + place(row, chunk), source, is_there ? left : 0);
      }
      load_depth_ += kDepth;
      if (load_depth_ >= in_.d) {
        load_depth_ = 0;
        load_latent_ += kCols;
      }
      load_stage_ = load_stage_ + 1 == kStages ? 0 : load_stage_ + 1;
    }
    asm volatile("cp.async.commit_group;\n" ::: "memory");
  }

  /// One chunk of which `left` elements exist; the rest become zero.
  __device__ void copy(uint4* to, const std::uint16_t* from, std::int64_t left) const {
    if (in_.is_aligned) {  // d is a multiple of a chunk: all or nothing
      const int bytes = left > 0 ? 16 : 0;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)),
                   "l"(from), "r"(bytes)
                   : "memory");
      return;
    }
    std::uint32_t words[4];
#pragma unroll
    for (std::uint32_t w = 0; w < 4; ++w) {
      const std::uint32_t low = 2 * w < left ? from[2 * w] : 0U;
      const std::uint32_t high = 2 * w + 1 < left ? from[2 * w + 1] : 0U;
      words[w] = low | high << 16;
    }
    *to = make_uint4(words[0], words[1], words[2], words[3]);
  }

  /// The fragments of the next step are on their way while this one's are multiplied.
  __device__ void multiply(const uint4* stage) {
    std::uint32_t x[2][kRowTiles][4], W[2][kColTiles / 2][4];
    load_fragments(stage, 0, x[0], W[0]);
#pragma unroll
    for (std::uint32_t step = 0; step < kSteps; ++step) {
      const std::uint32_t now = step % 2;
      if (step + 1 < kSteps) load_fragments(stage, step + 1, x[1 - now], W[1 - now]);
#pragma unroll
      for (std::uint32_t i = 0; i < kRowTiles; ++i) {
#pragma unroll
        for (std::uint32_t j = 0; j < kColTiles; ++j) {
          add_product(sums_[i][j], x[now][i], W[now][j / 2] + j % 2 * 2);
        }
      }
    }
  }

  __device__ static void load_fragments(const uint4* stage, std::uint32_t step,
                                        std::uint32_t (&x)[kRowTiles][4],
                                        std::uint32_t (&W)[kColTiles / 2][4]) {
#pragma unroll
    for (std::uint32_t i = 0; i < kRowTiles; ++i) {
      load_matrices(x[i], stage + x_place(threadIdx.x, i, step));
    }
#pragma unroll
    for (std::uint32_t j = 0; j < kColTiles / 2; ++j) {
      load_matrices(W[j], stage + W_place(threadIdx.x, j, step));
    }
  }

  __device__ static void add_product(float (&sums)[4], const std::uint32_t (&x)[4],
                                     const std::uint32_t* W) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(W[0]), "r"(W[1]));
  }

  __device__ static void load_matrices(std::uint32_t (&registers)[4], const uint4* chunk) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(shared_address(chunk))
                 : "memory");
  }

  __device__ static std::uint32_t shared_address(const void* pointer) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
  }

  EncodeInputs<std::uint16_t> in_;
  EncodePlace place_;
  uint4* stages_;
  std::int64_t load_latent_;
  std::int64_t load_depth_ = 0;
  std::uint32_t stage_ = 0, load_stage_ = 0;
  float sums_[kRowTiles][kColTiles][4];
};

/// The sums of FusedTile: fused multiply-adds in the order of d.
class FusedProduct : public FusedTile {
 public:
  /// `stages` [2 * kStageFloats], 16-byte aligned shared memory.
  __device__ FusedProduct(const EncodeInputs<float>& in, const EncodePlace& place, float* stages)
      : in_(in), place_(place), stages_(stages) {}

  __device__ float sum(std::uint32_t, std::uint32_t i, std::uint32_t j) const {
    return sums_[i][j];
  }

  __device__ void run(CudaBlock&, std::int64_t first_latent) {
#pragma unroll
    for (std::uint32_t i = 0; i < kThreadRows; ++i) {
#pragma unroll
      for (std::uint32_t j = 0; j < kThreadCols; ++j) sums_[i][j] = 0.0f;
    }
    float4 ahead[kCopies];
    read(first_latent, 0, ahead);
    std::uint32_t stage = 0;
    for (std::int64_t depth = 0; depth < in_.d; depth += kDepth) {
      // Two stages and one barrier a round: who writes a stage has passed the barrier behind which
      // nobody reads it any more.
      write(stages_ + stage * kStageFloats, ahead);
      __syncthreads();
      if (depth + kDepth < in_.d) read(first_latent, depth + kDepth, ahead);
      const std::int64_t left = in_.d - depth;
      multiply(stages_ + stage * kStageFloats, left < kDepth ? left : kDepth);
      stage ^= 1U;
    }
    __syncthreads();  // the next tile begins with stage 0 again
  }

 private:
  __device__ void read(std::int64_t first_latent, std::int64_t depth, float4 (&ahead)[kCopies]) {
    const std::int64_t element = depth + copy_quad(threadIdx.x) * 4;
    const std::int64_t left = in_.d - element;
#pragma unroll
    for (std::uint32_t i = 0; i < kCopies; ++i) {
      const std::uint32_t row = copy_row(threadIdx.x, i);
      const bool is_x = row < kEncodeRows;
      const std::int64_t from = is_x ? place_.first_row + row : first_latent + (row - kEncodeRows);
      ahead[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (left <= 0 || from >= (is_x ? in_.rows : in_.n_latents)) continue;
      const float* source = (is_x ? in_.x : in_.W_enc) + from * in_.d + element;
      if (in_.is_aligned) {  // d is a multiple of 4
        ahead[i] = *reinterpret_cast<const float4*>(source);
      } else {
        ahead[i].x = source[0];
        if (left > 1) ahead[i].y = source[1];
        if (left > 2) ahead[i].z = source[2];
        if (left > 3) ahead[i].w = source[3];
      }
    }
  }

  __device__ void write(float* stage, const float4 (&ahead)[kCopies]) {
    const std::uint32_t element = copy_quad(threadIdx.x) * 4;
#pragma unroll
    for (std::uint32_t i = 0; i < kCopies; ++i) {
      const std::uint32_t row = copy_row(threadIdx.x, i);
      stage[place(row, element)] = ahead[i].x;
      stage[place(row, element + 1)] = ahead[i].y;
      stage[place(row, element + 2)] = ahead[i].z;
      stage[place(row, element + 3)] = ahead[i].w;
    }
  }

  /// Only elements that exist: 0 * infinity would be NaN, and 0 + -0 would lose a sign.
  __device__ void multiply(const float* stage, std::int64_t count) {
#pragma unroll 2
    for (std::uint32_t element = 0; element < count; ++element) {
      float x[kThreadRows], W[kThreadCols];
#pragma unroll
      for (std::uint32_t half = 0; half < 2; ++half) {
        get(x + 4 * half, stage + place(row(threadIdx.x, 4 * half), element));
        get(W + 4 * half, stage + place(kEncodeRows + col(threadIdx.x, 4 * half), element));
      }
#pragma unroll
      for (std::uint32_t i = 0; i < kThreadRows; ++i) {
#pragma unroll
        for (std::uint32_t j = 0; j < kThreadCols; ++j) {
          sums_[i][j] = fmaf(x[i], W[j], sums_[i][j]);
        }
      }
    }
  }

  __device__ static void get(float* to, const float* from) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    to[0] = four.x;
    to[1] = four.y;
    to[2] = four.z;
    to[3] = four.w;
  }

  EncodeInputs<float> in_;
  EncodePlace place_;
  float* stages_;
  float sums_[kThreadRows][kThreadCols];
};

}  // namespace thresher::kernels::detail
