#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string_view>

#include "core/files.h"

/// The system calls that core/files is made of. As the system's own they return -1 and leave errno;
/// other than those they repeat a call that a signal interrupted. Nothing else of Thresher changes
/// a cache or a run, so a test that steps in here (THRESHER_FAILPOINT, or an observer) sees and
/// breaks every one.
///
/// Names of the calls: file.create, file.open (to overwrite or to sync), file.write, file.fsync,
/// file.truncate, file.rename, file.link, file.unlink, file.rmdir, file.mkdir, file.library;
/// read.open and read.data for reading.
namespace thresher::file_calls {

/// `flags` as for open(2), O_CLOEXEC is added.
FileDescriptor open_file(const std::filesystem::path& path, int flags);
FileDescriptor open_to_read(const std::filesystem::path& path, int flags);
std::int64_t read_some(int fd, std::span<std::byte> out, std::uint64_t offset);
/// May write less than all.
std::int64_t write_some(int fd, std::span<const std::byte> bytes);
int sync(int fd);
int truncate(int fd, std::int64_t bytes);
/// `flags` as for renameat2(2).
int rename(const std::filesystem::path& from, const std::filesystem::path& to, unsigned flags = 0);
int link(const std::filesystem::path& from, const std::filesystem::path& to);
int unlink(const std::filesystem::path& path);
int remove_empty_folder(const std::filesystem::path& path);
int make_folder(const std::filesystem::path& path);
/// A library creates and writes the whole file `path` by itself (HDF5): one call. -1 without
/// running `write` when a test lets it fail; what `write` throws passes.
int write_by_library(const std::filesystem::path& path, const std::function<void()>& write);

/// One successful call that changed something.
struct FileCall {
  std::string_view name;
  std::filesystem::path path, to;  // `to`: of a rename or link; both empty for calls on `fd`
  int fd = -1;
  std::span<const std::byte> bytes;  // written; valid during the observer's call
  std::int64_t offset = 0;           // of `bytes` in the file, or the new size
  unsigned flags = 0;                // of an open or rename
};
/// Told of every call, in order; calls of several threads come one after the other. An empty
/// function ends it. Only where THRESHER_FAILPOINTS is compiled in.
using FileObserver = std::function<void(const FileCall&)>;
void observe(FileObserver observer);

}  // namespace thresher::file_calls
