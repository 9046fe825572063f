#include <gtest/gtest.h>

#include <cstring>

#include "tests/activation_cache/harvest_testing.h"

namespace thresher::activation_cache {
namespace {

using namespace testing;  // NOLINT: what the tests share

TEST(HarvestOverMpi, GivesTheBytesOfOneRank) {
  const auto comm = comm::make_mpi_communicator(30);
  const ScratchFolder own;
  const std::string mine = own.path().string();
  std::vector<std::byte> path(mine.size());
  std::memcpy(path.data(), mine.data(), mine.size());
  comm->broadcast(path, 0, "folder of the test");
  const std::filesystem::path dir(
      std::string(reinterpret_cast<const char*>(path.data()), path.size()));
  FakeHost host;
  const Json corpus_identity = Json::object({{"fingerprint", "fake corpus"}});
  const HarvestResult result = harvest(fake_config(dir / "mpi"), fake_contexts(), corpus_identity,
                                       FakeTokenizer(), host, *comm, 9);
  EXPECT_EQ(result.tokens, 44800);
  comm->agree(
      [&] {
        if (!comm->is_root()) return;
        run_harvest({fake_config(dir / "self")});
        EXPECT_EQ(promised_bytes(dir / "mpi"), promised_bytes(dir / "self"));
      },
      "compare");
}

}  // namespace
}  // namespace thresher::activation_cache
