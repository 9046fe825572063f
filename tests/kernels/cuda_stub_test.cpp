#include <gtest/gtest.h>

#include "core/error.h"
#include "kernels/topk.h"

namespace thresher::kernels {
namespace {

TEST(CudaStubTest, SaysWhichOptionToSwitchOn) {
  const float pre_acts = 1;
  float value = 0;
  std::int32_t index = 0;
  try {
    topk({Device::kCuda, nullptr}, 1, 1, 1, &pre_acts, &value, &index);
    FAIL() << "expected DeviceError";
  } catch (const DeviceError& error) {
    EXPECT_EQ(error.code(), ExitCode::kConfig);
    EXPECT_STREQ(error.what(),
                 "topk: this build has no CUDA kernels\n"
                 "  expected: a build configured with -DTHRESHER_CUDA=ON\n"
                 "  hint: reconfigure with -DTHRESHER_CUDA=ON, or set run.device: cpu");
  }
}

}  // namespace
}  // namespace thresher::kernels
