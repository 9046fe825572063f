#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/topk.h"

namespace thresher::kernels {

/// A copy of host memory on the device, for one call.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& host) : size_(host.size()) {
    if (size_ == 0) return;
    check(cudaMalloc(reinterpret_cast<void**>(&data_), size_ * sizeof(T)));
    check(cudaMemcpy(data_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  explicit OnDevice(std::int64_t size) : OnDevice(std::vector<T>(static_cast<std::size_t>(size))) {}
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice(OnDevice&& other) noexcept : data_(other.data_), size_(other.size_) {
    other.data_ = nullptr;
  }
  T* data() { return data_; }
  std::vector<T> to_host() const {
    std::vector<T> host(size_);
    check(cudaDeviceSynchronize());
    if (size_ > 0) check(cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }

 private:
  static void check(cudaError_t status) {
    if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
  }
  T* data_ = nullptr;
  std::size_t size_;
};

constexpr Exec kOnGpu{Device::kCuda, nullptr};

/// Why tests cannot run on a GPU here, or empty.
inline std::string why_no_gpu() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) return std::string("no usable GPU: ") + cudaGetErrorString(status);
  return devices == 0 ? "no GPU in this machine" : "";
}

}  // namespace thresher::kernels
