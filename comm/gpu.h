#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace thresher::comm {

/// A CUDA device that this process sees.
struct Gpu {
  std::string name;                // "NVIDIA H100 80GB HBM3"
  std::uint64_t memory_bytes = 0;  // in all
  int major = 0, minor = 0;        // compute capability
  std::string bus;                 // "0000:1b:00.0"
};

/// Whether the CUDA files and NCCL are linked in (THRESHER_CUDA=ON).
bool has_cuda_build();
/// The devices, in CUDA's order (CUDA_VISIBLE_DEVICES counts). DeviceError with what to do if this
/// build has no CUDA, the driver does not answer, or there is no device.
std::vector<Gpu> list_gpus();
/// The device of a rank: ranks of a host take its devices in turn.
int gpu_of(const HostPlace& place, std::size_t n_gpus);
/// Makes `index` the calling thread's device. DeviceError.
void select_gpu(int index);

/// "2.28.9": the NCCL whose header was compiled in, and the one loaded. DeviceError without CUDA.
struct NcclVersions {
  std::string compiled, loaded;
};
NcclVersions nccl_versions();

/// NCCL between the ranks of `comm`, on each rank's current device, with a stream of its own. The
/// ranks agree on it: CommError on all of them if it fails on one. Calls return at once; an error
/// that NCCL reports or a wait above `timeout_seconds` aborts NCCL's work on this rank and is a
/// CommError with the call, its number and the rank. Ranks that share a device cannot use it unless
/// NCCL_HOSTID tells them apart: NCCL says so. DeviceError if NCCL is not built in. Collective.
std::unique_ptr<DeviceCollectives> make_nccl_collectives(Communicator& comm,
                                                         double timeout_seconds);

namespace detail {

/// Copies that are complete on return; they wait for `stream` first. DeviceError.
void copy_from_gpu(void* stream, const void* device, void* host, std::size_t bytes);
void copy_to_gpu(void* stream, const void* host, void* device, std::size_t bytes);
void wait_for_gpu(void* stream);

}  // namespace detail
}  // namespace thresher::comm
