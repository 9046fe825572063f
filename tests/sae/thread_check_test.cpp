#include "sae/thread_check.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

namespace thresher::sae {
namespace {

TEST(ThreadCheckTest, NamesWhatDependsOnTheNumberOfThreads) {
  const std::vector<ThreadProbe> probes{
      {"steady", [] { return at::ones({3}); }},
      {"fickle", [] { return at::full({3}, at::get_num_threads() == 1 ? 1.0 : 1.0 + 1e-7); }},
  };
  EXPECT_EQ(probes_that_differ(probes, 2), std::vector<std::string>{"fickle"});
}

TEST(ThreadCheckTest, LeavesTheNumberOfThreadsAsItWas) {
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  probes_that_differ({{"probe", [] { return at::ones({1}); }}}, 2);
  EXPECT_EQ(at::get_num_threads(), 1);
  at::set_num_threads(before);
}

TEST(ThreadCheckTest, CoversEveryProductOfAStep) {
  std::vector<std::string> names;
  for (const ThreadProbe& probe : training_products(16, 4, 8)) {
    names.push_back(probe.name);
    const at::Tensor result = probe.run();
    EXPECT_GT(result.abs().sum().item<float>(), 0) << probe.name;
  }
  EXPECT_EQ(names,
            (std::vector<std::string>{
                "encode [16, 4] x [4, 8]", "encode, W_enc stored by latent, [16, 4] x [4, 8]",
                "decode [16, 8] x [8, 4]", "gradient of W_enc [4, 16] x [16, 8]",
                "gradient of W_dec [8, 16] x [16, 4]"}));
}

TEST(ThreadCheckTest, AgreesWithItsOwnMeasurement) {
  const bool is_steady = probes_that_differ(training_products(128, 64, 256), 2).empty();
  EXPECT_EQ(threads_with_fixed_bits(128, 64, 256, 2), is_steady ? 2 : 1);
  EXPECT_EQ(threads_with_fixed_bits(128, 64, 256, 1), 1);
}

}  // namespace
}  // namespace thresher::sae
