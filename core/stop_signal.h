#pragma once

#include <optional>
#include <string>

namespace thresher {

/// USR1, TERM and INT only set a flag; loops look at it once a step, agree over ranks, save and
/// throw StoppedBySignal (exit 75). A second signal ends the process at once.
void install_stop_signals();
/// As if a signal came when the process is `seconds` old: for launchers that send none.
void stop_after(double seconds);
bool stop_requested();
/// What stopped this process: "a signal (SIGUSR1)", "the limit of 90 minutes", or "another rank"
/// where nothing was requested here.
std::string stop_reason();
/// How long ago a signal came; nothing if none did.
std::optional<double> seconds_since_stop_signal();
/// For tests: as if a signal had come (true) or none (false).
void set_stop_requested(bool requested);

}  // namespace thresher
