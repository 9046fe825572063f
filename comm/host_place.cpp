#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "comm/communicator.h"

namespace thresher::comm {

HostPlace place_on_host(Communicator& comm) {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) name = {};
  const auto bytes = std::as_bytes(std::span(name.data(), std::strlen(name.data())));
  const auto hosts = comm.all_gather(bytes, "hosts");
  const auto& mine = hosts[static_cast<std::size_t>(comm.rank())];
  HostPlace place;
  place.ranks_on_host = static_cast<int>(std::count(hosts.begin(), hosts.end(), mine));
  place.rank_on_host =
      static_cast<int>(std::count(hosts.begin(), hosts.begin() + comm.rank(), mine));
  return place;
}

}  // namespace thresher::comm
