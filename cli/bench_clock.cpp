#include "cli/bench_clock.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <fstream>
#include <string>

#include "core/error.h"

namespace thresher::cli {
namespace {

constexpr double kJudgedSeconds = 0.5;

/// Of all processors since the machine started, guests of it not counted twice.
double busy_seconds() {
  std::ifstream file("/proc/stat");
  std::string cpu;
  double user = 0, nice = 0, system = 0, idle = 0, wait = 0, irq = 0, softirq = 0, steal = 0;
  file >> cpu >> user >> nice >> system >> idle >> wait >> irq >> softirq >> steal;
  if (!file) throw IoError("bench: cannot read /proc/stat");
  return (user + nice + system + irq + softirq + steal) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

double cpu_seconds() {
  timespec time{};
  THRESHER_CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) == 0, "clock_gettime failed");
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void RoundClock::mark() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  marks_.push_back({std::chrono::duration<double>(now).count(), cpu_seconds(), busy_seconds()});
}

double RoundClock::seconds() const {
  return marks_.empty() ? 0 : marks_.back().wall - marks_.front().wall;
}

std::vector<double> RoundClock::other_cores() const {
  std::vector<double> out;
  for (std::size_t i = 0; i + 1 < marks_.size(); ++i) {
    std::size_t first = i, last = i + 1;
    const auto span = [&] { return marks_[last].wall - marks_[first].wall; };
    while (span() < kJudgedSeconds && (first > 0 || last + 1 < marks_.size())) {
      if (first > 0) --first;
      if (last + 1 < marks_.size()) ++last;
    }
    const double own = marks_[last].own - marks_[first].own;
    const double busy = marks_[last].busy - marks_[first].busy;
    out.push_back(std::max(0.0, (busy - own) / span()));
  }
  return out;
}

std::vector<double> RoundClock::quiet(const std::vector<double>& values) const {
  const std::vector<double> others = other_cores();
  THRESHER_CHECK(values.size() == others.size(), "one value a round");
  std::vector<double> out;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (others[i] < kQuietCores) out.push_back(values[i]);
  }
  return out.empty() ? values : out;
}

std::size_t RoundClock::n_quiet() const {
  const std::vector<double> others = other_cores();
  return static_cast<std::size_t>(std::count_if(others.begin(), others.end(),
                                                [](double cores) { return cores < kQuietCores; }));
}

}  // namespace thresher::cli
