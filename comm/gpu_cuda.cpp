#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <array>

#include "comm/gpu.h"
#include "core/error.h"

namespace thresher::comm {
namespace {

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that was told is not told again by the next launch
  throw DeviceError(fmt::format("{}: CUDA says: {}", call, cudaGetErrorString(status)));
}

}  // namespace

bool has_cuda_build() { return true; }

std::vector<Gpu> list_gpus() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    cudaGetLastError();
    throw DeviceError(fmt::format("device cuda: no GPU can be used on this machine{}{}",
                                  status == cudaSuccess ? "" : ": CUDA says: ",
                                  status == cudaSuccess ? "" : cudaGetErrorString(status)),
                      "an NVIDIA GPU and its driver, visible to this process",
                      "look at nvidia-smi and CUDA_VISIBLE_DEVICES, or set run.device: cpu");
  }
  std::vector<Gpu> gpus;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    std::array<char, 32> bus{};
    check(cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), index),
          "cudaDeviceGetPCIBusId");
    gpus.push_back({properties.name, properties.totalGlobalMem, properties.major, properties.minor,
                    bus.data()});
  }
  return gpus;
}

void select_gpu(int index) { check(cudaSetDevice(index), "cudaSetDevice"); }

namespace detail {

void copy_from_gpu(void* stream, const void* device, void* host, std::size_t bytes) {
  const auto queue = static_cast<cudaStream_t>(stream);
  check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, queue), "copy from the GPU");
  wait_for_gpu(stream);
}

void copy_to_gpu(void* stream, const void* host, void* device, std::size_t bytes) {
  const auto queue = static_cast<cudaStream_t>(stream);
  check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, queue), "copy to the GPU");
  wait_for_gpu(stream);
}

void wait_for_gpu(void* stream) {
  check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "wait for the GPU");
}

}  // namespace detail
}  // namespace thresher::comm
