#include "cli/ranks.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <set>
#include <thread>

#include "comm/gpu.h"
#include "core/console.h"
#include "core/log.h"
#include "core/stop_signal.h"
#include "core/system_error.h"
#include "kernels/parallel.h"

namespace thresher::cli {

Failure describe_failure(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& known) {
    return {known.code(), known.what()};
  } catch (const c10::Error& torch) {
    const std::string text = torch.what_without_backtrace();
    if (text.find("allocate memory") != std::string::npos ||
        text.find("out of memory") != std::string::npos) {
      return {ExitCode::kInternal,
              fmt::format("out of memory: {}\n  hint: fewer ranks on this host, a smaller "
                          "train.batch_tokens or fewer latents need less",
                          text.substr(0, text.find('\n')))};
    }
    return {ExitCode::kInternal, fmt::format("in LibTorch: {}\n  hint: this is a bug in Thresher, "
                                             "please report it with these lines",
                                             text)};
  } catch (const std::bad_alloc&) {
    return {ExitCode::kInternal,
            "out of memory\n  hint: fewer ranks on this host or a smaller configuration need less"};
  } catch (const std::exception& unknown) {
    return {ExitCode::kInternal,
            fmt::format("{}\n  hint: this is a bug in Thresher, please report it with this line",
                        unknown.what())};
  }
}

void print_failure(const Failure& failure) {
  if (failure.message.empty()) return;
  const bool is_stop = failure.code == ExitCode::kStopped;
  console_print(fmt::format("{}: {}\n", is_stop ? "stopped" : "error", failure.message));
}

namespace {

/// Several ranks often fail together, one because of another. Rank 0 speaks at once; the others
/// wait for it, and then one after the other. False when the launcher ended the job meanwhile: a
/// lower rank has said why.
bool have_lower_ranks_kept_silent(int rank) {
  const bool was_stopping = stop_requested();
  for (int i = 0; i < 100 + 25 * (rank - 1); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (!was_stopping && stop_requested()) return false;
  }
  return true;
}

/// A launcher ends what is left of a job as soon as one rank has ended with 75: nobody may, before
/// rank 0 has told how the job ended. Returns whether this rank has nothing to add.
bool tell_the_stop(comm::Communicator& comm, const Failure& stop, const FailureHook& on_failure) {
  if (comm.is_root()) on_failure(stop, comm.rank(), comm.world_size());
  try {
    comm.barrier("stop.told");
    return !comm.is_root();
  } catch (const Error& error) {
    log_debug(std::string("stopped without the other ranks: ") + error.what());
    return false;
  }
}

/// NCCL wants a device for each rank, or NCCL_HOSTID to believe it.
void start_nccl(const comm::CommConfig& config, bool is_shared, comm::Communicator& comm) {
  if (comm.world_size() == 1) return;
  if (is_shared && std::getenv("NCCL_HOSTID") == nullptr) {
    if (config.backend == "nccl") {
      throw ConfigError("comm.backend = nccl: more ranks than GPUs on a host",
                        "one GPU for each rank, as NCCL demands",
                        "start fewer ranks, or set comm.backend: mpi");
    }
    if (comm.is_root()) {
      log_warning("ranks share GPUs, which NCCL does not allow: sums go through host memory");
    }
    return;
  }
  comm.use_collectives(comm::make_nccl_collectives(comm, config.timeout_seconds));
}

void run_mpi(const comm::CommConfig& config, Device device, bool wants_nccl,
             const std::function<void(comm::Communicator&)>& work, const FailureHook& on_failure) {
  const comm::MpiEnvironment environment;
  const std::unique_ptr<comm::Communicator> comm =
      comm::make_mpi_communicator(config.timeout_seconds);
  set_log_rank(comm->rank(), comm->world_size());
  if (comm->is_root() && config.ranks > 1 && config.ranks != comm->world_size()) {
    log_warning(fmt::format("comm.ranks = {} is ignored: the launcher started {} ranks",
                            config.ranks, comm->world_size()));
  }
  try {
    if (device == Device::kCuda) {
      const bool is_shared = take_gpu(*comm);
      if (wants_nccl) start_nccl(config, is_shared, *comm);
    }
    work(*comm);
  } catch (const StoppedBySignal&) {
    if (on_failure && comm->world_size() > 1 &&
        tell_the_stop(*comm, describe_failure(std::current_exception()), on_failure)) {
      throw StoppedBySignal("");
    }
    throw;
  } catch (...) {
    if (comm->world_size() == 1) throw;
    Failure failure = describe_failure(std::current_exception());
    if (!comm->is_root()) {
      if (!have_lower_ranks_kept_silent(comm->rank()))
        comm::MpiEnvironment::abort(static_cast<int>(failure.code));
      if (failure.message.rfind("rank ", 0) != 0) {
        failure.message = fmt::format("rank {}: {}", comm->rank(), failure.message);
      }
    }
    if (on_failure) on_failure(failure, comm->rank(), comm->world_size());
    print_failure(failure);
    comm::MpiEnvironment::abort(static_cast<int>(failure.code));
  }
}

struct HostCores {
  std::array<char, 256> host{};
  cpu_set_t cores{};
};

HostCores this_rank_cores() {
  HostCores mine;
  const std::string name = host_name();
  std::memcpy(mine.host.data(), name.data(), std::min(name.size(), mine.host.size() - 1));
  CPU_ZERO(&mine.cores);
  if (sched_getaffinity(0, sizeof(mine.cores), &mine.cores) != 0) CPU_SET(0, &mine.cores);
  return mine;
}

/// The launcher may have bound each rank to its own cores or left all to everyone: a rank gets an
/// equal share of the cores that the host's ranks may use together, within its own.
int automatic_threads(comm::Communicator& comm) {
  const HostCores mine = this_rank_cores();
  const auto everyone = comm.all_gather(std::as_bytes(std::span(&mine, 1)), "cores of each rank");
  HostCores together = mine;
  int ranks_on_host = 0;
  for (const std::vector<std::byte>& bytes : everyone) {
    HostCores other;
    THRESHER_CHECK(bytes.size() == sizeof(other), "a rank sent another size");
    std::memcpy(&other, bytes.data(), sizeof(other));
    if (other.host != mine.host) continue;
    ++ranks_on_host;
    CPU_OR(&together.cores, &together.cores, &other.cores);
  }
  const int share = CPU_COUNT(&together.cores) / ranks_on_host;
  return std::max(1, std::min(share, CPU_COUNT(&mine.cores)));
}

}  // namespace

