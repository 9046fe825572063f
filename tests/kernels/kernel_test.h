#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <ostream>

#include "tests/kernels/backend.h"
#include "tests/kernels/draws.h"

namespace thresher::kernels {

/// A test that every backend under test must pass.
class KernelTest : public testing::TestWithParam<Backend*> {
 protected:
  void SetUp() override {
    const std::string reason = backend().reason_to_skip();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
  Backend& backend() { return *GetParam(); }
};

/// For test listings, which would show an address.
inline void PrintTo(Backend* backend, std::ostream* stream) { *stream << backend->name(); }

inline std::string backend_name(const testing::TestParamInfo<Backend*>& info) {
  return info.param->name();
}

/// Bit patterns, so that NaN equals itself and -0 differs from +0.
inline std::vector<std::uint32_t> bits(std::span<const float> values) {
  std::vector<std::uint32_t> out;
  for (const float value : values) out.push_back(std::bit_cast<std::uint32_t>(value));
  return out;
}

}  // namespace thresher::kernels
