#include "core/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "core/error.h"
#include "core/file_calls.h"
#include "core/system_error.h"
#include "core/visible_text.h"

namespace thresher {
namespace {

FileDescriptor open_or_throw(const std::filesystem::path& path, int flags,
                             std::string_view operation = "open") {
  FileDescriptor file = file_calls::open_file(path, flags);
  if (!file) throw_system_error(path, operation, errno);
  return file;
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  const auto folder = path.parent_path();
  return folder.empty() ? std::filesystem::path(".") : folder;
}

// Host, process and counter: two writers of one shared folder never meet in a name.
std::filesystem::path temporary_beside(const std::filesystem::path& path) {
  static std::atomic<std::uint64_t> counter{0};
  return folder_of(path) /
         fmt::format(".tmp-{}-{}-{}", host_name(), getpid(), counter.fetch_add(1));
}

std::pair<FileDescriptor, std::filesystem::path> create_temporary(
    const std::filesystem::path& path) {
  while (true) {
    auto name = temporary_beside(path);
    FileDescriptor file = file_calls::open_file(name, O_WRONLY | O_CREAT | O_EXCL);
    if (file) return {std::move(file), std::move(name)};
    if (errno != EEXIST) throw_system_error(path, "create", errno);
  }
}

std::uint64_t size_below(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const std::uint64_t size = thresher::file_size(path);
  if (size > max_bytes) {
    throw DataError(fmt::format("{}: the file has {} bytes", path.string(), size),
                    fmt::format("at most {} bytes", max_bytes));
  }
  return size;
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) close(fd_);
}

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

FileDescriptor open_for_reading(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a pipe must not wait for a writer; it changes nothing for regular files.
  FileDescriptor file = file_calls::open_to_read(path, O_RDONLY | O_NONBLOCK);
  if (!file) throw_system_error(path, "open", errno);
  struct stat status {};
  if (fstat(file.get(), &status) != 0) throw_system_error(path, "stat", errno);
  if (!S_ISREG(status.st_mode)) {
    throw IoError(fmt::format("{}: {}", path.string(),
                              S_ISDIR(status.st_mode) ? "is a folder" : "is not a regular file"),
                  "a regular file");
  }
  return file;
}

void read_at(const FileDescriptor& file, std::uint64_t offset, std::span<std::byte> out,
             const std::filesystem::path& path) {
  std::size_t done = 0;
  while (done < out.size()) {
    const std::int64_t got = file_calls::read_some(file.get(), out.subspan(done), offset + done);
    if (got > 0) {
      done += static_cast<std::size_t>(got);
    } else if (got == 0) {
      throw DataError(fmt::format("{}: the file ends at byte {}, {} bytes from byte {} are due",
                                  display_path(path), offset + done, out.size(), offset),
                      {}, "the file is truncated or was cut while it was being read");
    } else {
      throw_system_error(path, "read", errno);
    }
  }
}

std::uint64_t file_size(const std::filesystem::path& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) throw_system_error(path, "stat", errno);
  return static_cast<std::uint64_t>(status.st_size);
}

std::string read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const FileDescriptor file = open_for_reading(path);
  std::string text(size_below(path, max_bytes), '\0');
  read_at(file, 0, std::as_writable_bytes(std::span(text.data(), text.size())), path);
  return text;
}

std::vector<std::byte> read_binary_file(const std::filesystem::path& path,
                                        std::uint64_t max_bytes) {
  const FileDescriptor file = open_for_reading(path);
  std::vector<std::byte> bytes(size_below(path, max_bytes));
  read_at(file, 0, bytes, path);
  return bytes;
}

void write_all(const FileDescriptor& file, std::span<const std::byte> bytes,
               const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const std::int64_t wrote = file_calls::write_some(file.get(), bytes);
    if (wrote < 0) throw_system_error(path, "write", errno);
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
  }
}

void sync_file(const FileDescriptor& file, const std::filesystem::path& path) {
  if (file_calls::sync(file.get()) != 0) throw_system_error(path, "fsync", errno);
}

void sync_file(const std::filesystem::path& path) {
  sync_file(open_or_throw(path, O_RDONLY), path);
}

void sync_folder(const std::filesystem::path& folder) {
  const auto path = folder.empty() ? std::filesystem::path(".") : folder;
  const FileDescriptor file = open_or_throw(path, O_RDONLY | O_DIRECTORY);
  // Some network file systems cannot sync a folder and say EINVAL; their renames are synchronous.
  if (file_calls::sync(file.get()) != 0 && errno != EINVAL)
    throw_system_error(path, "fsync", errno);
}

