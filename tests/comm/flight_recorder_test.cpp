#include "comm/flight_recorder.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/files.h"

namespace thresher::comm {
namespace {

class FlightRecorderTest : public testing::Test {
 protected:
  FlightRecorderTest() {
    std::string pattern = testing::TempDir() + "flight-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~FlightRecorderTest() override { std::filesystem::remove_all(folder_); }
  FlightRecord read(int rank = 0) const {
    return read_flight_record(flight_record_path(folder_, rank));
  }
  std::string error_of_reading() const {
    try {
      read();
    } catch (const DataError& error) {
      return error.first_line();
    }
    return "no error";
  }

  std::filesystem::path folder_;
};

TEST_F(FlightRecorderTest, KeepsTheCallsOfAProcessThatWasKilled) {
  const pid_t child = fork();
  if (child == 0) {
    FlightRecorder recorder(folder_, 3, 8);
    recorder.begin("all_reduce", 41, "grad.W_dec", 1024);
    recorder.end();
    recorder.begin("barrier", 42, "end", 0);
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));

  const FlightRecord record = read(3);
  EXPECT_EQ(record.rank, 3);
  EXPECT_EQ(record.world_size, 8);
  EXPECT_EQ(record.pid, child);
  EXPECT_EQ(record.state, FlightRecord::State::kRunning);
  ASSERT_EQ(record.calls.size(), 2U);
  EXPECT_EQ(record.calls[0].operation, "all_reduce");
  EXPECT_EQ(record.calls[0].what, "grad.W_dec");
  EXPECT_EQ(record.calls[0].bytes, 1024U);
  EXPECT_GE(record.calls[0].ended_ns, record.calls[0].begun_ns);
  EXPECT_EQ(record.calls[1].sequence, 42U);
  EXPECT_EQ(record.calls[1].ended_ns, 0);
  EXPECT_EQ(describe_last_call(record, record.calls[1].begun_ns + 2'500'000'000),
            "in barrier #42 end for 2.5 s");
}

TEST_F(FlightRecorderTest, KeepsTheLastCallsOnly) {
  FlightRecorder recorder(folder_, 0, 1);
  for (std::uint64_t i = 0; i < FlightRecorder::kCalls + 5; ++i) {
    recorder.begin("barrier", i, "step", 0);
    recorder.end();
  }
  const FlightRecord record = read();
  ASSERT_EQ(record.calls.size(), FlightRecorder::kCalls);
  EXPECT_EQ(record.calls.front().sequence, 5U);
  EXPECT_EQ(record.calls.back().sequence, FlightRecorder::kCalls + 4);
}

TEST_F(FlightRecorderTest, CutsLongNamesAndShowsWhatATerminalWouldActOn) {
  FlightRecorder recorder(folder_, 0, 1);
  recorder.begin("all_gather", 0, "\x1b[2J" + std::string(200, 'x'), 0);
  const std::string what = read().calls.at(0).what;
  EXPECT_EQ(what, "\\x1b[2J" + std::string(67, 'x'));
}

TEST_F(FlightRecorderTest, SaysHowARankEnded) {
  FlightRecorder recorder(folder_, 0, 1);
  recorder.note_state(FlightRecord::State::kFailed);
  recorder.note_signal(SIGSEGV);
  EXPECT_EQ(read().state, FlightRecord::State::kFailed);
  EXPECT_EQ(read().signal, SIGSEGV);
  EXPECT_EQ(describe_last_call(read(), 0), "before its first call");
}

TEST_F(FlightRecorderTest, RefusesWhatIsNoRecord) {
  const auto path = flight_record_path(folder_, 0);
  std::ofstream(path) << "short";
  EXPECT_EQ(error_of_reading(), path.string() + ": has 5 bytes");
  std::filesystem::remove(path);
  const FlightRecorder recorder(folder_, 0, 1);
  std::fstream(path, std::ios::in | std::ios::out) << "X";
  EXPECT_EQ(error_of_reading(), path.string() + ": does not begin as a flight record");
}

TEST_F(FlightRecorderTest, DoesNotWriteOverAnotherProcesssRecord) {
  const FlightRecorder recorder(folder_, 0, 1);
  EXPECT_THROW(FlightRecorder(folder_, 0, 1), IoError);
}

}  // namespace
}  // namespace thresher::comm
