#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "comm/gpu.h"
#include "core/error.h"

namespace thresher::comm {
namespace {

/// Values on the current device and the stream that fills them.
template <class T>
class OnGpu {
 public:
  explicit OnGpu(const std::vector<T>& values) : count_(values.size()) {
    EXPECT_EQ(cudaStreamCreate(&stream_), cudaSuccess);
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), count_ * sizeof(T)), cudaSuccess);
    EXPECT_EQ(
        cudaMemcpyAsync(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice, stream_),
        cudaSuccess);
  }
  ~OnGpu() {
    cudaFree(data_);
    cudaStreamDestroy(stream_);
  }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;
  DeviceValues values(DeviceValues::Type type) const {
    return {data_, static_cast<std::int64_t>(count_), type, Device::kCuda, stream_};
  }
  std::vector<T> read() const {
    std::vector<T> out(count_);
    detail::copy_from_gpu(stream_, data_, out.data(), count_ * sizeof(T));
    return out;
  }
  void* stream() const { return stream_; }

 private:
  std::size_t count_;
  T* data_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

/// Skips without a device. Ranks that share one are told apart by NCCL_HOSTID.
class NcclTest : public testing::Test {
 protected:
  void SetUp() override {
    comm_ = make_mpi_communicator(60);
    std::size_t n_gpus = 0;
    try {
      n_gpus = list_gpus().size();
    } catch (const DeviceError& error) {
      GTEST_SKIP() << error.first_line();
    }
    setenv("NCCL_HOSTID", fmt::format("rank-{}", comm_->rank()).c_str(), 0);
    select_gpu(gpu_of(place_on_host(*comm_), n_gpus));
  }
  void use_nccl() { comm_->use_collectives(make_nccl_collectives(*comm_, 60)); }

  std::unique_ptr<Communicator> comm_;
};

template <class T>
void check_sum(Communicator& comm, DeviceValues::Type type) {
  for (const std::size_t count : {std::size_t{1}, std::size_t{1000}, std::size_t{1} << 22}) {
    std::vector<T> mine(count), expected(count);
    const auto world = static_cast<std::int64_t>(comm.world_size());
    for (std::size_t i = 0; i < count; ++i) {
      const auto value = static_cast<std::int64_t>(i % 1000);
      mine[i] = static_cast<T>(value + comm.rank());
      expected[i] = static_cast<T>(world * value + world * (world - 1) / 2);
    }
    const OnGpu<T> buffer(mine);
    comm.all_reduce_sum_on_device(buffer.values(type), fmt::format("sum of {}", count));
    comm.wait_for_device(Device::kCuda, buffer.stream(), "sum");
    EXPECT_EQ(buffer.read(), expected);
  }
}

TEST_F(NcclTest, SumsEveryTypeOnTheDevice) {
  use_nccl();
  EXPECT_EQ(comm_->backend(), "nccl");
  check_sum<float>(*comm_, DeviceValues::Type::kFloat32);
  check_sum<double>(*comm_, DeviceValues::Type::kFloat64);
  check_sum<std::int64_t>(*comm_, DeviceValues::Type::kInt64);
}

TEST_F(NcclTest, SumsThroughTheHostWithoutNccl) {
  check_sum<float>(*comm_, DeviceValues::Type::kFloat32);
  check_sum<double>(*comm_, DeviceValues::Type::kFloat64);
}

TEST_F(NcclTest, HostBuffersStillGoOverMpi) {
  use_nccl();
  std::vector<float> values{1};
  comm_->all_reduce_sum(values, "host");
  EXPECT_EQ(values[0], static_cast<float>(comm_->world_size()));
}

TEST_F(NcclTest, ARankThatStaysAwayEndsTheOthersWithinTheDeadline) {
  if (comm_->world_size() == 1) return;  // nobody to wait for
  comm_->use_collectives(make_nccl_collectives(*comm_, 2));
  const OnGpu<float> buffer({1, 2, 3});
  if (comm_->is_root()) {
    EXPECT_THROW(
        {
          comm_->all_reduce_sum_on_device(buffer.values(DeviceValues::Type::kFloat32), "alone");
          comm_->wait_for_device(Device::kCuda, buffer.stream(), "alone");
        },
        CommError);
  }
  comm_->barrier("host buffers still work");
}

}  // namespace
}  // namespace thresher::comm
