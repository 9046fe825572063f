#include "core/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>

#include "core/error.h"
#include "core/json.h"
#include "core/system_error.h"
#include "tests/core/scratch_folder.h"

namespace thresher {
namespace {

using testing::first_line_of;
using testing::ScratchFolder;

/// Runs `action` in a child process and returns how that ended, as from waitpid.
int status_of_child(const std::function<void()>& action) {
  const pid_t child = fork();
  if (child == 0) {
    try {
      action();
    } catch (...) {
      _exit(99);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

TEST(AtomicWriteTest, ReplacesTheFileAndLeavesNothingElse) {
  const ScratchFolder folder;
  write_file_atomically(folder / "a", "old");
  write_file_atomically(folder / "a", "new and longer");
  EXPECT_EQ(read_text_file(folder / "a"), "new and longer");
  EXPECT_EQ(list_folder(folder.path()).size(), 1U);
}

struct KillCase {
  const char* failpoint;
  const char* content;
};

class AtomicWriteKillTest : public ::testing::TestWithParam<KillCase> {};

TEST_P(AtomicWriteKillTest, AKilledWriterLeavesTheOldBytesOrTheNew) {
  const ScratchFolder folder;
  write_file_atomically(folder / "a", "old");
  const int status = status_of_child([&] {
    setenv("THRESHER_FAILPOINT", GetParam().failpoint, 1);
    write_file_atomically(folder / "a", "new");
  });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
  EXPECT_EQ(read_text_file(folder / "a"), GetParam().content);
  for (const auto& entry : list_folder(folder.path())) {
    const std::string name = entry.filename().string();
    EXPECT_TRUE(name == "a" || name.starts_with(".tmp-")) << name;
  }
}

std::string point_name(const ::testing::TestParamInfo<KillCase>& test) {
  std::string name = test.param.failpoint;
  for (char& c : name) c = c == '.' || c == ':' ? '_' : c;
  return name;
}

INSTANTIATE_TEST_SUITE_P(EveryPoint, AtomicWriteKillTest,
                         ::testing::Values(KillCase{"atomic.created:1", "old"},
                                           KillCase{"atomic.written:1", "old"},
                                           KillCase{"atomic.synced:1", "old"},
                                           KillCase{"atomic.renamed:1", "new"},
                                           KillCase{"atomic.folder_synced:1", "new"}),
                         point_name);

TEST(FailpointTest, KillsAtTheCallOfItsCountAndNoEarlier) {
  const auto calls_of = [](const char* setting, int calls) {
    return status_of_child([=] {
      setenv("THRESHER_FAILPOINT", setting, 1);
      for (int i = 0; i < calls; ++i) {
        failpoint("one");
        failpoint("another");
      }
    });
  };
  EXPECT_TRUE(WIFEXITED(calls_of("one:3", 2)));
  EXPECT_TRUE(WIFSIGNALED(calls_of("one:3", 3)));
  EXPECT_TRUE(WIFEXITED(calls_of("on:1", 3)));
  const int malformed = calls_of("one:zero", 1);
  EXPECT_TRUE(WIFEXITED(malformed) && WEXITSTATUS(malformed) == 99);
}

TEST(AtomicWriteTest, AFailedWriteLeavesTheOldFileAndNoTemporary) {
  const ScratchFolder folder;
  write_file_atomically(folder / "a", "old");
  EXPECT_THROW(write_file_atomically(
                   folder / "a", [](const FileDescriptor&) { throw DataError("content: bad"); }),
               DataError);
  EXPECT_EQ(read_text_file(folder / "a"), "old");
  EXPECT_EQ(list_folder(folder.path()).size(), 1U);
}

TEST(FileErrorTest, NamesPathOperationAndReason) {
  const ScratchFolder folder;
  const std::string base = folder.path().string();
  EXPECT_EQ(first_line_of<IoError>([&] { open_for_reading(folder / "none"); }),
            base + "/none: cannot open: No such file or directory");
  EXPECT_EQ(first_line_of<IoError>([&] { open_for_reading(folder.path()); }),
            base + ": is a folder");
  EXPECT_EQ(first_line_of<IoError>([&] { write_file_atomically(folder / "x/y", "text"); }),
            base + "/x/y: cannot create: No such file or directory");
  EXPECT_EQ(first_line_of<IoError>([&] { list_folder(folder / "none"); }),
            base + "/none: cannot list: No such file or directory");
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(first_line_of<IoError>([&] { read_text_file(folder / "pipe"); }),
            base + "/pipe: is not a regular file");
}

TEST(FileErrorTest, CallsAFullDiskByItsName) {
  const FileDescriptor full(open("/dev/full", O_WRONLY));
  ASSERT_TRUE(full);
  const std::string text(4096, 'x');
  EXPECT_EQ(first_line_of<IoError>([&] {
              write_all(full, std::as_bytes(std::span(text.data(), text.size())), "out.bin");
            }),
            "out.bin: cannot write: disk full: No space left on device");
}

TEST(ReadTest, RefusesAFileAboveTheLimitBeforeAllocating) {
  const ScratchFolder folder;
  const auto path = folder / "sparse";
  std::ofstream(path).put('x');
  std::filesystem::resize_file(path, 1ULL << 42U);
  EXPECT_EQ(first_line_of<DataError>([&] { read_text_file(path); }),
            path.string() + ": the file has 4398046511104 bytes");
  EXPECT_EQ(first_line_of<DataError>([&] { read_binary_file(path, 10); }),
            path.string() + ": the file has 4398046511104 bytes");
}

TEST(ReadTest, SaysWhereATruncatedFileEnds) {
  const ScratchFolder folder;
  write_file_atomically(folder / "a", "0123456789");
  const FileDescriptor file = open_for_reading(folder / "a");
  std::vector<std::byte> out(6);
  read_at(file, 4, out, folder / "a");
  EXPECT_EQ(std::to_integer<char>(out[0]), '4');
  EXPECT_EQ(first_line_of<DataError>([&] { read_at(file, 5, out, folder / "a"); }),
            (folder / "a").string() + ": the file ends at byte 10, 6 bytes from byte 5 are due");
}

TEST(RenameTest, NeverReplacesAFileOrAFolder) {
  const ScratchFolder folder;
  write_file_atomically(folder / "a", "a");
  write_file_atomically(folder / "b", "b");
  EXPECT_FALSE(rename_no_replace(folder / "a", folder / "b"));
  EXPECT_EQ(read_text_file(folder / "b"), "b");
  EXPECT_TRUE(rename_no_replace(folder / "a", folder / "c"));
  EXPECT_EQ(read_text_file(folder / "c"), "a");
  make_folders(folder / "empty");
  make_folders(folder / "full/inside");
  EXPECT_FALSE(rename_no_replace(folder / "full", folder / "empty"));
  EXPECT_TRUE(rename_no_replace(folder / "full", folder / "moved"));
  EXPECT_TRUE(std::filesystem::is_directory(folder / "moved/inside"));
  EXPECT_THROW(rename_no_replace(folder / "none", folder / "d"), IoError);
}

TEST(FolderTest, MakesParentsAndAcceptsWhatIsThere) {
  const ScratchFolder folder;
  make_folders(folder / "x/y/z");
  make_folders(folder / "x/y/z");
  make_folders(folder / "x/trailing/");
  EXPECT_TRUE(std::filesystem::is_directory(folder / "x/y/z"));
  EXPECT_TRUE(std::filesystem::is_directory(folder / "x/trailing"));
  write_file_atomically(folder / "file", "text");
  EXPECT_EQ(first_line_of<IoError>([&] { make_folders(folder / "file"); }),
            (folder / "file").string() + ": cannot create folder: File exists");
  EXPECT_EQ(first_line_of<IoError>([&] { make_folders(folder / "file/below"); }),
            (folder / "file/below").string() + ": cannot create folder: Not a directory");
}

TEST(FolderTest, ListsInByteOrder) {
  const ScratchFolder folder;
  for (const char* name : {"b", "B", "a10", "a2", "\xC3\xA9"}) {
    write_file_atomically(folder / name, "x");
  }
  std::vector<std::string> names;
  for (const auto& entry : list_folder(folder.path())) names.push_back(entry.filename().string());
  EXPECT_EQ(names, (std::vector<std::string>{"B", "a10", "a2", "b", "\xC3\xA9"}));
}

TEST(FolderTest, KnowsTheFreeSpaceOfAPathThatIsNotThereYet) {
  const ScratchFolder folder;
  EXPECT_GT(free_disk_bytes(folder / "not/yet/there"), 0U);
}

TEST(SafeFileNameTest, RefusesEverythingThatCouldLeaveTheFolder) {
  for (const char* good : {"a", "00000042.h5", "w003.log", "A_b-c.d"}) {
    EXPECT_TRUE(is_safe_file_name(good)) << good;
  }
  for (const char* bad : {"", ".", "..", "../a", "a/b", "/a", ".hidden", "-rf", "a b", "a\nb",
                          "a\\b", "\xC3\xA9", "a:b", "~"}) {
    EXPECT_FALSE(is_safe_file_name(bad)) << bad;
  }
  EXPECT_FALSE(is_safe_file_name(std::string_view("a\0b", 3)));
  EXPECT_TRUE(is_safe_file_name(std::string(128, 'a')));
  EXPECT_FALSE(is_safe_file_name(std::string(129, 'a')));
}

TEST(FolderLockTest, TellsTheSecondWhoHoldsIt) {
  const ScratchFolder folder;
  const FolderLock lock(folder.path(), "harvest");
  const Json record = Json::parse(read_text_file(folder / "lock"), "lock");
  const std::string expected = folder.path().string() +
                               ": train cannot start, the folder is locked by harvest on host " +
                               host_name() + ", pid " + std::to_string(getpid()) + ", since " +
                               record.at("start").as_string();
  EXPECT_EQ(first_line_of<ConfigError>([&] { FolderLock(folder.path(), "train"); }), expected);
  EXPECT_EQ(record.at("start").as_string().size(), std::string("2026-01-31T12:00:00Z").size());
}

TEST(FolderLockTest, IsFreeAfterReleaseAndAfterAMove) {
  const ScratchFolder folder;
  {
    FolderLock first(folder.path(), "harvest");
    const FolderLock second(std::move(first));
    EXPECT_THROW(FolderLock(folder.path(), "harvest"), ConfigError);
  }
  EXPECT_NO_THROW(FolderLock(folder.path(), "harvest"));
}

TEST(FolderLockTest, AKilledHolderLeavesNoLock) {
  const ScratchFolder folder;
  const int status = status_of_child([&] {
    const FolderLock lock(folder.path(), "a longer name than the next holder's");
    raise(SIGKILL);
  });
  ASSERT_TRUE(WIFSIGNALED(status));
  const FolderLock lock(folder.path(), "next");
  EXPECT_EQ(Json::parse(read_text_file(folder / "lock"), "lock").at("what").as_string(), "next");
}

TEST(FileDescriptorTest, ClosesOnceWhoeverOwnsIt) {
  const ScratchFolder folder;
  write_file_atomically(folder / "a", "a");
  FileDescriptor first = open_for_reading(folder / "a");
  const int number = first.get();
  FileDescriptor second(std::move(first));
  FileDescriptor third = open_for_reading(folder / "a");
  const int other = third.get();
  third = std::move(second);
  EXPECT_EQ(third.get(), number);
  EXPECT_EQ(fcntl(other, F_GETFD), -1);
  EXPECT_NE(fcntl(number, F_GETFD), -1);
}

}  // namespace
}  // namespace thresher
