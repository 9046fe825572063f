#include "comm/agreement.h"

#include <gtest/gtest.h>

#include <mutex>
#include <set>

#include "core/error.h"

namespace thresher::comm {
namespace {

/// The first line on which all ranks end when each has its own facts; several if they differ.
std::set<std::string> lines_of(int ranks, const std::function<Json(int rank)>& facts) {
  std::mutex mutex;
  std::set<std::string> lines;
  run_thread_ranks(ranks, 30, [&](Communicator& comm) {
    std::string line = "no error";
    try {
      agree_on(comm, facts(comm.rank()), "start of the job");
    } catch (const ConfigError& error) {
      line = error.first_line();
    }
    const std::lock_guard lock(mutex);
    lines.insert(line);
  });
  return lines;
}

Json facts(const std::string& version, double rate) {
  return Json::object({{"versions", Json::object({{"torch", version}})},
                       {"experiment", Json::object({{"learning_rate", rate}})}});
}

TEST(AgreementTest, EqualFactsPass) {
  EXPECT_EQ(lines_of(4, [](int) { return facts("2.11", 0.5); }), std::set<std::string>{"no error"});
}

TEST(AgreementTest, NamesTheFieldAndTheRanksOnEveryRank) {
  EXPECT_EQ(
      lines_of(4, [](int rank) { return facts(rank == 1 || rank == 3 ? "2.10" : "2.11", 0.5); }),
      std::set<std::string>{"start of the job: ranks 1, 3 differ from rank 0: versions.torch: "
                            "\"2.11\", \"2.10\""});
}

TEST(AgreementTest, TellsDifferentDifferences) {
  EXPECT_EQ(
      lines_of(3,
               [](int rank) { return facts(rank == 1 ? "2.10" : "2.11", rank == 2 ? 0.25 : 0.5); }),
      std::set<std::string>{
          "start of the job: rank 2 differs from rank 0: experiment.learning_rate: 0.5, "
          "0.25; rank 1 differs from rank 0: versions.torch: \"2.11\", \"2.10\""});
}

}  // namespace
}  // namespace thresher::comm
