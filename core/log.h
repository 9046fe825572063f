#pragma once

#include <string_view>

namespace thresher {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// Messages go to stderr, one line each, "HH:MM:SS level [rank r/W] text"; results go to stdout,
/// not here.
void set_log_level(LogLevel level);
/// Throws UsageError unless debug, info, warning or error.
LogLevel parse_log_level(std::string_view name);
/// Ranks other than 0 print warnings and errors only, with their number.
void set_log_rank(int rank, int world_size);
/// Whether a message of this level would be printed here.
bool is_logged(LogLevel level);

void log_debug(std::string_view text);
void log_info(std::string_view text);
void log_warning(std::string_view text);
void log_error(std::string_view text);

}  // namespace thresher