bool take_gpu(comm::Communicator& comm) {
  const comm::HostPlace place = comm::place_on_host(comm);
  std::string device;  // one in all the world
  comm.agree(
      [&] {
        const std::vector<comm::Gpu> gpus = comm::list_gpus();
        const int index = comm::gpu_of(place, gpus.size());
        const comm::Gpu& gpu = gpus[static_cast<std::size_t>(index)];
        comm::select_gpu(index);
        device = host_name() + " " + gpu.bus;
        if (comm.is_root()) {
          log_info(fmt::format("GPU {} of {}: {}", index, gpus.size(), gpu.name));
        }
      },
      "take the GPU");
  const auto everyone = comm.all_gather(std::as_bytes(std::span(device)), "GPUs of the ranks");
  std::set<std::string> different;
  for (const std::vector<std::byte>& bytes : everyone) {
    different.emplace(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return different.size() < everyone.size();
}

void with_ranks(const comm::CommConfig& config, Device device,
                const std::function<void(comm::Communicator&)>& work,
                const FailureHook& on_failure) {
  const auto on_device = [&](comm::Communicator& comm) {
    if (device == Device::kCuda) take_gpu(comm);
    work(comm);
  };
  const comm::Backend backend = comm::choose_backend(config, device, comm::is_launched_by_mpi());
  switch (backend) {
    case comm::Backend::kMpi:
    case comm::Backend::kNccl:
      return run_mpi(config, device, backend == comm::Backend::kNccl, work, on_failure);
    case comm::Backend::kThreads:
      return comm::run_thread_ranks(static_cast<int>(config.ranks), config.timeout_seconds,
                                    on_device);
    case comm::Backend::kSelf:
      return on_device(*comm::make_self_communicator());
  }
}

int set_threads(std::optional<std::int64_t> threads, comm::Communicator& comm) {
  int count = 1;
  if (threads) {
    count = static_cast<int>(*threads);
  } else if (comm.backend() != "threads") {
    count = automatic_threads(comm);
  }
  apply_threads(count);
  return count;
}

void apply_threads(int count) {
  at::set_num_threads(count);
  kernels::set_num_threads(count);
}

int current_threads() { return at::get_num_threads(); }

}  // namespace thresher::cli
