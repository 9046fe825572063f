#include <string>

#include "comm/gpu.h"
#include "core/error.h"

// Stands in for gpu_cuda.cpp and nccl_communicator.cpp in a build without CUDA.

namespace thresher::comm {
namespace {

[[noreturn]] void refuse(const char* what) {
  throw DeviceError(std::string(what) + ": this build has no CUDA",
                    "a build configured with -DTHRESHER_CUDA=ON",
                    "reconfigure with -DTHRESHER_CUDA=ON (docs/gpu.md), or set run.device: cpu");
}

}  // namespace

bool has_cuda_build() { return false; }
std::vector<Gpu> list_gpus() { refuse("device cuda"); }
void select_gpu(int) { refuse("device cuda"); }
NcclVersions nccl_versions() { refuse("nccl"); }
std::unique_ptr<DeviceCollectives> make_nccl_collectives(Communicator&, double) { refuse("nccl"); }

namespace detail {

void copy_from_gpu(void*, const void*, void*, std::size_t) { refuse("all_reduce_sum"); }
void copy_to_gpu(void*, const void*, void*, std::size_t) { refuse("all_reduce_sum"); }
void wait_for_gpu(void*) { refuse("wait"); }

}  // namespace detail
}  // namespace thresher::comm
