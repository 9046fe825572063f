#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>
#include <string>

#include "core/error.h"

// For the *_cuda.cu files.

namespace thresher::kernels::detail {

inline void check_cuda(cudaError_t status, const char* kernel) {
  if (status == cudaSuccess) return;
  throw DeviceError(std::string(kernel) + ": CUDA says: " + cudaGetErrorString(status));
}

/// A launch only enqueues work; what it reports at once is a launch that was refused.
inline void check_launch(const char* kernel) { check_cuda(cudaGetLastError(), kernel); }

inline unsigned int grid_of(std::int64_t items, std::int64_t items_per_block) {
  return static_cast<unsigned int>((items + items_per_block - 1) / items_per_block);
}

template <class T>
void set_zero(T* values, std::int64_t count, cudaStream_t stream, const char* kernel) {
  check_cuda(cudaMemsetAsync(values, 0, count * sizeof(T), stream), kernel);
}

/// Lets the device's pool keep what StreamBuffer gives back: by default it returns all free memory
/// to the driver whenever the host waits for the device, and every step would allocate anew.
inline void keep_pool_memory(const char* kernel) {
  constexpr int kMostDevices = 64;
  static std::atomic<bool> is_done[kMostDevices];
  int device = 0;
  check_cuda(cudaGetDevice(&device), kernel);
  if (device >= kMostDevices || is_done[device].load(std::memory_order_relaxed)) return;
  cudaMemPool_t pool = nullptr;
  check_cuda(cudaDeviceGetDefaultMemPool(&pool, device), kernel);
  std::uint64_t all = ~std::uint64_t{0};
  check_cuda(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all), kernel);
  is_done[device].store(true, std::memory_order_relaxed);
}

/// Device memory that lives until the stream has passed the end of its scope.
template <class T>
class StreamBuffer {
 public:
  StreamBuffer(std::int64_t count, cudaStream_t stream, const char* kernel) : stream_(stream) {
    if (count > 0) {
      keep_pool_memory(kernel);
      check_cuda(cudaMallocAsync(reinterpret_cast<void**>(&data_), count * sizeof(T), stream),
                 kernel);
    }
  }
  ~StreamBuffer() {
    if (data_ != nullptr) cudaFreeAsync(data_, stream_);
  }
  StreamBuffer(const StreamBuffer&) = delete;
  StreamBuffer& operator=(const StreamBuffer&) = delete;
  T* data() { return data_; }

 private:
  T* data_ = nullptr;
  cudaStream_t stream_;
};

#ifdef __CUDACC__
/// A warp as a block of its own: its barrier orders memory among its 32 threads.
struct CudaWarp {
  __device__ std::uint32_t threads() const { return 32; }
  template <class F>
  __device__ void each(F f) {
    f(threadIdx.x % 32);
    __syncwarp();
  }
  __device__ std::uint32_t fetch_add(std::uint32_t* counter) { return atomicAdd(counter, 1U); }
};

/// The block of detail/device_code.h on the GPU.
struct CudaBlock {
  __device__ std::uint32_t threads() const { return blockDim.x; }
  template <class F>
  __device__ void each(F f) {
    f(threadIdx.x);
    __syncthreads();
  }
  /// The counts do not depend on who comes first, so results do not either.
  __device__ std::uint32_t fetch_add(std::uint32_t* counter) { return atomicAdd(counter, 1U); }
  __device__ void add(std::int64_t* counter, std::int64_t count) {
    atomicAdd(reinterpret_cast<unsigned long long*>(counter),
              static_cast<unsigned long long>(count));
  }
  template <class F>
  __device__ void each_warp(F f) {
    CudaWarp warp;
    f(warp, threadIdx.x / 32);
    __syncthreads();
  }
};
#endif

}  // namespace thresher::kernels::detail
