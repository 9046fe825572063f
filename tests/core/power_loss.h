#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "core/file_calls.h"
#include "core/random.h"

namespace thresher::testing {

/// Records every change that this process makes below a folder, and says what a disk would hold
/// after the power went off at any moment in between. Nothing is taken for granted but what POSIX
/// grants: fsync of a file keeps its bytes (not its name), fsync of a folder keeps the names in it.
class PowerLossRecord {
 public:
  /// Records from now on, until the object goes. `root` is there and empty.
  explicit PowerLossRecord(std::filesystem::path root);
  ~PowerLossRecord();
  PowerLossRecord(const PowerLossRecord&) = delete;

  struct Event {
    std::string_view call;  // as in core/file_calls.h
    std::string path, to;   // below root ("" is root itself); `to` of a rename
    std::size_t end = 0;    // operations up to and with this one
  };
  const std::vector<Event>& events() const { return events_; }
  std::size_t n_operations() const { return operations_.size(); }

  enum class Unsynced {
    kLost,      // every byte and name that was not synced
    kSomeKept,  // each unsynced write and name on its own by lot, writes cut at a random byte
  };
  /// Writes what is left after the first `n` operations and a power cut into the folder `out`.
  void restore(std::size_t n, Unsynced unsynced, RandomStream random,
               const std::filesystem::path& out) const;

 private:
  using Inode = int;
  struct Operation {
    enum Kind { kWrite, kResize, kName, kSyncFile, kSyncFolder } kind;
    Inode inode;              // the file, or the folder of the name
    std::int64_t offset = 0;  // of the bytes, or the size
    std::string bytes;
    std::string name;
    Inode named = -1;  // -1: the name goes away
  };
  struct Names;

  void record(const file_calls::FileCall& call);
  void record_on_path(const file_calls::FileCall& call, Event& event);
  void record_rename(const file_calls::FileCall& call, const std::string& from,
                     const std::string& to);
  std::string below_root(const std::filesystem::path& path) const;
  Inode find(const std::string& path) const;
  Inode create(const std::string& path, bool is_folder);
  void set_name(const std::string& path, Inode named);
  std::string path_of(Inode inode) const;

  std::filesystem::path root_;
  std::vector<std::map<std::string, Inode>> live_;  // names in each folder; by inode
  std::vector<bool> is_folder_;
  std::map<int, Inode> open_;
  std::vector<Operation> operations_;
  std::vector<Event> events_;
};

}  // namespace thresher::testing
