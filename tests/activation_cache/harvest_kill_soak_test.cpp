#include <gtest/gtest.h>

#include "tests/activation_cache/kill_testing.h"

namespace thresher::activation_cache {
namespace {

TEST(HarvestKillSoak, AtAThousandRandomMomentsLosesNothing) {
  testing::check_random_kills(1000, 2);
}

}  // namespace
}  // namespace thresher::activation_cache
