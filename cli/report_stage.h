#pragma once

#include <filesystem>

namespace thresher::cli {

/// Writes RUN/report.html from what the run directory holds (evaluation/report.h) and returns its
/// path. For one process at a time.
std::filesystem::path write_report(const std::filesystem::path& run_dir);

}  // namespace thresher::cli
