#include "core/file_calls.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <mutex>
#include <utility>

#include "core/failpoint.h"

namespace thresher::file_calls {
namespace {

#if defined(THRESHER_FAILPOINTS)

std::atomic<bool> is_observed{false};
std::mutex observer_mutex;
FileObserver observer;

/// An observed call is made under a lock: two threads' calls are told in the order they happened.
template <typename Call>
std::int64_t make_observed(const Call& call, FileCall told) {
  if (!is_observed) return call();
  const std::lock_guard lock(observer_mutex);
  const std::int64_t result = call();
  if (result < 0 || !observer) return result;
  if (told.name == "file.create" || told.name == "file.open") told.fd = static_cast<int>(result);
  if (told.name == "file.write") {
    told.bytes = told.bytes.first(static_cast<std::size_t>(result));
    told.offset = ::lseek(told.fd, 0, SEEK_CUR) - result;
  }
  observer(told);
  return result;
}

#else

template <typename Call>
std::int64_t make_observed(const Call& call, const FileCall&) {
  return call();
}

#endif

template <typename Call>
std::int64_t make(const Call& call, const FileCall& told) {
  while (true) {
    errno = arrive_at(told.name).error;
    const std::int64_t result = errno != 0 ? -1 : make_observed(call, told);
    if (result >= 0 || errno != EINTR) return result;
  }
}

FileCall on_path(std::string_view name, const std::filesystem::path& path, unsigned flags = 0) {
  return {.name = name, .path = path, .to = {}, .bytes = {}, .flags = flags};
}

FileCall on_paths(std::string_view name, const std::filesystem::path& path,
                  const std::filesystem::path& to, unsigned flags) {
  return {.name = name, .path = path, .to = to, .bytes = {}, .flags = flags};
}

FileCall on_file(std::string_view name, int fd, std::span<const std::byte> bytes = {},
                 std::int64_t offset = 0) {
  return {.name = name, .path = {}, .to = {}, .fd = fd, .bytes = bytes, .offset = offset};
}

}  // namespace

void observe([[maybe_unused]] FileObserver told) {
#if defined(THRESHER_FAILPOINTS)
  const std::lock_guard lock(observer_mutex);
  observer = std::move(told);
  is_observed = static_cast<bool>(observer);
#endif
}

FileDescriptor open_file(const std::filesystem::path& path, int flags) {
  const FileCall told = on_path((flags & O_CREAT) != 0 ? "file.create" : "file.open", path,
                                static_cast<unsigned>(flags));
  return FileDescriptor(static_cast<int>(
      make([&] { return ::open(path.c_str(), flags | O_CLOEXEC, 0666); }, told)));
}

FileDescriptor open_to_read(const std::filesystem::path& path, int flags) {
  while (true) {
    errno = arrive_at("read.open").error;
    const int fd = errno != 0 ? -1 : ::open(path.c_str(), flags | O_CLOEXEC);
    if (fd >= 0 || errno != EINTR) return FileDescriptor(fd);
  }
}

std::int64_t read_some(int fd, std::span<std::byte> out, std::uint64_t offset) {
  while (true) {
    const Fault fault = arrive_at("read.data");
    const std::size_t size = fault.is_short ? (out.size() + 1) / 2 : out.size();
    errno = fault.error;
    const std::int64_t got =
        errno != 0 ? -1 : ::pread(fd, out.data(), size, static_cast<off_t>(offset));
    if (got >= 0 || errno != EINTR) return got;
  }
}

std::int64_t write_some(int fd, std::span<const std::byte> bytes) {
  while (true) {
    const Fault fault = arrive_at("file.write");
    if (fault.is_short) bytes = bytes.first((bytes.size() + 1) / 2);
    errno = fault.error;
    const auto call = [&] { return std::int64_t{::write(fd, bytes.data(), bytes.size())}; };
    const std::int64_t wrote =
        errno != 0 ? -1 : make_observed(call, on_file("file.write", fd, bytes));
    if (wrote >= 0 || errno != EINTR) return wrote;
  }
}

int sync(int fd) {
  return static_cast<int>(make([&] { return ::fsync(fd); }, on_file("file.fsync", fd)));
}

int truncate(int fd, std::int64_t bytes) {
  return static_cast<int>(
      make([&] { return ::ftruncate(fd, bytes); }, on_file("file.truncate", fd, {}, bytes)));
}

int rename(const std::filesystem::path& from, const std::filesystem::path& to, unsigned flags) {
  return static_cast<int>(
      make([&] { return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags); },
           on_paths("file.rename", from, to, flags)));
}

int link(const std::filesystem::path& from, const std::filesystem::path& to) {
  return static_cast<int>(
      make([&] { return ::link(from.c_str(), to.c_str()); }, on_paths("file.link", from, to, 0)));
}

int unlink(const std::filesystem::path& path) {
  return static_cast<int>(
      make([&] { return ::unlink(path.c_str()); }, on_path("file.unlink", path)));
}

int remove_empty_folder(const std::filesystem::path& path) {
  return static_cast<int>(make([&] { return ::rmdir(path.c_str()); }, on_path("file.rmdir", path)));
}

int make_folder(const std::filesystem::path& path) {
  return static_cast<int>(
      make([&] { return ::mkdir(path.c_str(), 0777); }, on_path("file.mkdir", path)));
}

int write_by_library(const std::filesystem::path& path, const std::function<void()>& write) {
  const auto call = [&] {
    write();
    return 0;
  };
  return static_cast<int>(make(call, on_path("file.library", path)));
}

}  // namespace thresher::file_calls
