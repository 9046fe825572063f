#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/gpu.h"
#include "comm/staging.h"
#include "core/error.h"

namespace thresher::comm {
namespace {

/// Host memory in the place of a device's, and a record of the copies.
struct FakeDevice {
  std::vector<std::size_t> copied_from, copied_to;
  detail::HostCopies copies(std::int64_t part_bytes) {
    return {[this](const void* device, void* host, std::size_t bytes) {
              copied_from.push_back(bytes);
              std::memcpy(host, device, bytes);
            },
            [this](const void* host, void* device, std::size_t bytes) {
              copied_to.push_back(bytes);
              std::memcpy(device, host, bytes);
            },
            part_bytes};
  }
};

template <class T>
DeviceValues values_of(std::vector<T>& values, DeviceValues::Type type) {
  return {values.data(), static_cast<std::int64_t>(values.size()), type};
}

TEST(DeviceValuesTest, OnTheCpuAreSummedInPlaceAsHostBuffersAre) {
  run_thread_ranks(4, 10, [](Communicator& comm) {
    std::vector<float> floats{0.1F * static_cast<float>(comm.rank()), 1.0F};
    std::vector<float> expected = floats;
    comm.all_reduce_sum(expected, "host");
    comm.all_reduce_sum_on_device(values_of(floats, DeviceValues::Type::kFloat32), "floats");
    EXPECT_EQ(floats, expected);
    std::vector<double> doubles{0.5};
    comm.all_reduce_sum_on_device(values_of(doubles, DeviceValues::Type::kFloat64), "doubles");
    EXPECT_EQ(doubles, std::vector<double>{2.0});
    std::vector<std::int64_t> counts{std::int64_t{1} << 40, comm.rank()};
    comm.all_reduce_sum_on_device(values_of(counts, DeviceValues::Type::kInt64), "counts");
    EXPECT_EQ(counts, (std::vector<std::int64_t>{std::int64_t{1} << 42, 6}));
  });
}

TEST(DeviceValuesTest, GoThroughHostMemoryInPartsWithTheBitsOfOneSum) {
  run_thread_ranks(4, 10, [](Communicator& comm) {
    std::vector<float> on_device(1003);
    for (std::size_t i = 0; i < on_device.size(); ++i) {
      on_device[i] = 1.0F / static_cast<float>(i * 4 + static_cast<std::size_t>(comm.rank()) + 1);
    }
    std::vector<float> expected = on_device;
    comm.all_reduce_sum(expected, "whole");
    FakeDevice device;
    detail::sum_through_host(comm, values_of(on_device, DeviceValues::Type::kFloat32), "parts",
                             device.copies(1000));
    EXPECT_EQ(on_device, expected);
    EXPECT_EQ(device.copied_from, (std::vector<std::size_t>{1000, 1000, 1000, 1000, 12}));
    EXPECT_EQ(device.copied_to, device.copied_from);
  });
}

TEST(DeviceValuesTest, OfNothingAndOfPartsBelowOneValueWork) {
  const auto comm = make_self_communicator();
  FakeDevice device;
  std::vector<double> none, two{1, 2};
  detail::sum_through_host(*comm, values_of(none, DeviceValues::Type::kFloat64), "none",
                           device.copies(1));
  EXPECT_TRUE(device.copied_from.empty());
  detail::sum_through_host(*comm, values_of(two, DeviceValues::Type::kFloat64), "two",
                           device.copies(1));
  EXPECT_EQ(device.copied_from, (std::vector<std::size_t>{8, 8}));
  EXPECT_EQ(two, (std::vector<double>{1, 2}));
}

/// Records what it is asked for.
struct Recorder final : DeviceCollectives {
  explicit Recorder(std::vector<std::string>& calls_) : calls(&calls_) {}
  std::string_view backend() const override { return "recorder"; }
  void all_reduce_sum(const DeviceValues&, std::string_view what) override {
    calls->push_back("sum " + std::string(what));
  }
  void wait(void*, std::string_view what) override {
    calls->push_back("wait " + std::string(what));
  }
  std::vector<std::string>* calls;
};

TEST(DeviceValuesTest, OfADeviceGoToItsCollectivesAndHostBuffersDoNot) {
  run_thread_ranks(2, 10, [](Communicator& comm) {
    std::vector<std::string> calls;
    comm.use_collectives(std::make_unique<Recorder>(calls));
    std::vector<float> values{1};
    DeviceValues on_device = values_of(values, DeviceValues::Type::kFloat32);
    on_device.device = Device::kCuda;
    comm.all_reduce_sum_on_device(on_device, "gradient");
    comm.wait_for_device(Device::kCuda, nullptr, "step");
    comm.wait_for_device(Device::kCpu, nullptr, "nothing to wait for");
    EXPECT_EQ(values, std::vector<float>{1});
    comm.all_reduce_sum(values, "host");
    EXPECT_EQ(values, std::vector<float>{2});
    EXPECT_EQ(calls, (std::vector<std::string>{"sum gradient", "wait step"}));
  });
}

TEST(DeviceValuesTest, OfOneRankAloneAreTheirSumOnAnyDevice) {
  const auto comm = make_self_communicator();
  DeviceValues values{nullptr, 7, DeviceValues::Type::kFloat32, Device::kCuda};
  EXPECT_NO_THROW(comm->all_reduce_sum_on_device(values, "alone"));
}

TEST(GpuTest, RanksOfAHostTakeItsDevicesInTurn) {
  EXPECT_EQ(gpu_of({.ranks_on_host = 4, .rank_on_host = 0}, 2), 0);
  EXPECT_EQ(gpu_of({.ranks_on_host = 4, .rank_on_host = 3}, 2), 1);
  EXPECT_EQ(gpu_of({.ranks_on_host = 2, .rank_on_host = 1}, 8), 1);
}

TEST(GpuTest, ABuildWithoutCudaSaysWhatToDo) {
  if (has_cuda_build()) GTEST_SKIP() << "this build has CUDA";
  const auto comm = make_self_communicator();
  for (const auto& call :
       std::vector<std::function<void()>>{[] { list_gpus(); }, [] { nccl_versions(); },
                                          [&] { make_nccl_collectives(*comm, 1); }}) {
    try {
      call();
      FAIL() << "expected DeviceError";
    } catch (const DeviceError& error) {
      EXPECT_EQ(error.code(), ExitCode::kConfig);
      EXPECT_NE(std::string(error.what()).find(": this build has no CUDA\n"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("-DTHRESHER_CUDA=ON"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace thresher::comm
