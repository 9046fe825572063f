#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace thresher::cli {

/// One line of `thresher doctor`.
struct Check {
  enum class Status { kOk, kWarn, kFail } status = Status::kOk;
  std::string name;         // "memory"
  std::string value;        // what was found
  std::string advice = {};  // what to do; empty when all is well
};

const char* status_word(Check::Status status);  // "ok", "warn", "fail"

/// CPU, vector instructions, NUMA, memory, limits, GPUs, NCCL, thread environment of this process:
/// from /proc, /sys, CUDA and the environment. `has_cuda` says whether this build has CUDA kernels.
std::vector<Check> check_machine(bool has_cuda);

/// Whether the products of a training step have the same bits with all cores as with one.
Check check_thread_bits();

/// What caches and run directories need of the file system that holds `folder` (which need not
/// exist): kind, free space, and, tried out in a scratch folder that is removed again, writing,
/// renaming without replacing, fsync and locks. `name` says what the folder is for.
std::vector<Check> check_file_system(const std::string& name, const std::filesystem::path& folder);

/// MPI alone in a child process that may hang or die without harm. Call before anything has started
/// threads.
Check check_mpi_alone();

}  // namespace thresher::cli