FileDescriptor create_file(const std::filesystem::path& path) {
  return open_or_throw(path, O_WRONLY | O_CREAT | O_TRUNC, "create");
}

FileDescriptor open_for_overwriting(const std::filesystem::path& path) {
  return open_or_throw(path, O_WRONLY | O_NOFOLLOW);
}

FileDescriptor open_for_appending(const std::filesystem::path& path) {
  return open_or_throw(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW);
}

void truncate_file(const FileDescriptor& file, std::uint64_t bytes,
                   const std::filesystem::path& path) {
  if (file_calls::truncate(file.get(), static_cast<std::int64_t>(bytes)) != 0) {
    throw_system_error(path, "truncate", errno);
  }
}

void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(const FileDescriptor&)>& write_content) {
  auto [file, temporary] = create_temporary(path);
  try {
    failpoint("atomic.created");
    write_content(file);
    failpoint("atomic.written");
    sync_file(file, path);
    failpoint("atomic.synced");
    if (file_calls::rename(temporary, path) != 0) throw_system_error(path, "rename", errno);
  } catch (...) {
    remove_if_possible(temporary);
    throw;
  }
  failpoint("atomic.renamed");
  sync_folder(folder_of(path));
  failpoint("atomic.folder_synced");
}

void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  write_file_atomically(path, [&](const FileDescriptor& file) { write_all(file, bytes, path); });
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  write_file_atomically(path, std::as_bytes(std::span(text.data(), text.size())));
}

void rename_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (file_calls::rename(from, to) != 0) throw_system_error(from, "rename", errno);
}

bool rename_no_replace(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (file_calls::rename(from, to, RENAME_NOREPLACE) == 0) return true;
  if (errno == EEXIST) return false;
  if (errno != EINVAL && errno != ENOSYS) throw_system_error(from, "rename", errno);
  // A file system without RENAME_NOREPLACE (NFS): a hard link refuses an existing name, too.
  if (file_calls::link(from, to) == 0) {
    if (file_calls::unlink(from) != 0) throw_system_error(from, "unlink", errno);
    return true;
  }
  if (errno == EEXIST) return false;
  // Folders have no hard links; rename() refuses a target folder that holds anything.
  struct stat status {};
  if (lstat(to.c_str(), &status) == 0) return false;
  if (file_calls::rename(from, to) == 0) return true;
  if (errno == EEXIST || errno == ENOTEMPTY) return false;
  throw_system_error(from, "rename", errno);
}

void make_folders(const std::filesystem::path& folder) {
  if (folder.empty()) return;
  if (file_calls::make_folder(folder) == 0) {
    sync_folder(folder_of(folder));
    return;
  }
  if (errno == ENOENT && folder != folder_of(folder)) {
    make_folders(folder_of(folder));
    if (file_calls::make_folder(folder) == 0) {
      sync_folder(folder_of(folder));
      return;
    }
  }
  const int reason = errno;
  // Another rank may have made it in between.
  struct stat status {};
  if (stat(folder.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) return;
  throw_system_error(folder, "create folder", reason);
}

void remove_tree(const std::filesystem::path& path) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return;
    throw_system_error(path, "remove", errno);
  }
  const bool is_folder = S_ISDIR(status.st_mode);
  if (is_folder) {
    for (const auto& entry : list_folder(path)) remove_tree(entry);
  }
  const int result = is_folder ? file_calls::remove_empty_folder(path) : file_calls::unlink(path);
  if (result != 0 && errno != ENOENT) throw_system_error(path, "remove", errno);
}

void remove_if_possible(const std::filesystem::path& path) noexcept {
  try {
    remove_tree(path);
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): as promised
  }
}

std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::vector<std::filesystem::path> entries;
  auto it = std::filesystem::directory_iterator(folder, error);
  for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    entries.push_back(it->path());
  }
  if (error) throw_system_error(folder, "list", error.value());
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.native() < b.native(); });
  return entries;
}

std::uint64_t free_disk_bytes(const std::filesystem::path& path) {
  auto existing = std::filesystem::absolute(path);
  struct statvfs status {};
  while (statvfs(existing.c_str(), &status) != 0) {
    if (errno != ENOENT || existing == existing.parent_path()) {
      throw_system_error(existing, "statvfs", errno);
    }
    existing = existing.parent_path();
  }
  return static_cast<std::uint64_t>(status.f_bavail) * status.f_frsize;
}

bool is_safe_file_name(std::string_view name) {
  if (name.empty() || name.size() > 128 || name.front() == '.' || name.front() == '-') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
}

}  // namespace thresher
