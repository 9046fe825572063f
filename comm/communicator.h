#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/config.h"
#include "core/device.h"

namespace thresher::comm {

class FlightRecorder;

/// Values in the memory of a device, and the stream in whose order they are read and written: a
/// cudaStream_t on CUDA, ignored on the CPU, where `data` is host memory.
struct DeviceValues {
  enum class Type { kFloat32, kFloat64, kInt64 };
  void* data = nullptr;
  std::int64_t count = 0;
  Type type = Type::kFloat32;
  Device device = Device::kCpu;
  void* stream = nullptr;
};

/// How ranks add up what lies in their devices' memory (Communicator::all_reduce_sum_on_device).
class DeviceCollectives {
 public:
  virtual ~DeviceCollectives() = default;
  virtual std::string_view backend() const = 0;  // "nccl"
  virtual void all_reduce_sum(const DeviceValues& values, std::string_view what) = 0;
  virtual void wait(void* stream, std::string_view what) = 0;
};

/// The group of ranks that work on one job. Every call is collective: all ranks make the same calls
/// in the same order with the same sizes. Each call has a deadline; a rank that does not arrive
/// ends the job with CommError (exit 70) naming the call, its sequence number and the missing rank.
/// One object belongs to one thread.
///
/// Sums are deterministic: with a power-of-two number of ranks, `all_reduce_sum` adds along the
/// binary tree over ranks (rank XOR 1, XOR 2, XOR 4, ...), so that ranks which own contiguous
/// subtrees of a fixed set of lanes produce the bits of one rank that owns all lanes
/// (docs/determinism.md). With another number of ranks the values are gathered and added in the
/// same tree padded with nothing: right, but not lane-equivalent.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int world_size() const = 0;
  virtual std::string_view backend() const = 0;  // "self", "threads", "mpi", "nccl"
  bool is_root() const { return rank() == 0; }

  /// `what` names the call in error messages, e.g. "grad.W_dec". Buffers are host memory.
  void all_reduce_sum(std::span<float> values, std::string_view what);
  void all_reduce_sum(std::span<double> values, std::string_view what);
  void all_reduce_sum(std::span<std::int64_t> values, std::string_view what);
  void all_reduce_max(std::span<std::int64_t> values, std::string_view what);
  void all_reduce_min(std::span<std::int64_t> values, std::string_view what);
  /// The sum of values in device memory, complete in the order of their stream. Without collectives
  /// of the device's own the values go through host memory and along the tree above, and the call
  /// waits for the stream; with NCCL it only enqueues, nothing is said about the order of the sum,
  /// and a rank that is missing comes out in `wait_for_device`. DeviceError if the device is not
  /// built in.
  void all_reduce_sum_on_device(const DeviceValues& values, std::string_view what);
  /// Waits for everything enqueued in `stream`; nothing to do on the CPU. CommError if a sum of
  /// NCCL's failed or the wait is longer than the deadline.
  void wait_for_device(Device device, void* stream, std::string_view what);
  /// Calls are noted in `recorder` from here on, which outlives its use; nullptr: no longer.
  void use_recorder(FlightRecorder* recorder) { recorder_ = recorder; }
  /// Says what is known of a rank that did not arrive, for the error's line; empty: nothing.
  void use_witness(std::function<std::string(int rank)> witness) { witness_ = std::move(witness); }
  /// Time spent inside calls so far, waiting for others included.
  double seconds_in_calls() const { return seconds_in_calls_; }
  /// From here on sums in CUDA memory are made by `collectives`.
  void use_collectives(std::unique_ptr<DeviceCollectives> collectives);
  /// "rank 2 of 8 (host n1, pid 4711)"
  std::string identity() const;

