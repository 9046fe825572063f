#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace thresher::corpus {

/// True if `paths` has "-", which stands for standard input.
bool wants_standard_input(const std::vector<std::string>& paths);
/// `paths` with "-" replaced by the file that keeps it.
std::vector<std::string> with_kept_input(std::vector<std::string> paths,
                                         const std::filesystem::path& kept);

/// Keeps what `descriptor` (standard input) gives in the file `kept`, so that other processes and a
/// continued run read the same text. If the file is there already, the input is compared with it;
/// an input that is empty or a terminal then means the file. ConfigError for an input that differs
/// from the file, and for a terminal or an empty input without a file; StoppedBySignal when asked
/// to stop while waiting.
void keep_standard_input(int descriptor, const std::filesystem::path& kept);

}  // namespace thresher::corpus
