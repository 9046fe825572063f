#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/experiment.h"

namespace thresher::cli {

/// One line of `thresher doctor`.
struct Check {
  enum class Status { kOk, kWarn, kFail } status = Status::kOk;
  std::string name;         // "memory"
  std::string value;        // what was found
  std::string advice = {};  // what to do; empty when all is well
};

const char* status_word(Check::Status status);  // "ok", "warn", "fail"

/// CPU, vector instructions, NUMA, memory, shared memory, limits, GPUs, NCCL, thread environment of
/// this process: from /proc, /sys, CUDA and the environment. `has_cuda` says whether this build has
/// CUDA kernels.
std::vector<Check> check_machine(bool has_cuda);

/// Memory that this process may still take: what is available, or less if a control group says so.
std::uint64_t usable_memory_bytes();

/// MPI, HDF5 and LibTorch: the versions compiled and loaded, and from where; other libraries that
/// come from unusual places.
std::vector<Check> check_libraries();

/// What harvest and training of the experiment will take on this host, against what there is. Where
/// there is no complete cache it loads text and model (or opens the rows) as a harvest does. Throws
/// what that throws. `ranks` in all, `ranks_on_host` of them here.
std::vector<Check> check_needs(Experiment experiment, int ranks, int ranks_on_host);

/// Whether the products of a training step have the same bits with all cores as with one.
Check check_thread_bits();

/// `folder`, or the nearest folder above it that exists.
std::filesystem::path nearest_folder(const std::filesystem::path& folder);

/// What caches and run directories need of the file system that holds `folder` (which need not
/// exist): kind, free space, and, tried out in a scratch folder that is removed again, writing,
/// renaming without replacing, fsync and locks. `name` says what the folder is for.
std::vector<Check> check_file_system(const std::string& name, const std::filesystem::path& folder);

/// MPI alone in a child process that may hang or die without harm. Call before anything has started
/// threads.
Check check_mpi_alone();

}  // namespace thresher::cli
