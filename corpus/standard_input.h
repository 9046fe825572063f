#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/files.h"

namespace thresher::corpus {

/// True if `paths` has "-", which stands for standard input.
bool wants_standard_input(const std::vector<std::string>& paths);
/// `paths` with "-" replaced by the file that keeps it.
std::vector<std::string> with_kept_input(std::vector<std::string> paths,
                                         const std::filesystem::path& kept);

/// Whether a file that keeps standard input may give way to another text: only until something has
/// been made from it.
enum class KeptInput { kInUse, kReplaceable };

/// Keeps what `descriptor` (standard input) gives in the file `kept`, so that other processes and a
/// continued run read the same text. If the file is there already, an input that is empty or a
/// terminal means the file; any other takes its place if it is replaceable, and is compared with it
/// if it is in use. ConfigError for an input that differs from a file in use, and for a terminal or
/// an empty input without a file; StoppedBySignal when asked to stop while waiting.
void keep_standard_input(int descriptor, const std::filesystem::path& kept, KeptInput state);

/// What `descriptor` (standard input) gives, held in memory as a file that can be opened as
/// held_path. DataError for more than `max_bytes`; StoppedBySignal as above.
FileDescriptor hold_standard_input(int descriptor, std::uint64_t max_bytes);
std::filesystem::path held_path(const FileDescriptor& held);

}  // namespace thresher::corpus
