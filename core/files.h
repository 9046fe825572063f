#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thresher {

/// An owned POSIX descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// Opens for reading. Throws IoError with the path and the system's reason.
FileDescriptor open_for_reading(const std::filesystem::path& path);
/// Reads exactly out.size() bytes at `offset`; IoError on failure, DataError if the file ends
/// before.
void read_at(const FileDescriptor& file, std::uint64_t offset, std::span<std::byte> out,
             const std::filesystem::path& path);
std::uint64_t file_size(const std::filesystem::path& path);

/// Whole files, refused above `max_bytes` before anything is allocated.
std::string read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes = 1ULL << 30);
std::vector<std::byte> read_binary_file(const std::filesystem::path& path, std::uint64_t max_bytes);

/// Temporary file in the same folder, write, fsync, rename over `path`, fsync the folder: after a
/// crash at any point the file holds the old bytes or the new ones.
void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);
/// The same for content that `write_content` writes piece by piece. A writer that is killed leaves
/// at most a file
/// `.tmp-*` behind, which nobody reads.
void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(const FileDescriptor&)>& write_content);

/// Creates a file or empties the one that is there, for writing.
FileDescriptor create_file(const std::filesystem::path& path);
/// Opens for writing over what is there, from the beginning. Does not follow a symbolic link.
FileDescriptor open_for_overwriting(const std::filesystem::path& path);
/// Opens for reading and appending, creating the file. Does not follow a symbolic link.
FileDescriptor open_for_appending(const std::filesystem::path& path);

/// Writes all bytes (short writes and EINTR handled); IoError says "disk full" for ENOSPC.
void write_all(const FileDescriptor& file, std::span<const std::byte> bytes,
               const std::filesystem::path& path);
void sync_file(const FileDescriptor& file, const std::filesystem::path& path);
void sync_file(const std::filesystem::path& path);
void sync_folder(const std::filesystem::path& folder);
/// Cuts a file that is open for writing to its first `bytes` bytes.
void truncate_file(const FileDescriptor& file, std::uint64_t bytes,
                   const std::filesystem::path& path);
/// Renames; a file at `to` is replaced.
void rename_file(const std::filesystem::path& from, const std::filesystem::path& to);
/// Renames without replacing: false if `to` exists.
bool rename_no_replace(const std::filesystem::path& from, const std::filesystem::path& to);
/// Creates a folder and its parents, each with its name on the disk; IoError on failure.
void make_folders(const std::filesystem::path& folder);
/// Removes a file, or a folder with everything in it; what is not there is removed already.
void remove_tree(const std::filesystem::path& path);
/// The same on the way out of an error or where a rest does no harm: what cannot be removed stays.
void remove_if_possible(const std::filesystem::path& path) noexcept;
/// Entries of a folder, sorted by name bytes (the same order everywhere).
std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder);
/// Free bytes for an ordinary user on the file system that holds `path` (which may not exist yet).
std::uint64_t free_disk_bytes(const std::filesystem::path& path);

/// True for names that a manifest may refer to: [A-Za-z0-9._-]{1,128}, not starting with '.' or
/// '-'.
bool is_safe_file_name(std::string_view name);

/// An exclusive lock file that says who holds it. A second holder gets ConfigError naming host, pid
/// and start. The lock is an flock on an open descriptor, so a killed process leaves none behind.
class FolderLock {
 public:
  /// Locks `folder`/lock. Throws ConfigError if another live process holds it.
  FolderLock(const std::filesystem::path& folder, std::string_view what);
  ~FolderLock();
  FolderLock(FolderLock&&) noexcept = default;

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
};

/// A crash point: if the environment says THRESHER_FAILPOINT=name:count, the count-th call kills
/// the process with SIGKILL (core/failpoint.h). Compiled out with THRESHER_FAILPOINTS=OFF.
void failpoint(const char* name);

}  // namespace thresher
