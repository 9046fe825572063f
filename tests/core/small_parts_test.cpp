#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <limits>

#include "core/byte_reader.h"
#include "core/checked.h"
#include "core/error.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/stop_signal.h"
#include "core/visible_text.h"
#include "tests/core/scratch_folder.h"

namespace thresher {
namespace {

using testing::first_line_of;

TEST(CheckedTest, OverflowIsAnErrorWithBothValues) {
  EXPECT_EQ(checked_multiply(1ULL << 32U, (1ULL << 32U) - 1, "rows"), 0xFFFFFFFF00000000ULL);
  EXPECT_EQ(first_line_of<DataError>(
                [] { checked_multiply(4294967296ULL, 4294967296ULL, "f.gguf: tensor \"a\""); }),
            "f.gguf: tensor \"a\": 4294967296 x 4294967296 overflows");
  EXPECT_EQ(checked_add(~0ULL - 1, 1, "end"), ~0ULL);
  EXPECT_EQ(first_line_of<DataError>([] { checked_add(~0ULL, 1, "end"); }),
            "end: 18446744073709551615 + 1 overflows");
}

TEST(ByteReaderTest, ReadsLittleEndianAndRefusesWhatIsNotThere) {
  const std::string text("\x01\x02\x03\x04\x05\x06", 6);
  ByteReader reader(std::as_bytes(std::span(text)), "a.bin");
  EXPECT_EQ(reader.read<std::uint32_t>("a count"), 0x04030201U);
  EXPECT_EQ(reader.offset(), 4U);
  EXPECT_EQ(reader.remaining(), 2U);
  EXPECT_EQ(first_line_of<DataError>([&] { reader.read<std::uint32_t>("a length"); }),
            "a.bin: at byte 4: a length needs 4 bytes, 2 are left");
  EXPECT_EQ(first_line_of<DataError>([&] { reader.take(~0ULL, "a name"); }),
            "a.bin: at byte 4: a name needs 18446744073709551615 bytes, 2 are left");
  EXPECT_EQ(reader.take(2, "the rest").size(), 2U);
  EXPECT_EQ(reader.remaining(), 0U);
}

TEST(ErrorTest, HasOneLineForTheLogAndTheRestForThePerson) {
  const ConfigError error("a.yaml:3:5: k is 0", "at least 1", "set k to 32");
  EXPECT_STREQ(error.what(), "a.yaml:3:5: k is 0\n  expected: at least 1\n  hint: set k to 32");
  EXPECT_EQ(error.first_line(), "a.yaml:3:5: k is 0");
  EXPECT_EQ(error.code(), ExitCode::kConfig);
  EXPECT_EQ(static_cast<int>(IoError("x").code()), 74);
  EXPECT_EQ(static_cast<int>(DataError("x").code()), 65);
  const std::string bug = first_line_of<InternalError>([] { THRESHER_CHECK(1 > 2, "no order"); });
  EXPECT_NE(bug.find("small_parts_test.cpp:"), std::string::npos);
  EXPECT_NE(bug.find("no order (check failed: 1 > 2)"), std::string::npos);
}

TEST(VisibleTextTest, ShowsWhatATerminalWouldActOn) {
  EXPECT_EQ(visible_text("plain, \u00e4\u4e2d\U0001f600"), "plain, \u00e4\u4e2d\U0001f600");
  EXPECT_EQ(visible_text("a\nb\tc\rd\\"), "a\\nb\\tc\\rd\\\\");
  EXPECT_EQ(visible_text(std::string_view("\x1b[31m\0\x7f", 7)), "\\x1b[31m\\x00\\x7f");
  EXPECT_EQ(visible_text("\xff\xc3(\xed\xa0\x80"), "\\xff\\xc3(\\xed\\xa0\\x80");
  EXPECT_EQ(visible_text("\u202egnp.exe\u2066\u2028\u200b\ufeff\u0085"),
            "\\u{202e}gnp.exe\\u{2066}\\u{2028}\\u{200b}\\u{feff}\\xc2\\x85");
  EXPECT_EQ(visible_text("\U0001fffe\U000e0041"), "\\u{1fffe}\\u{e0041}");
}

TEST(VisibleTextTest, LeavesTheLinesOfAMessage) {
  EXPECT_EQ(harmless_text("error: C:\\x\x1b]0;t\a\n\thint: no\r\n"),
            "error: C:\\x\\x1b]0;t\\x07\n\thint: no\\r\n");
}

TEST(VisibleTextTest, CountsColumnsNotBytes) { EXPECT_EQ(display_width("a\u00e4\u4e2d"), 3U); }

TEST(FormatTest, SaysSizesTimesAndCountsAsPeopleDo) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes(1048575), "1.0 MiB");
  EXPECT_EQ(format_bytes(1503238554), "1.4 GiB");
  EXPECT_EQ(format_bytes(~0ULL), "16.0 EiB");
  EXPECT_EQ(format_duration(0.04), "0.0 s");
  EXPECT_EQ(format_duration(9.96), "10 s");
  EXPECT_EQ(format_duration(59.6), "1 min 00 s");
  EXPECT_EQ(format_duration(200), "3 min 20 s");
  EXPECT_EQ(format_duration(7500), "2 h 05 min");
  EXPECT_EQ(format_duration(273'600), "3 d 04 h");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "unknown time");
  EXPECT_EQ(format_count(0.53), "0.53");
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_count(950), "950");
  EXPECT_EQ(format_count(999.6), "1.0k");
  EXPECT_EQ(format_count(12'345), "12.3k");
  EXPECT_EQ(format_count(999'960), "1.0M");
  EXPECT_EQ(format_count(-1'234'567), "-1.2M");
}

class LogTest : public ::testing::Test {
 protected:
  ~LogTest() override {
    set_log_level(LogLevel::kInfo);
    set_log_rank(0, 1);
  }
  /// What `action` writes to standard error, with digits of the clock replaced by '#'.
  static std::string stderr_of(const std::function<void()>& action) {
    ::testing::internal::CaptureStderr();
    action();
    std::string text = ::testing::internal::GetCapturedStderr();
    for (std::size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
      for (std::size_t i = at; i < at + 8 && i < text.size(); ++i) {
        if (text[i] >= '0' && text[i] <= '9') text[i] = '#';
      }
    }
    return text;
  }
};

TEST_F(LogTest, WritesTimeLevelAndText) {
  EXPECT_EQ(
      stderr_of([] {
        log_debug("not shown");
        log_info("{} is no placeholder");
        log_warning("careful");
        log_error("broken");
      }),
      "##:##:## info {} is no placeholder\n##:##:## warning careful\n##:##:## error broken\n");
}

TEST_F(LogTest, OtherRanksOnlyWarnAndSayWhoTheyAre) {
  set_log_rank(2, 4);
  EXPECT_EQ(stderr_of([] {
              log_info("not shown");
              log_warning("careful");
            }),
            "##:##:## warning [rank 2/4] careful\n");
  set_log_rank(0, 4);
  EXPECT_EQ(stderr_of([] { log_info("hello"); }), "##:##:## info [rank 0/4] hello\n");
}

TEST_F(LogTest, LevelsAreNamesAndCutOff) {
  set_log_level(parse_log_level("error"));
  EXPECT_EQ(stderr_of([] { log_warning("not shown"); }), "");
  set_log_level(parse_log_level("debug"));
  EXPECT_EQ(stderr_of([] { log_debug("shown"); }), "##:##:## debug shown\n");
  EXPECT_EQ(first_line_of<UsageError>([] { parse_log_level("loud"); }),
            "log level \"loud\" is not known");
}

TEST_F(LogTest, ProgressInAFileIsOneClosingLineForAShortJob) {
  const std::string text = stderr_of([] {
    Progress progress("harvest", "tokens", 1000, 400);
    for (std::int64_t done = 400; done <= 1000; ++done) progress.update(done, "fvu 0.3");
    progress.finish();
    progress.finish();
    EXPECT_GT(progress.rate(), 0.0);
  });
  EXPECT_TRUE(text.starts_with("##:##:## info harvest: 600 tokens in 0.0 s, ")) << text;
  EXPECT_TRUE(text.ends_with("tokens/s\n")) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  EXPECT_EQ(stderr_of([] { Progress("train", "tokens", 10, 0, false).finish(); }), "");
  EXPECT_EQ(stderr_of([] { Progress("train", "tokens", 10).update(5); }), "");
}

TEST(StopSignalTest, TheFirstSignalSetsAFlagTheSecondEndsTheProcess) {
  for (const int signal : {SIGUSR1, SIGTERM, SIGINT}) {
    const pid_t child = fork();
    if (child == 0) {
      install_stop_signals();
      if (stop_requested()) _exit(1);
      raise(signal);
      if (!stop_requested()) _exit(2);
      set_stop_requested(false);
      if (stop_requested()) _exit(3);
      raise(signal);
      raise(signal);
      _exit(4);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "exit " << WEXITSTATUS(status);
    EXPECT_EQ(WTERMSIG(status), signal);
  }
}

/// Runs `work` in a child process, which has its own age and flags.
std::string in_child(const std::function<std::string()>& work) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    const std::string text = work();
    [[maybe_unused]] const ssize_t written = write(ends[1], text.data(), text.size());
    _exit(0);
  }
  close(ends[1]);
  std::string text(4096, '\0');
  const ssize_t n = read(ends[0], text.data(), text.size());
  close(ends[0]);
  waitpid(child, nullptr, 0);
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return text;
}

TEST(StopSignalTest, SaysWhatStoppedTheProcess) {
  EXPECT_EQ(in_child([] {
              install_stop_signals();
              if (seconds_since_stop_signal()) return std::string("too early");
              raise(SIGUSR1);
              return stop_reason() + (seconds_since_stop_signal() ? "" : ", but when?");
            }),
            "a signal (SIGUSR1)");
  EXPECT_EQ(in_child([] { return stop_reason(); }), "another rank");
}

TEST(StopSignalTest, ALimitOfTimeStopsAsASignalDoes) {
  EXPECT_EQ(in_child([] {
              stop_after(3600 * 1e5);
              if (stop_requested()) return std::string("too early");
              stop_after(0);
              return stop_requested() ? stop_reason() : std::string("not at all");
            }),
            "the limit of 0 minutes");
}

}  // namespace
}  // namespace thresher
