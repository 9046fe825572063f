#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>

#include "core/error.h"
#include "core/file_calls.h"
#include "core/files.h"
#include "tests/core/power_loss.h"
#include "tests/core/scratch_folder.h"

namespace thresher {
namespace {

using testing::PowerLossRecord;
using testing::ScratchFolder;
using Unsynced = PowerLossRecord::Unsynced;

/// What `action` comes to in a child process with this THRESHER_FAILPOINT: "done", "killed" or the
/// error's first line.
std::string outcome(const std::string& setting, const std::function<void()>& action) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    setenv("THRESHER_FAILPOINT", setting.c_str(), 1);
    std::string text = "done";
    try {
      action();
    } catch (const Error& error) {
      text = error.first_line();
    }
    if (write(ends[1], text.data(), text.size()) < 0) _exit(1);
    _exit(0);
  }
  close(ends[1]);
  std::string text(4096, '\0');
  const ssize_t got = read(ends[0], text.data(), text.size());
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) return "killed";
  return text.substr(0, got < 0 ? 0 : static_cast<std::size_t>(got));
}

class FaultTest : public ::testing::Test {
 protected:
  /// Calls: create, write, fsync, rename, open, fsync.
  void write_both() const {
    write_file_atomically(folder / "a", "new a");
    write_file_atomically(folder / "b", "new b");
  }
  std::string outcome_of(const std::string& setting) const {
    return outcome(setting, [this] { write_both(); });
  }
  std::string path(const char* name) const { return (folder / name).string(); }

  ScratchFolder folder;
};

TEST_F(FaultTest, FailsTheCallOfItsCountWithTheErrorAskedFor) {
  EXPECT_EQ(outcome_of("file.write:2=EIO"), path("b") + ": cannot write: Input/output error");
  EXPECT_EQ(read_text_file(folder / "a"), "new a");
  EXPECT_EQ(list_folder(folder.path()).size(), 1U) << "no b and no temporary";
  EXPECT_EQ(outcome_of("file.fsync:1=ENOSPC"),
            path("a") + ": cannot fsync: disk full: No space left on device");
  EXPECT_EQ(outcome_of("file.rename:2=EACCES"), path("b") + ": cannot rename: Permission denied");
  EXPECT_EQ(outcome_of("file.*:1=EDQUOT"),
            path("a") + ": cannot create: disk full: Disk quota exceeded");
  EXPECT_EQ(outcome_of("file.*:13=EIO"), "done") << "there are twelve calls";
}

TEST_F(FaultTest, LastsWhereAPlusSaysSo) {
  const auto write_twice = [this] {
    try {
      write_file_atomically(folder / "a", "a");
    } catch (const IoError&) {  // NOLINT(bugprone-empty-catch): the second is looked at
    }
    write_file_atomically(folder / "a", "a");
  };
  EXPECT_EQ(outcome("file.fsync:1=EIO", write_twice), "done");
  EXPECT_EQ(outcome("file.fsync:1+=EIO", write_twice),
            path("a") + ": cannot fsync: Input/output error");
}

TEST_F(FaultTest, KillsAtTheCallOfItsCountBeforeItIsMade) {
  EXPECT_EQ(outcome_of("file.rename:2"), "killed");
  EXPECT_EQ(read_text_file(folder / "a"), "new a");
  EXPECT_FALSE(std::filesystem::exists(folder / "b"));
  EXPECT_EQ(outcome_of("file.rename:3"), "done");
}

TEST_F(FaultTest, CostsNothingWhenACallIsInterruptedOrShort) {
  for (const char* setting : {"file.create:1=EINTR", "file.write:1=EINTR", "file.write:1=short",
                              "file.fsync:1=EINTR", "file.rename:1=EINTR"}) {
    std::filesystem::remove(folder / "a");
    EXPECT_EQ(outcome_of(setting), "done") << setting;
    EXPECT_EQ(read_text_file(folder / "a"), "new a") << setting;
  }
  const auto read_back = [this] {
    if (read_text_file(folder / "a") != "new a") throw DataError("something else was read");
  };
  for (const char* setting : {"read.data:1=short", "read.data:1=EINTR", "read.open:1=EINTR"}) {
    EXPECT_EQ(outcome(setting, read_back), "done") << setting;
  }
  EXPECT_EQ(outcome("read.data:1=EIO", read_back), path("a") + ": cannot read: Input/output error");
}

TEST_F(FaultTest, APauseTakesTimeAndNothingElse) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(outcome_of("file.rename:1+=pause300"), "done");
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(300));
  EXPECT_EQ(read_text_file(folder / "a"), "new a");
}

TEST_F(FaultTest, RefusesASettingThatItDoesNotUnderstand) {
  for (const std::string setting :
       {"file.write", "file.write:0", "file.write:1x=EIO", "file.write:1=EWHAT", "file.write:1+",
        "file.write:1+=short", "atomic.synced:1=EIO", "file.write:1=pause",
        "file.write:1=pause0", ":"}) {
    EXPECT_EQ(outcome_of(setting), "THRESHER_FAILPOINT=" + setting + " is malformed");
  }
}

TEST(PowerLossTest, AnAtomicWriteLeavesTheOldBytesOrTheNewAfterEveryCut) {
  const ScratchFolder folder;
  PowerLossRecord record(folder.path());
  write_file_atomically(folder / "a", "old");
  const std::size_t n_old = record.n_operations();
  write_file_atomically(folder / "a", "new and longer");
  std::map<std::string, int> found;
  for (std::size_t cut = n_old; cut <= record.n_operations(); ++cut) {
    for (std::uint64_t lot = 0; lot < 20; ++lot) {
      const ScratchFolder out;
      record.restore(cut, lot == 0 ? Unsynced::kLost : Unsynced::kSomeKept,
                     RandomStream(lot, "test.power_loss"), out.path());
      const std::string text = read_text_file(out / "a");
      ++found[text];
      if (cut == record.n_operations()) {
        EXPECT_EQ(text, "new and longer");
      }
      EXPECT_TRUE(text == "old" || text == "new and longer") << text << " at " << cut;
    }
  }
  EXPECT_EQ(found.size(), 2U);
}

TEST(PowerLossTest, TakesWhatWasNotSynced) {
  const ScratchFolder folder;
  PowerLossRecord record(folder.path());
  const auto left = [&] {
    const ScratchFolder out;
    record.restore(record.n_operations(), Unsynced::kLost, RandomStream(1, "test"), out.path());
    std::string text;
    for (const auto& path : list_folder(out.path())) {
      text += path.filename().string();
      if (std::filesystem::is_regular_file(path)) text += "=" + read_text_file(path);
      text += " ";
    }
    return text;
  };
  FileDescriptor file = create_file(folder / "a");
  write_all(file, std::as_bytes(std::span("12345678", 8)), folder / "a");
  EXPECT_EQ(left(), "");
  sync_folder(folder.path());
  EXPECT_EQ(left(), "a= ") << "a name without bytes";
  sync_file(file, folder / "a");
  EXPECT_EQ(left(), "a=12345678 ");
  truncate_file(file, 2, folder / "a");
  rename_file(folder / "a", folder / "b");
  EXPECT_EQ(left(), "a=12345678 ");
  sync_file(file, folder / "b");
  EXPECT_EQ(left(), "a=12 ") << "the file is synced, its new name is not";
  sync_folder(folder.path());
  EXPECT_EQ(left(), "b=12 ");
  make_folders(folder / "below");
  remove_tree(folder / "b");
  EXPECT_EQ(left(), "b=12 below ");
}

}  // namespace
}  // namespace thresher
