#pragma once

#include <cstddef>
#include <vector>

#include "core/json.h"

namespace thresher::cli {

/// Processor time of all threads of this process. On a machine that others use too it says more
/// than the clock on the wall, but threads that wait for each other spend it too.
double cpu_seconds();

/// Times rounds of work and sees what other processes took of the machine meanwhile. A round during
/// which they used less than kQuietCores is quiet; the kernel counts in ticks of 10 ms, so a short
/// round is judged together with its neighbours, half a second of them.
class RoundClock {
 public:
  static constexpr double kQuietCores = 0.15;

  /// Begins the first round, then ends one and begins the next.
  void mark();
  std::size_t n_rounds() const { return marks_.empty() ? 0 : marks_.size() - 1; }
  /// Since the first mark.
  double seconds() const;
  /// Cores that other processes used, a round.
  std::vector<double> other_cores() const;
  /// The values of quiet rounds, or all of them where none was quiet. One value a round.
  std::vector<double> quiet(const std::vector<double>& values) const;
  std::size_t n_quiet() const;

 private:
  struct Mark {
    double wall, own, busy;  // seconds; own: processor time of this process; busy: of the machine
  };
  std::vector<Mark> marks_;
};

}  // namespace thresher::cli
