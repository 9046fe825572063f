#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <nccl.h>
#include <sched.h>

#include <chrono>
#include <cstring>
#include <exception>
#include <thread>
#include <utility>

#include "comm/gpu.h"
#include "core/error.h"

namespace thresher::comm {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void check_cuda(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw DeviceError(fmt::format("{}: CUDA says: {}", call, cudaGetErrorString(status)));
}

std::string version_text(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

ncclDataType_t type_of(DeviceValues::Type type) {
  switch (type) {
    case DeviceValues::Type::kFloat32:
      return ncclFloat32;
    case DeviceValues::Type::kFloat64:
      return ncclFloat64;
    case DeviceValues::Type::kInt64:
      return ncclInt64;
  }
  THRESHER_CHECK(false, "values of an unknown type");
}

/// Orders one stream after what another has been given so far.
class Event {
 public:
  Event() { check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEvent"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void order(cudaStream_t first, cudaStream_t second) {
    record(first);
    check_cuda(cudaStreamWaitEvent(second, event_, 0), "cudaStreamWaitEvent");
  }
  void record(cudaStream_t stream) {
    check_cuda(cudaEventRecord(event_, stream), "cudaEventRecord");
  }
  bool has_passed() {
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) return false;
    check_cuda(status, "waiting for the GPU");
    return true;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class NcclCollectives final : public DeviceCollectives {
 public:
  NcclCollectives(const ncclUniqueId& id, const Communicator& comm, double timeout_seconds)
      : timeout_seconds_(timeout_seconds), identity_(comm.identity()) {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    call_ = "ncclCommInitRank";
    accept(ncclCommInitRankConfig(&nccl_, comm.world_size(), id, comm.rank(), &config));
  }

  ~NcclCollectives() override {
    if (nccl_ != nullptr) {
      // On the way out of an error the other ranks may never come to say goodbye.
      if (std::uncaught_exceptions() > 0 || !finalise()) {
        ncclCommAbort(nccl_);
      } else {
        ncclCommDestroy(nccl_);
      }
    }
    cudaStreamDestroy(stream_);
  }

  std::string_view backend() const override { return "nccl"; }

  void all_reduce_sum(const DeviceValues& values, std::string_view what) override {
    begin("all_reduce", what);
    const auto queue = static_cast<cudaStream_t>(values.stream);
    ready_.order(queue, stream_);
    accept(ncclAllReduce(values.data, values.data, static_cast<std::size_t>(values.count),
                         type_of(values.type), ncclSum, nccl_, stream_));
    done_.order(stream_, queue);
  }

  void wait(void* stream, std::string_view what) override {
    if (nccl_ == nullptr) fail_unusable(what);
    Event end;
    end.record(static_cast<cudaStream_t>(stream));
    const auto start = Clock::now();
    while (!end.has_passed()) {
      const ncclResult_t state = state_now();
      if (state != ncclSuccess && state != ncclInProgress) fail(state);
      pause(start);
      if (seconds_since(start) > timeout_seconds_) fail_late(start, what);
    }
  }

 private:
  void begin(std::string_view operation, std::string_view what) {
    if (nccl_ == nullptr) fail_unusable(what);
    call_ = fmt::format("nccl {} #{} {}", operation, sequence_++, what);
  }

  ncclResult_t state_now() {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t status = ncclCommGetAsyncError(nccl_, &state);
    return status == ncclSuccess ? state : status;
  }

  /// A call in non-blocking mode may go on in a thread of NCCL's; the next one has to wait for it.
  void accept(ncclResult_t status) {
    const auto start = Clock::now();
    while (status == ncclInProgress) {
      if (seconds_since(start) > timeout_seconds_) fail_late(start, "the call itself");
      pause(start);
      status = state_now();
    }
    if (status != ncclSuccess) fail(status);
  }

  /// Steps are short: the processor is given away at first, and only then the thread sleeps.
  static void pause(Clock::time_point start) {
    if (seconds_since(start) < 0.05) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

  bool finalise() {
    ncclResult_t status = ncclCommFinalize(nccl_);
    const auto start = Clock::now();
    while (status == ncclInProgress && seconds_since(start) < timeout_seconds_) {
      pause(start);
      status = state_now();
    }
    return status == ncclSuccess;
  }

  /// Kernels of a collective that will never complete keep the device busy until they are aborted.
  void abort() {
    if (nccl_ != nullptr) ncclCommAbort(std::exchange(nccl_, nullptr));
  }

  [[noreturn]] void fail(ncclResult_t status) {
    const char* detail = nccl_ == nullptr ? nullptr : ncclGetLastError(nccl_);
    const std::string problem = fmt::format(
        "{} in {}: NCCL says: {}{}{}", identity_, call_, ncclGetErrorString(status),
        detail == nullptr || *detail == '\0' ? "" : ": ", detail == nullptr ? "" : detail);
    abort();
    throw CommError(problem, "every rank in the same call, each on a GPU of its own",
                    "NCCL_DEBUG=INFO tells more; comm.backend: mpi works without NCCL");
  }

  [[noreturn]] void fail_late(Clock::time_point start, std::string_view what) {
    const double waited = seconds_since(start);
    abort();
    throw CommError(fmt::format("{} waited {:.1f} s for {}; the last collective was {}", identity_,
                                waited, what, call_),
                    "every rank in the same call within comm.timeout_seconds",
                    "look for another rank's last message; it may have crashed or hung");
  }

  [[noreturn]] void fail_unusable(std::string_view what) {
    throw CommError(fmt::format("{} entered nccl {} after {} had failed", identity_, what, call_));
  }

  double timeout_seconds_;
  std::string identity_;
  cudaStream_t stream_ = nullptr;
  ncclComm_t nccl_ = nullptr;  // nullptr once it was aborted
  Event ready_, done_;
  std::string call_;
  std::uint64_t sequence_ = 0;
};

}  // namespace

NcclVersions nccl_versions() {
  int loaded = 0;
  if (ncclGetVersion(&loaded) != ncclSuccess) throw DeviceError("NCCL does not tell its version");
  return {version_text(NCCL_VERSION_CODE), version_text(loaded)};
}

std::unique_ptr<DeviceCollectives> make_nccl_collectives(Communicator& comm,
                                                         double timeout_seconds) {
  ncclUniqueId id{};
  std::vector<std::byte> bytes(sizeof(id));
  comm.agree(
      [&] {
        if (!comm.is_root()) return;
        const ncclResult_t status = ncclGetUniqueId(&id);
        if (status == ncclSuccess) return;
        throw CommError(fmt::format("ncclGetUniqueId: NCCL says: {}", ncclGetErrorString(status)));
      },
      "nccl.id");
  std::memcpy(bytes.data(), &id, sizeof(id));
  comm.broadcast(bytes, 0, "nccl.id");
  std::memcpy(&id, bytes.data(), sizeof(id));
  std::unique_ptr<DeviceCollectives> collectives;
  comm.agree([&] { collectives = std::make_unique<NcclCollectives>(id, comm, timeout_seconds); },
             "nccl.init");
  return collectives;
}

}  // namespace thresher::comm
