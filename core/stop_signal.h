#pragma once

namespace thresher {

/// USR1, TERM and INT only set a flag; loops look at it once a step, agree over ranks, save and
/// throw StoppedBySignal (exit 75). A second signal ends the process at once.
void install_stop_signals();
bool stop_requested();
/// For tests: as if a signal had come (true) or none (false).
void set_stop_requested(bool requested);

}  // namespace thresher
