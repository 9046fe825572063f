#include <fmt/format.h>
#include <gtest/gtest.h>

#include <regex>

#include "comm/communicator.h"
#include "core/error.h"
#include "tests/comm/contract.h"

namespace thresher::comm {
namespace {

class MpiRanksTest : public testing::Test {
 protected:
  void SetUp() override { comm_ = make_mpi_communicator(60); }
  std::unique_ptr<Communicator> comm_;
};

TEST_F(MpiRanksTest, IsLaunchedByMpi) {
  EXPECT_TRUE(is_launched_by_mpi());
  EXPECT_EQ(comm_->backend(), "mpi");
}
TEST_F(MpiRanksTest, SumsAreExact) { check_sums_are_exact(*comm_); }
TEST_F(MpiRanksTest, ReduceFollowsTheTree) { check_reduce_follows_the_tree(*comm_); }
TEST_F(MpiRanksTest, ReducesLongBuffers) { check_long_buffers(*comm_); }
TEST_F(MpiRanksTest, FindsMinAndMax) { check_min_and_max(*comm_); }
TEST_F(MpiRanksTest, GathersUnequalLengths) { check_gather(*comm_); }
TEST_F(MpiRanksTest, BroadcastsFromEveryRoot) { check_broadcast(*comm_); }
TEST_F(MpiRanksTest, KnowsItsPlaceOnTheHost) { check_place_on_host(*comm_); }
TEST_F(MpiRanksTest, AgreesOnTheLowestRanksError) { check_agree(*comm_); }
TEST_F(MpiRanksTest, AcceptsNothingToSend) { check_nothing_to_send(*comm_); }

/// The first line of the error that `work` ends with, numbers of this run replaced.
std::string failure_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const CommError& error) {
    std::string line = error.first_line();
    line = std::regex_replace(line, std::regex("host [^,]+, pid [0-9]+"), "host H, pid P");
    return std::regex_replace(line, std::regex("waited [0-9.]+ s"), "waited T s");
  }
  return "no error";
}

TEST_F(MpiRanksTest, NamesTheRankThatDidNotArrive) {
  const int world = comm_->world_size();
  if (world == 1) return;
  const int missing = world - 1;
  const auto impatient = make_mpi_communicator(2.0);
  comm_->barrier("start");
  if (comm_->rank() != missing) {
    std::vector<float> gradient(65536);
    const std::string line = failure_of([&] { impatient->all_reduce_sum(gradient, "grad.W_dec"); });
    EXPECT_EQ(line,
              fmt::format("rank {} of {} (host H, pid P) waited T s in all_reduce #0 grad.W_dec "
                          "(256.0 KiB); rank {} did not arrive",
                          comm_->rank(), world, missing));
  }
  comm_->barrier("after the error");
}

TEST_F(MpiRanksTest, ReportsDifferentCallsAsAMismatch) {
  const int world = comm_->world_size();
  if (world == 1 || world == 3) return;  // ranks 1 and 2 of 3 only see rank 0
  const auto broken = make_mpi_communicator(60);
  const int other = comm_->rank() ^ 1;
  // Odd ranks have come apart from even ones; everybody's first partner is of the other kind.
  const bool is_even = comm_->rank() % 2 == 0;
  const std::string reduce = "all_reduce #0 grad.W_dec (4.0 KiB)", barrier = "barrier #0 end";
  const std::string line = failure_of([&] {
    std::vector<float> gradient(1024);
    if (is_even) {
      broken->all_reduce_sum(gradient, "grad.W_dec");
    } else {
      broken->barrier("end");
    }
  });
  EXPECT_EQ(line, fmt::format("rank {} of {} (host H, pid P) is in {}, but rank {} is in {}",
                              comm_->rank(), world, is_even ? reduce : barrier, other,
                              is_even ? barrier : reduce));
  comm_->barrier("after the error");
}

}  // namespace
}  // namespace thresher::comm
