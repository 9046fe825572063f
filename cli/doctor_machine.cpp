#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>

#include "cli/doctor.h"
#include "comm/gpu.h"
#include "core/error.h"
#include "core/progress.h"
#include "core/visible_text.h"

namespace thresher::cli {
namespace {

using Status = Check::Status;

constexpr std::uint64_t kLittleMemory = std::uint64_t{2} << 30U;
constexpr std::uint64_t kLittleSharedMemory = std::uint64_t{256} << 20U;
constexpr rlim_t kFewFiles = 1024;

/// The whole of a small kernel file; empty where there is none. (They say their size is 0.)
std::string kernel_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// The value of the first line "KEY : value" or "KEY: value".
std::string value_of(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || line.compare(0, key.size(), key) != 0 ||
        line.find_first_not_of(" \t", key.size()) != colon) {
      continue;
    }
    const std::size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return {};
}

std::optional<std::uint64_t> number_in(const std::string& text) {
  std::uint64_t value = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  return read.ec == std::errc() ? std::optional(value) : std::nullopt;
}

/// This process's control group (version 2) and those above it.
std::vector<std::filesystem::path> control_groups() {
  std::vector<std::filesystem::path> groups;
  const std::filesystem::path root = "/sys/fs/cgroup";
  const std::string lines = kernel_file("/proc/self/cgroup");
  const std::size_t unified = lines.rfind("0::/");
  const std::string own = unified == std::string::npos
                              ? ""
                              : lines.substr(unified + 3, lines.find('\n', unified) - unified - 3);
  std::filesystem::path at = own.empty() ? root : root / std::filesystem::path(own).relative_path();
  for (; at != at.parent_path(); at = at.parent_path()) {
    groups.push_back(at);
    if (at == root) break;
  }
  return groups;
}

int usable_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return sched_getaffinity(0, sizeof(cores), &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

/// The least number of cores that a control group grants; nothing without a quota.
std::optional<double> core_quota() {
  std::optional<double> least;
  for (const auto& group : control_groups()) {
    std::istringstream text(kernel_file(group / "cpu.max"));
    std::string quota;
    double period = 0;
    if (!(text >> quota >> period) || period <= 0) continue;
    const auto microseconds = number_in(quota);  // "max" is none
    if (!microseconds) continue;
    const double cores = static_cast<double>(*microseconds) / period;
    least = least ? std::min(*least, cores) : cores;
  }
  return least;
}

Check check_cpu() {
  const std::string info = kernel_file("/proc/cpuinfo");
  const std::string flags = fmt::format(" {} ", value_of(info, "flags"));
  std::string vectors;
  for (const char* name : {"avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16"}) {
    if (flags.find(fmt::format(" {} ", name)) != std::string::npos)
      vectors += fmt::format(" {}", name);
  }
  std::string model = value_of(info, "model name");
  if (model.empty()) model = "unknown";
  Check check{Status::kOk, "cpu",
              fmt::format("{}, {} of {} cores usable;{}", visible_text(model), usable_cores(),
                          sysconf(_SC_NPROCESSORS_ONLN), vectors.empty() ? " no avx2" : vectors)};
  if (vectors.find("avx2") == std::string::npos) {
    check.status = Status::kWarn;
    check.advice = "products will be slow: LibTorch is at its best from AVX2 on";
  }
  return check;
}

Check check_cores() {
  const int cores = usable_cores();
  const std::optional<double> quota = core_quota();
  if (quota && *quota + 0.01 < cores) {
    return {Status::kWarn, "cpu quota",
            fmt::format("a control group grants {:.3g} of {} cores", *quota, cores),
            fmt::format("set run.threads so that ranks x threads stays at or below {:.0f}",
                        std::max(1.0, *quota))};
  }
  return {Status::kOk, "cpu quota", "none below the usable cores"};
}

Check check_numa() {
  int nodes = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/node", error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("node") && name.find_first_not_of("0123456789", 4) == std::string::npos)
      ++nodes;
  }
  if (nodes <= 1) return {Status::kOk, "numa", "one node"};
  return {Status::kOk, "numa",
          fmt::format("{} nodes; one rank a node keeps memory near (mpirun --map-by numa)", nodes)};
}

struct Memory {
  std::uint64_t usable = 0;
  std::string description;
};

Memory find_memory() {
  const std::string info = kernel_file("/proc/meminfo");
  const std::uint64_t total = number_in(value_of(info, "MemTotal")).value_or(0) * 1024;
  Memory memory;
  memory.usable = number_in(value_of(info, "MemAvailable")).value_or(0) * 1024;
  memory.description =
      fmt::format("{} of {} available", format_bytes(memory.usable), format_bytes(total));
  for (const auto& group : control_groups()) {
    const auto limit = number_in(kernel_file(group / "memory.max"));
    const auto used = number_in(kernel_file(group / "memory.current"));
    if (!limit || !used) continue;
    const std::uint64_t left = *limit > *used ? *limit - *used : 0;
    if (left >= memory.usable) continue;
    memory.usable = left;
    memory.description = fmt::format("{} left of the {} that a control group grants",
                                     format_bytes(left), format_bytes(*limit));
  }
  return memory;
}

Check check_memory() {
  const Memory memory = find_memory();
  if (memory.usable >= kLittleMemory) return {Status::kOk, "memory", memory.description};
  return {Status::kWarn, "memory", memory.description,
          "a rank needs the host model's weights and about 16 bytes a parameter of each SAE; fewer "
          "ranks on this host need less"};
}

Check check_shared_memory() {
  const std::string name = "/dev/shm";
  struct statvfs shm {};
  if (statvfs("/dev/shm", &shm) != 0) {
    return {Status::kWarn, name, "not there", "ranks of one host meet in it: mount a tmpfs there"};
  }
  const std::uint64_t size = std::uint64_t{shm.f_blocks} * shm.f_frsize;
  const std::uint64_t free_bytes = std::uint64_t{shm.f_bavail} * shm.f_frsize;
  const std::string found =
      fmt::format("{} free of {}", format_bytes(free_bytes), format_bytes(size));
  if (free_bytes >= kLittleSharedMemory) return {Status::kOk, name, found};
  return {Status::kWarn, name, found,
          "ranks of one host meet in it, and so does NCCL: give a container --shm-size 1g, or "
          "remove what other jobs left there"};
}

Check check_open_files() {
  struct rlimit limit {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return {Status::kWarn, "ulimit -n", "cannot be read"};
  const std::string found =
      limit.rlim_cur == RLIM_INFINITY ? "unlimited" : fmt::format("{} open files", limit.rlim_cur);
  if (limit.rlim_cur >= kFewFiles) return {Status::kOk, "ulimit -n", found};
  return {Status::kWarn, "ulimit -n", found,
          "large caches and sweeps keep many files open: ulimit -n 4096"};
}

Check check_locked_memory() {
  struct rlimit limit {};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return {Status::kWarn, "ulimit -l", "cannot be read"};
  // Only fast interconnects and pinned host memory care, so a low limit is no warning by itself.
  return {Status::kOk, "ulimit -l",
          limit.rlim_cur == RLIM_INFINITY
              ? "unlimited"
              : format_bytes(limit.rlim_cur) + " (InfiniBand wants unlimited)"};
}

/// The GPUs that this process may use, and NCCL.
std::vector<Check> check_cuda_build(const std::string& driver) {
  std::vector<Check> checks;
  try {
    const std::vector<comm::Gpu> gpus = comm::list_gpus();
    for (std::size_t i = 0; i < gpus.size(); ++i) {
      checks.push_back({Status::kOk, fmt::format("gpu {}", i),
                        fmt::format("{}, {}, compute capability {}.{}, bus {}", gpus[i].name,
                                    format_bytes(gpus[i].memory_bytes), gpus[i].major,
                                    gpus[i].minor, gpus[i].bus)});
    }
  } catch (const DeviceError& error) {
    const bool has_driver = !driver.empty();
    checks.push_back({has_driver ? Status::kWarn : Status::kOk, "gpu",
                      fmt::format("{}; {}; this build has CUDA kernels",
                                  has_driver ? driver : "no NVIDIA driver", error.first_line()),
                      has_driver ? "look at nvidia-smi and CUDA_VISIBLE_DEVICES" : ""});
  }
  const comm::NcclVersions nccl = comm::nccl_versions();
  const bool is_same = nccl.compiled == nccl.loaded;
  checks.push_back(
      {is_same ? Status::kOk : Status::kWarn, "nccl",
       fmt::format("compiled {}, loaded {}", nccl.compiled, nccl.loaded),
       is_same ? "" : "LD_LIBRARY_PATH puts another NCCL before the one of the build"});
  return checks;
}

std::vector<Check> check_gpus(bool has_cuda) {
  const std::string text = kernel_file("/proc/driver/nvidia/version");
  const std::string driver = visible_text(text.substr(0, text.find('\n')));
  if (has_cuda) return check_cuda_build(driver);
  const std::string build = "this build has no CUDA kernels";
  if (driver.empty()) return {{Status::kOk, "gpu", "no NVIDIA driver; " + build}};
  return {{Status::kWarn, "gpu", driver + "; " + build,
           "configure with -DTHRESHER_CUDA=ON (make cuda)"}};
}

Check check_thread_environment() {
  std::string found;
  for (const char* name :
       {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES",
        "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_DYNAMIC", "MKL_DYNAMIC"}) {
    if (const char* value = std::getenv(name)) {
      found += fmt::format("{}{}={}", found.empty() ? "" : ", ", name, visible_text(value));
    }
  }
  if (found.empty()) return {Status::kOk, "thread environment", "nothing set; run.threads decides"};
  const bool is_bound = std::getenv("OMP_PROC_BIND") != nullptr ||
                        std::getenv("GOMP_CPU_AFFINITY") != nullptr ||
                        std::getenv("KMP_AFFINITY") != nullptr;
  if (!is_bound) return {Status::kOk, "thread environment", found + "; run.threads decides"};
  return {Status::kWarn, "thread environment", found,
          "several ranks on a host may be bound to the same cores: unset it, or bind ranks with "
          "mpirun --bind-to core --map-by slot:PE=THREADS"};
}

}  // namespace

std::uint64_t usable_memory_bytes() { return find_memory().usable; }

std::vector<Check> check_machine(bool has_cuda) {
  std::vector<Check> checks = {check_cpu(),          check_cores(),         check_numa(),
                               check_memory(),       check_shared_memory(), check_open_files(),
                               check_locked_memory()};
  const std::vector<Check> gpus = check_gpus(has_cuda);
  checks.insert(checks.end(), gpus.begin(), gpus.end());
  checks.push_back(check_thread_environment());
  return checks;
}

}  // namespace thresher::cli
