#include "trainer/patience.h"

#include <chrono>
#include <cstdint>
#include <future>

namespace thresher::trainer {

void run_on_root(comm::Communicator& comm, const std::function<void()>& work,
                 std::string_view what) {
  if (comm.world_size() == 1) return work();
  // The communicator belongs to this thread, so it is the work that moves to another one.
  std::future<void> done;
  if (comm.is_root()) done = std::async(std::launch::async, work);
  for (std::int64_t is_pending = 1; is_pending != 0;) {
    is_pending = 0;
    if (comm.is_root()) {
      is_pending = done.wait_for(std::chrono::milliseconds(200)) != std::future_status::ready;
    }
    comm.all_reduce_max({&is_pending, 1}, what);
  }
  comm.agree(
      [&] {
        if (comm.is_root()) done.get();
      },
      what);
}

}  // namespace thresher::trainer
