#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace thresher {

/// Throws IoError("<path>: cannot <operation>: <reason>") for an errno value; ENOSPC and EDQUOT say
/// "disk full".
[[noreturn]] void throw_system_error(const std::filesystem::path& path, std::string_view operation,
                                     int error_number);
/// This machine's name, for records of who did what.
std::string host_name();

}  // namespace thresher
