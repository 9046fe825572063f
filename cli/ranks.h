#pragma once

#include <exception>
#include <functional>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "core/device.h"
#include "core/error.h"

namespace thresher::cli {

/// What a person and a launcher are told about an exception.
struct Failure {
  ExitCode code = ExitCode::kInternal;
  std::string message;  // whole, "error: " not included
};
Failure describe_failure(const std::exception_ptr& error);
/// Prints "error: <message>" once to stderr ("stopped: ..." for StoppedBySignal), nothing without a
/// message.
void print_failure(const Failure& failure);

/// Called on a rank of several that fails, before it ends the job, and on rank 0 when all of them
/// stop, before any of them leaves.
using FailureHook = std::function<void(const Failure& failure, int rank, int world_size)>;

/// Runs `work` on every rank that `config` and the launcher ask for: this process alone, threads of
/// it, or the MPI world (comm::choose_backend). An error of one of several MPI ranks is printed and
/// ends all of them with its exit code, so that nobody waits for a dead rank; StoppedBySignal,
/// which all ranks throw together, passes through, with a message on rank 0 alone if there is a
/// hook.
///
/// With Device::kCuda every rank first takes its GPU, by its place on the host modulo the GPUs
/// there, and the ranks of a launcher sum through NCCL if each has a GPU of its own. DeviceError
/// without a GPU or without CUDA in this build; ConfigError where comm.backend: nccl cannot be.
void with_ranks(const comm::CommConfig& config, Device device,
                const std::function<void(comm::Communicator&)>& work,
                const FailureHook& on_failure = {});

/// What with_ranks does first with Device::kCuda: the rank's GPU, by its place on the host modulo
/// the GPUs there, becomes its thread's device. Returns whether some ranks share one. DeviceError
/// on all ranks. Collective.
bool take_gpu(comm::Communicator& comm);

/// Sets the threads that this rank's maths uses: `threads`, or the cores that the host's ranks may
/// use divided among them, or one for a rank that is itself a thread. Collective.
int set_threads(std::optional<std::int64_t> threads, comm::Communicator& comm);

/// Sets the threads of LibTorch and of our own kernels for the calling thread.
void apply_threads(int count);
int current_threads();

/// Uses `count` threads while it lives.
class ThreadsScope {
 public:
  explicit ThreadsScope(int count) : before_(current_threads()) { apply_threads(count); }
  ~ThreadsScope() { apply_threads(before_); }
  ThreadsScope(const ThreadsScope&) = delete;
  ThreadsScope& operator=(const ThreadsScope&) = delete;

 private:
  int before_;
};

}  // namespace thresher::cli
