#include <fmt/format.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <span>

#include "cli/doctor.h"
#include "core/error.h"
#include "core/files.h"
#include "core/progress.h"
#include "core/visible_text.h"

namespace thresher::cli {
namespace {

using Status = Check::Status;

constexpr std::uint64_t kLittleSpace = std::uint64_t{2} << 30U, kNoSpace = std::uint64_t{64} << 20U;

enum class Where { kLocal, kMemory, kNetwork, kUnusual };
struct Kind {
  std::uint64_t magic;
  const char* name;
  Where where;
};
// statfs(2); those that linux/magic.h lacks are written out.
constexpr std::array kKinds = {
    Kind{EXT4_SUPER_MAGIC, "ext4", Where::kLocal},
    Kind{0x58465342, "xfs", Where::kLocal},
    Kind{BTRFS_SUPER_MAGIC, "btrfs", Where::kLocal},
    Kind{0x2fc12fc1, "zfs", Where::kLocal},
    Kind{F2FS_SUPER_MAGIC, "f2fs", Where::kLocal},
    Kind{OVERLAYFS_SUPER_MAGIC, "overlay", Where::kLocal},
    Kind{TMPFS_MAGIC, "tmpfs", Where::kMemory},
    Kind{RAMFS_MAGIC, "ramfs", Where::kMemory},
    Kind{NFS_SUPER_MAGIC, "nfs", Where::kNetwork},
    Kind{0xFF534D42, "cifs", Where::kNetwork},
    Kind{0xFE534D42, "smb2", Where::kNetwork},
    Kind{0x0BD00BD0, "lustre", Where::kNetwork},
    Kind{0x47504653, "gpfs", Where::kNetwork},
    Kind{0x19830326, "beegfs", Where::kNetwork},
    Kind{0x00C36400, "ceph", Where::kNetwork},
    Kind{0x65735546, "fuse", Where::kUnusual},
    Kind{V9FS_MAGIC, "9p", Where::kUnusual},
    Kind{SQUASHFS_MAGIC, "squashfs", Where::kUnusual},
};

Kind kind_of(const std::filesystem::path& folder) {
  struct statfs status {};
  if (statfs(folder.c_str(), &status) != 0) return {0, "unknown", Where::kUnusual};
  const auto magic = static_cast<std::uint64_t>(static_cast<unsigned long>(status.f_type));
  const auto* found = std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& kind) {
    return kind.magic == (magic & 0xFFFFFFFFU);
  });
  return found == kKinds.end() ? Kind{magic, "unknown", Where::kUnusual} : *found;
}

/// A folder of its own that is gone afterwards.
class Scratch {
 public:
  explicit Scratch(const std::filesystem::path& parent) {
    std::string name = (parent / ".thresher-doctor-XXXXXX").string();
    if (mkdtemp(name.data()) != nullptr) path_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

void write_text(const std::filesystem::path& path, std::string_view text) {
  const FileDescriptor file = create_file(path);
  write_all(file, std::as_bytes(std::span(text.data(), text.size())), path);
}

Check try_rename(const std::string& name, const std::filesystem::path& scratch) {
  write_text(scratch / "a", "first");
  write_text(scratch / "b", "second");
  const bool moved = rename_no_replace(scratch / "a", scratch / "c");
  const bool kept =
      !rename_no_replace(scratch / "b", scratch / "c") && read_text_file(scratch / "c") == "first";
  if (moved && kept) return {Status::kOk, name, "works"};
  return {
      Status::kFail, name, moved ? "replaced what was there" : "refused a free name",
      "shards and checkpoints are published by renaming; choose a folder on another file system"};
}

Check try_sync(const std::string& name, const std::filesystem::path& scratch) {
  const auto begin = std::chrono::steady_clock::now();
  write_file_atomically(scratch / "synced", "text");
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return {Status::kOk, name, fmt::format("works, {:.1f} ms a file", seconds * 1e3)};
}

Check try_lock(const std::string& name, const std::filesystem::path& scratch) {
  const FolderLock lock(scratch, "doctor");
  try {
    const FolderLock second(scratch, "doctor");
  } catch (const ConfigError&) {
    return {Status::kOk, name, "work"};
  }
  return {
      Status::kFail, name, "do not exclude a second process",
      "two jobs could write one folder; mount with local or remote locking (nfs: without nolock)"};
}

Check check_kind(const std::string& name, const Kind& kind) {
  const std::string found = kind.name;
  switch (kind.where) {
    case Where::kMemory:
      return {Status::kWarn, name, found + ", in memory",
              "what is written here counts as memory and is gone after a restart"};
    case Where::kNetwork:
      return {Status::kOk, name, found + ", over a network"};
    case Where::kUnusual:
      return {Status::kWarn, name, fmt::format("{} (type {:#x})", found, kind.magic),
              "not known to keep renames and fsync; look at the lines below"};
    case Where::kLocal:
      break;
  }
  return {Status::kOk, name, found};
}

Check check_space(const std::string& name, const std::filesystem::path& folder) {
  const std::uint64_t free_bytes = free_disk_bytes(folder);
  const std::string found = format_bytes(free_bytes) + " free";
  const std::string advice =
      "a cache takes tokens x width x bytes of its dtype; `thresher run` says how much before it "
      "starts";
  if (free_bytes < kNoSpace) return {Status::kFail, name, found, advice};
  if (free_bytes < kLittleSpace) return {Status::kWarn, name, found, advice};
  return {Status::kOk, name, found};
}

}  // namespace

std::filesystem::path nearest_folder(const std::filesystem::path& folder) {
  std::filesystem::path at = std::filesystem::absolute(folder).lexically_normal();
  while (!std::filesystem::is_directory(at) && at != at.parent_path()) at = at.parent_path();
  return at;
}

std::vector<Check> check_file_system(const std::string& name, const std::filesystem::path& folder) {
  const std::filesystem::path existing = nearest_folder(folder);
  std::vector<Check> checks = {
      {Status::kOk, name, visible_text(folder.string())},
      check_kind(name + ": file system", kind_of(existing)),
      check_space(name + ": space", existing),
  };
  const Scratch scratch(existing);
  if (scratch.path().empty()) {
    checks.push_back({Status::kFail, name + ": writing",
                      fmt::format("cannot make a folder in {}", visible_text(existing.string())),
                      "choose another folder or change its permissions"});
    return checks;
  }
  using Try = Check (*)(const std::string&, const std::filesystem::path&);
  for (const auto& [what, attempt] :
       {std::pair<const char*, Try>{"renaming without replacing", try_rename},
        {"fsync", try_sync},
        {"locks", try_lock}}) {
    try {
      checks.push_back(attempt(fmt::format("{}: {}", name, what), scratch.path()));
    } catch (const Error& error) {
      checks.push_back({Status::kFail, fmt::format("{}: {}", name, what), error.first_line(),
                        "choose a folder on another file system"});
    }
  }
  return checks;
}

}  // namespace thresher::cli