  /// Every rank's bytes, in rank order; lengths may differ.
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine,
                                                 std::string_view what);
  /// Root's bytes to everyone; the others' argument is replaced.
  void broadcast(std::vector<std::byte>& bytes, int root, std::string_view what);
  void barrier(std::string_view what);

  /// Runs `work` and throws the same Error on every rank if it threw on any: the lowest failing
  /// rank's message and exit code, prefixed with its rank. Lets one rank's failure end all ranks in
  /// an orderly way. `work` must not communicate. In a world of one the exception passes through
  /// unchanged.
  void agree(const std::function<void()>& work, std::string_view what);

 protected:
  /// The call in progress, as errors describe it.
  struct Call {
    std::string operation;  // "all_reduce"
    std::uint64_t sequence = 0;
    std::string what;
    std::uint64_t bytes = 0;
  };

  /// The primitives a backend provides. `send_receive` exchanges equal or unequal byte counts with
  /// a peer, both directions at once; an empty span is a direction without a message, and both
  /// sides know which. It throws through `fail_timeout` when the peer does not take part in time.
  virtual void send_receive(int peer, std::span<const std::byte> send,
                            std::span<std::byte> receive) = 0;
  /// Called when a call begins, before anything is sent.
  virtual void enter(const Call& /*call*/) {}
  /// Ranks known not to have begun the call in progress; empty if the backend cannot tell.
  virtual std::vector<int> missing_ranks() { return {}; }

  const Call& call() const { return call_; }
  [[noreturn]] void fail_timeout(int peer, double waited_seconds);
  const DeviceCollectives* collectives() const { return collectives_.get(); }

 private:
  bool begin(std::string_view operation, std::string_view what, std::uint64_t bytes,
             std::int64_t argument);
  void end();
  void handshake(std::int64_t argument);
  void compare_call(int peer, std::int64_t argument);
  void broadcast_bytes(std::vector<std::byte>& bytes, int root);
  template <class T, class Combine>
  void all_reduce(std::span<T> values, std::string_view operation, std::string_view what,
                  Combine combine);
  template <class T, class Combine>
  void reduce_pairwise(std::span<T> values, Combine combine);
  template <class T, class Combine>
  void reduce_at_root(std::span<T> values, Combine combine);

  Call call_;
  std::uint64_t sequence_ = 0;
  FlightRecorder* recorder_ = nullptr;
  std::function<std::string(int)> witness_;
  std::chrono::steady_clock::time_point begun_at_;
  double seconds_in_calls_ = 0;
  bool is_unusable_ = false;                        // a call was left by an error
  std::unique_ptr<DeviceCollectives> collectives_;  // none: through host memory
};

/// Section `comm` of an experiment.
struct CommConfig {
  std::string backend = "auto";  // auto | self | threads | mpi | nccl
  std::int64_t ranks = 1;        // of the threads backend
  double timeout_seconds = 60;
  void declare(FieldVisitor& fields);
};

/// World of one.
std::unique_ptr<Communicator> make_self_communicator();

/// Runs `work(rank's communicator)` on `ranks` threads of this process and rethrows the first error
/// (lowest rank). A rank that throws wakes the others with CommError.
void run_thread_ranks(int ranks, double timeout_seconds,
                      const std::function<void(Communicator&)>& work);

enum class Backend { kSelf, kThreads, kMpi, kNccl };
/// What `config` means for work on `device`: auto is nccl (on CUDA) or mpi under mpirun or srun,
/// threads if comm.ranks exceeds 1, else self. kNccl stands for mpi too where one rank is alone.
/// ConfigError where nccl is asked for and cannot be: on the CPU, or without a launcher.
Backend choose_backend(const CommConfig& config, Device device, bool is_launched);

/// True when the process was started by mpirun or srun (looks at OMPI_COMM_WORLD_SIZE, PMI_SIZE,
/// PMIX_RANK, SLURM_STEP_NUM_TASKS only together with a PMI variable).
bool is_launched_by_mpi();

/// MPI_Init_thread(MPI_THREAD_MULTIPLE) on construction, MPI_Finalize on destruction; at most one a
/// process. `abort` ends all ranks with `code` (MPI_Abort) and is safe from any thread.
class MpiEnvironment {
 public:
  MpiEnvironment();
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  [[noreturn]] static void abort(int code);

 private:
  int uncaught_exceptions_;  // when it was made: an error on the way out must not wait in
                             // MPI_Finalize
};
/// "Open MPI v4.1.4": the library in use, the first words of what it says of itself.
std::string mpi_library_version();
/// A duplicate of MPI_COMM_WORLD. Needs a living MpiEnvironment.
std::unique_ptr<Communicator> make_mpi_communicator(double timeout_seconds);

/// Ranks of this communicator on this host and this rank's place among them (by host name).
struct HostPlace {
  int ranks_on_host = 1;
  int rank_on_host = 0;
};
HostPlace place_on_host(Communicator& comm);

}  // namespace thresher::comm
