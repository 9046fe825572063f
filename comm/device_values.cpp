#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "comm/gpu.h"
#include "comm/staging.h"
#include "core/error.h"

namespace thresher::comm {
namespace {

/// Calls `work` with a null pointer of the values' type.
template <class Work>
void with_type(const DeviceValues& values, const Work& work) {
  switch (values.type) {
    case DeviceValues::Type::kFloat32:
      return work(static_cast<float*>(nullptr));
    case DeviceValues::Type::kFloat64:
      return work(static_cast<double*>(nullptr));
    case DeviceValues::Type::kInt64:
      return work(static_cast<std::int64_t*>(nullptr));
  }
}

}  // namespace

namespace detail {

void sum_through_host(Communicator& comm, const DeviceValues& values, std::string_view what,
                      const HostCopies& copies) {
  with_type(values, [&]<class T>(T*) {
    const std::int64_t width = sizeof(T);
    const std::int64_t part = std::clamp<std::int64_t>(copies.part_bytes / width, 1,
                                                       std::max<std::int64_t>(values.count, 1));
    std::vector<T> host(static_cast<std::size_t>(part));
    for (std::int64_t first = 0; first < values.count; first += part) {
      const auto count = static_cast<std::size_t>(std::min(part, values.count - first));
      T* device = static_cast<T*>(values.data) + first;
      copies.from_device(device, host.data(), count * sizeof(T));
      comm.all_reduce_sum(std::span(host).first(count), what);
      copies.to_device(host.data(), device, count * sizeof(T));
    }
  });
}

}  // namespace detail

void Communicator::use_collectives(std::unique_ptr<DeviceCollectives> collectives) {
  collectives_ = std::move(collectives);
}

void Communicator::all_reduce_sum_on_device(const DeviceValues& values, std::string_view what) {
  THRESHER_CHECK(values.count >= 0, "all_reduce_sum_on_device: a negative count");
  if (values.device == Device::kCpu) {
    with_type(values, [&]<class T>(T*) {
      all_reduce_sum(
          std::span<T>(static_cast<T*>(values.data), static_cast<std::size_t>(values.count)), what);
    });
  } else if (world_size() == 1) {
    return;
  } else if (collectives_) {
    collectives_->all_reduce_sum(values, what);
  } else {
    const auto from = [&](const void* device, void* host, std::size_t bytes) {
      detail::copy_from_gpu(values.stream, device, host, bytes);
    };
    const auto to = [&](const void* host, void* device, std::size_t bytes) {
      detail::copy_to_gpu(values.stream, host, device, bytes);
    };
    detail::sum_through_host(*this, values, what, {from, to});
  }
}

void Communicator::wait_for_device(Device device, void* stream, std::string_view what) {
  if (device == Device::kCpu) return;
  if (collectives_) {
    collectives_->wait(stream, what);
  } else {
    detail::wait_for_gpu(stream);
  }
}

}  // namespace thresher::comm
