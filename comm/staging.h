#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>

#include "comm/communicator.h"

namespace thresher::comm::detail {

/// How the values of a device get into host memory and back; complete on return.
struct HostCopies {
  std::function<void(const void* device, void* host, std::size_t bytes)> from_device;
  std::function<void(const void* host, void* device, std::size_t bytes)> to_device;
  std::int64_t part_bytes = std::int64_t{64} << 20;  // of host memory beside the values
};

/// The sum over ranks of device values, made in host memory part by part. Sums are element by
/// element, so the parts change no bits.
void sum_through_host(Communicator& comm, const DeviceValues& values, std::string_view what,
                      const HostCopies& copies);

}  // namespace thresher::comm::detail
