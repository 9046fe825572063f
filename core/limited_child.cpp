#include "core/limited_child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <span>

#include "core/error.h"
#include "core/files.h"
#include "core/system_error.h"

namespace thresher {
namespace {

constexpr int kGotThrough = 0, kThrewError = 1, kOutOfMemory = 2, kThrewOther = 3;

/// Bytes of address space that this process has mapped (a sanitizer or CUDA maps terabytes).
std::uint64_t mapped_bytes() {
  unsigned long pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "re")) {
    if (std::fscanf(file, "%lu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

void limit(__rlimit_resource resource, std::uint64_t value) {
  rlimit limits{};
  if (getrlimit(resource, &limits) != 0) _exit(kThrewOther);
  limits.rlim_cur = std::min<rlim_t>(value, limits.rlim_max);
  if (setrlimit(resource, &limits) != 0) _exit(kThrewOther);
}

/// A crash is the expected outcome for some files: no handler of ours, no core, nothing printed.
void become_quiet() {
  for (const int number :
       {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGXCPU, SIGTERM, SIGINT, SIGUSR1}) {
    signal(number, SIG_DFL);
  }
  limit(RLIMIT_CORE, 0);
  const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (null >= 0) dup2(null, STDERR_FILENO);
}

[[noreturn]] void be_the_child(const std::function<void()>& work, const ChildLimits& limits,
                               const FileDescriptor& out) {
  become_quiet();
  limit(RLIMIT_AS, mapped_bytes() + limits.memory_bytes);
  limit(RLIMIT_CPU, limits.cpu_seconds);
  try {
    work();
    _exit(kGotThrough);
  } catch (const Error& error) {
    const std::string text = std::string(1, static_cast<char>(error.code())) + error.what();
    // A pipe holds this much without a reader.
    const auto bytes =
        std::as_bytes(std::span(text)).first(std::min<std::size_t>(text.size(), 60'000));
    write_all(out, bytes, "pipe");
    _exit(kThrewError);
  } catch (const std::bad_alloc&) {
    _exit(kOutOfMemory);
  } catch (...) {
    _exit(kThrewOther);
  }
}

std::string read_to_end(const FileDescriptor& in) {
  std::string text;
  std::array<char, 4096> buffer{};
  while (true) {
    const ssize_t got = read(in.get(), buffer.data(), buffer.size());
    if (got > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(got));
    } else if (got == 0 || errno != EINTR) {
      return text;
    }
  }
}

int wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) throw_system_error("a child process", "wait for", errno);
  }
  return status;
}

[[noreturn]] void throw_same(ExitCode code, std::string_view text) {
  if (code == ExitCode::kDamagedInput) throw DataError(text);
  if (code == ExitCode::kConfig) throw ConfigError(text);
  if (code == ExitCode::kIo) throw IoError(text);
  throw Error(code, text);
}

std::string what_happened(int status, const ChildLimits& limits) {
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU) {
    return fmt::format("takes more than {} s of processor time", limits.cpu_seconds);
  }
  if (WIFSIGNALED(status)) {
    return fmt::format("crashes the library ({})", strsignal(WTERMSIG(status)));
  }
  if (WEXITSTATUS(status) == kOutOfMemory) {
    return fmt::format("takes more than {} MiB of memory", limits.memory_bytes >> 20);
  }
  return "fails";
}

}  // namespace

void rehearse_in_child(const std::string& where, const std::function<void()>& work,
                       const ChildLimits& limits) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw_system_error(where, "make a pipe for", errno);
  const FileDescriptor in(ends[0]);
  FileDescriptor out(ends[1]);
  const pid_t child = fork();
  if (child < 0) throw_system_error(where, "start a child process for", errno);
  if (child == 0) be_the_child(work, limits, out);
  out = FileDescriptor();
  const std::string text = read_to_end(in);
  const int status = wait_for(child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kGotThrough) return;
  if (WIFEXITED(status) && WEXITSTATUS(status) == kThrewError && text.size() > 1) {
    throw_same(static_cast<ExitCode>(text[0]), std::string_view(text).substr(1));
  }
  throw DataError(fmt::format("{}: reading it {}", where, what_happened(status, limits)),
                  "a sound file", "the file is damaged or hostile; nothing of it was used");
}

SharedBytes::SharedBytes(std::size_t size, const std::string& where)
    : size_(size),
      data_(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
  if (data_ == MAP_FAILED) throw_system_error(where, "map memory for", errno);
}

SharedBytes::~SharedBytes() { munmap(data_, size_); }

}  // namespace thresher
