#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <regex>
#include <stdexcept>

#include "comm/communicator.h"
#include "core/error.h"
#include "tests/comm/contract.h"

namespace thresher::comm {
namespace {

constexpr double kPatience = 60;

class ThreadRanksTest : public testing::TestWithParam<int> {
 protected:
  void on_all_ranks(void (*check)(Communicator&)) {
    run_thread_ranks(GetParam(), kPatience, [&](Communicator& comm) { check(comm); });
  }
};

TEST_P(ThreadRanksTest, SumsAreExact) { on_all_ranks(check_sums_are_exact); }
TEST_P(ThreadRanksTest, ReduceFollowsTheTree) { on_all_ranks(check_reduce_follows_the_tree); }
TEST_P(ThreadRanksTest, ReducesLongBuffers) { on_all_ranks(check_long_buffers); }
TEST_P(ThreadRanksTest, FindsMinAndMax) { on_all_ranks(check_min_and_max); }
TEST_P(ThreadRanksTest, GathersUnequalLengths) { on_all_ranks(check_gather); }
TEST_P(ThreadRanksTest, BroadcastsFromEveryRoot) { on_all_ranks(check_broadcast); }
TEST_P(ThreadRanksTest, KnowsItsPlaceOnTheHost) { on_all_ranks(check_place_on_host); }
TEST_P(ThreadRanksTest, AgreesOnTheLowestRanksError) { on_all_ranks(check_agree); }
TEST_P(ThreadRanksTest, AcceptsNothingToSend) { on_all_ranks(check_nothing_to_send); }

INSTANTIATE_TEST_SUITE_P(Worlds, ThreadRanksTest, testing::Values(1, 2, 3, 4, 5, 8));

TEST(SelfCommunicatorTest, IsAWorldOfOne) {
  const auto comm = make_self_communicator();
  EXPECT_EQ(comm->rank(), 0);
  EXPECT_EQ(comm->world_size(), 1);
  EXPECT_EQ(comm->backend(), "self");
  for (const auto check :
       {check_sums_are_exact, check_reduce_follows_the_tree, check_min_and_max, check_gather,
        check_broadcast, check_place_on_host, check_agree, check_nothing_to_send}) {
    check(*comm);
  }
}

/// What `work` on `ranks` threads ends with, numbers of this run replaced.
std::string failure_of(int ranks, double timeout_seconds,
                       const std::function<void(Communicator&)>& work) {
  try {
    run_thread_ranks(ranks, timeout_seconds, work);
  } catch (const CommError& error) {
    EXPECT_EQ(error.code(), ExitCode::kInternal);
    std::string line = error.first_line();
    line = std::regex_replace(line, std::regex("host [^,]+, pid [0-9]+"), "host H, pid P");
    return std::regex_replace(line, std::regex("waited [0-9.]+ s"), "waited T s");
  }
  return "no error";
}

TEST(ThreadRanksErrorTest, NamesTheRankThatDidNotArrive) {
  for (const int missing : {0, 5, 7}) {
    std::latch everyone_gave_up(8 - 1);
    const std::string line = failure_of(8, 0.2, [&](Communicator& comm) {
      std::vector<float> gradient(6553600 / 100);
      comm.barrier("start");
      if (comm.rank() == missing) {
        everyone_gave_up.wait();
        return;
      }
      try {
        comm.all_reduce_sum(gradient, "grad.W_dec");
      } catch (...) {
        everyone_gave_up.count_down();
        throw;
      }
    });
    // Whoever reaches the deadline first speaks for all.
    EXPECT_EQ(std::regex_replace(line, std::regex("^rank [0-7] of"), "rank R of"),
              fmt::format("rank R of 8 (host H, pid P) waited T s in all_reduce #1 grad.W_dec "
                          "(256.0 KiB); rank {} did not arrive",
                          missing));
  }
}

TEST(ThreadRanksErrorTest, NamesAllRanksThatDidNotArriveAtARootedCall) {
  std::latch everyone_gave_up(1);
  const std::string line = failure_of(3, 0.2, [&](Communicator& comm) {
    if (comm.rank() != 0) return everyone_gave_up.wait();
    try {
      comm.barrier("end");
    } catch (...) {
      everyone_gave_up.count_down();
      throw;
    }
  });
  EXPECT_EQ(line,
            "rank 0 of 3 (host H, pid P) waited T s in barrier #0 end; ranks 1, 2 did not arrive");
}

TEST(ThreadRanksErrorTest, ReportsDifferentCallsAsAMismatch) {
  const std::string line = failure_of(2, kPatience, [](Communicator& comm) {
    std::vector<float> gradient(1024);
    comm.barrier("start");
    if (comm.rank() == 0) {
      comm.all_reduce_sum(gradient, "grad.W_dec");
    } else {
      comm.barrier("end");
    }
  });
  EXPECT_EQ(
      line,
      "rank 0 of 2 (host H, pid P) is in all_reduce #1 grad.W_dec (4.0 KiB), but rank 1 is in "
      "barrier #1 end");
}

TEST(ThreadRanksErrorTest, ReportsDifferentLengthsAsAMismatch) {
  const std::string line = failure_of(4, kPatience, [](Communicator& comm) {
    std::vector<float> gradient(comm.rank() == 3 ? 512 : 1024);
    comm.all_reduce_sum(gradient, "grad.W_dec");
  });
  EXPECT_TRUE(std::regex_match(
      line, std::regex("rank [0-3] of 4 \\(host H, pid P\\) is in all_reduce #0 grad.W_dec "
                       "\\([24].0 KiB\\), but rank [0-3] is in all_reduce #0 grad.W_dec "
                       "\\([24].0 KiB\\)")))
      << line;
}

TEST(ThreadRanksErrorTest, ReportsDifferentRootsAsAMismatch) {
  const std::string line = failure_of(2, kPatience, [](Communicator& comm) {
    std::vector<std::byte> bytes;
    comm.broadcast(bytes, comm.rank(), "news");
  });
  EXPECT_NE(line.find("is in broadcast #0 news"), std::string::npos) << line;
}

TEST(ThreadRanksErrorTest, RethrowsTheCauseAndNotTheConsequences) {
  std::atomic<int> woken = 0;
  EXPECT_THROW(run_thread_ranks(4, kPatience,
                                [&](Communicator& comm) {
                                  if (comm.rank() == 2) throw DataError("shard 7 is damaged");
                                  try {
                                    comm.barrier("end");
                                  } catch (const CommError&) {
                                    ++woken;
                                    throw;
                                  }
                                }),
               DataError);
  EXPECT_EQ(woken, 3);
}

TEST(ThreadRanksErrorTest, RefusesCallsAfterAFailedOne) {
  run_thread_ranks(1, kPatience, [](Communicator& comm) { comm.barrier("alone"); });
  const std::string line = failure_of(2, kPatience, [](Communicator& comm) {
    if (comm.rank() == 1) throw CommError("gone");
    EXPECT_THROW(comm.barrier("first"), CommError);
    comm.barrier("second");
  });
  EXPECT_EQ(line,
            "rank 0 of 2 (host H, pid P) entered barrier second after barrier #0 first had failed");
}

TEST(ThreadRanksErrorTest, AgreeCarriesABugAsAnInternalError) {
  try {
    run_thread_ranks(2, kPatience, [](Communicator& comm) {
      comm.agree(
          [&] {
            if (comm.rank() == 1) throw std::out_of_range("vector::at");
          },
          "work");
    });
    FAIL() << "expected InternalError";
  } catch (const InternalError& error) {
    EXPECT_STREQ(error.what(), "rank 1: vector::at");
  }
}

}  // namespace
}  // namespace thresher::comm
