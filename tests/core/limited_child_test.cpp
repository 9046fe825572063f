#include "core/limited_child.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>
#include <stdexcept>
#include <string>

#include "core/error.h"
#include "tests/core/scratch_folder.h"

namespace thresher {
namespace {

using testing::first_line_of;

std::string problem_of(const std::function<void()>& work, const ChildLimits& limits = {}) {
  return first_line_of<DataError>([&] { rehearse_in_child("a.h5", work, limits); });
}

TEST(LimitedChildTest, ReturnsWhereTheWorkReturnsAndChangesNothingHere) {
  int value = 1;
  rehearse_in_child("a.h5", [&] { value = 2; });
  EXPECT_EQ(value, 1);
}

TEST(LimitedChildTest, HandsBackWhatTheWorkLeftInSharedBytes) {
  const SharedBytes shared(1 << 20, "a.h5");
  auto* bytes = static_cast<unsigned char*>(shared.data());
  EXPECT_EQ(bytes[0], 0);
  rehearse_in_child("a.h5", [&] { bytes[0] = 7, bytes[(1 << 20) - 1] = 9; });
  EXPECT_EQ(bytes[0], 7);
  EXPECT_EQ(bytes[(1 << 20) - 1], 9);
}

TEST(LimitedChildTest, ThrowsWhatTheWorkThrew) {
  EXPECT_EQ(problem_of([] { throw DataError("a.h5: damaged", "sound", "fetch it again"); }),
            "a.h5: damaged");
  EXPECT_EQ(first_line_of<ConfigError>([] {
              rehearse_in_child("a.h5", [] { throw ConfigError("a.h5: no such table"); });
            }),
            "a.h5: no such table");
  EXPECT_EQ(first_line_of<IoError>(
                [] { rehearse_in_child("a.h5", [] { throw IoError("a.h5: cannot be read"); }); }),
            "a.h5: cannot be read");
  try {
    rehearse_in_child("a.h5", [] { throw DataError("a.h5: damaged", "sound", "fetch it again"); });
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "a.h5: damaged\n  expected: sound\n  hint: fetch it again");
  }
}

TEST(LimitedChildTest, TurnsACrashIntoAnError) {
  EXPECT_EQ(problem_of([] { raise(SIGSEGV); }),
            "a.h5: reading it crashes the library (Segmentation fault)");
  EXPECT_EQ(problem_of([] { raise(SIGABRT); }), "a.h5: reading it crashes the library (Aborted)");
  EXPECT_EQ(problem_of([] { throw std::runtime_error("odd"); }), "a.h5: reading it fails");
  EXPECT_EQ(problem_of([] { _exit(9); }), "a.h5: reading it fails");
}

TEST(LimitedChildTest, LimitsMemory) {
  const auto map = [](std::size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
  };
  EXPECT_EQ(problem_of([&] { map(128U << 20); }, {.memory_bytes = 64U << 20}),
            "a.h5: reading it takes more than 64 MiB of memory");
  EXPECT_EQ(problem_of([&] { map(32U << 20); }, {.memory_bytes = 64U << 20}), "no error");
}

TEST(LimitedChildTest, LimitsProcessorTime) {
  const auto spin = [] {
    for (volatile int i = 0;;) {
      i = 1 - i;
    }
  };
  EXPECT_EQ(problem_of(spin, {.cpu_seconds = 1}),
            "a.h5: reading it takes more than 1 s of processor time");
}

}  // namespace
}  // namespace thresher
