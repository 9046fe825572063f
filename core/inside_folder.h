#pragma once

#include <filesystem>

namespace thresher {

/// For a file whose name another file gave: DataError if `path` is a symbolic link that leads out
/// of its folder, where it could show what is none of the writer's business. The cache of the
/// Hugging Face hub is allowed: there, SNAPSHOTS/x/FILE leads to a file of BLOBS beside SNAPSHOTS.
void require_inside_folder(const std::filesystem::path& path);

}  // namespace thresher
