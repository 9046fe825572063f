#include <gtest/gtest.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "activation_cache/commit_log.h"
#include "core/error.h"
#include "core/files.h"
#include "tests/activation_cache/harvest_testing.h"

namespace thresher::activation_cache {
namespace {

using namespace testing;  // NOLINT: what the tests share

/// A file system of a given size, mounted while the object lives.
class SmallDisk {
 public:
  explicit SmallDisk(const std::string& size) {
    const std::string options = "size=" + size;
    is_mounted_ = mount("tmpfs", folder_.path().c_str(), "tmpfs", 0, options.c_str()) == 0;
    if (!is_mounted_) reason_ = std::strerror(errno);
  }
  ~SmallDisk() {
    if (is_mounted_) umount2(folder_.path().c_str(), MNT_DETACH);
  }
  bool is_mounted() const { return is_mounted_; }
  const std::string& reason() const { return reason_; }
  std::filesystem::path operator/(const std::string& name) const { return folder_ / name; }

 private:
  ScratchFolder folder_;
  bool is_mounted_ = false;
  std::string reason_;
};

TEST(HarvestDisk, TooSmallForTheCacheIsRefusedBeforeWork) {
  const SmallDisk disk("1m");
  if (!disk.is_mounted()) GTEST_SKIP() << "cannot mount a tmpfs: " << disk.reason();
  HarvestSetup setup{fake_config(disk / "cache"), 2};
  bool has_worked = false;
  setup.prepare_host = [&](FakeHost& host, int) {
    host.before_pass = [&](int) { has_worked = true; };
  };
  EXPECT_EQ(first_line_of<IoError>([&] { run_harvest(setup); }),
            "rank 0: " + (disk / "cache").string() +
                ": the harvest needs 3.5 MiB more, the disk has 1020.0 KiB free");
  EXPECT_FALSE(has_worked);
}

TEST(HarvestDisk, ThatFillsUpLosesNothing) {
  const ScratchFolder reference;
  run_harvest({fake_config(reference.path())});
  const SmallDisk disk("4m");
  if (!disk.is_mounted()) GTEST_SKIP() << "cannot mount a tmpfs: " << disk.reason();
  HarvestSetup setup{fake_config(disk / "cache")};
  setup.prepare_host = [&](FakeHost& host, int) {
    host.before_pass = [&](int number) {
      if (number != 5) return;
      // Somebody else takes all but 200 KiB; a unit needs about 480.
      const std::uint64_t free = free_disk_bytes(disk / "cache");
      std::ofstream(disk / "other") << std::string(free - (200U << 10), 'x');
    };
  };
  const std::string line = first_line_of<IoError>([&] { run_harvest(setup); });
  EXPECT_NE(line.find("disk full"), std::string::npos) << line;
  EXPECT_TRUE(list_folder(disk / "cache/.tmp").empty());
  EXPECT_EQ(read_committed_units(disk / "cache", read_identity(disk / "cache")).size(), 2U);
  std::filesystem::remove(disk / "other");
  run_harvest({fake_config(disk / "cache")});
  EXPECT_EQ(promised_bytes(disk / "cache"), promised_bytes(reference.path()));
}

}  // namespace
}  // namespace thresher::activation_cache
