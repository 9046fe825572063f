#pragma once

#include <filesystem>

#include "activation_cache/own_activations.h"
#include "comm/communicator.h"
#include "core/json.h"

namespace thresher::activation_cache {

/// Where a cache folder remembers what its files held: {"files": {PATH: {"bytes", "sha256",
/// "device", "inode", "changed_ns", "seen_ns"}}}. A convenience: it may be deleted.
inline constexpr const char* kSourcesFile = "sources.json";

struct OwnFiles {
  /// What decides the rows that a cache is made of: OwnActivations::identity, and size and SHA-256
  /// of every file, in order, without their names.
  Json identity;
  /// Of every file, what kSourcesFile holds.
  Json sources;
};

/// Hashes every file once, dealt to the ranks; a file that is as DIR/sources.json remembers it
/// (size, inode and time of the last change of any kind) is not read again. Collective; the same on
/// every rank. IoError and DataError as files give them.
OwnFiles identify_own_files(const OwnActivations& rows, const std::filesystem::path& cache_dir,
                            comm::Communicator& comm);
/// Writes DIR/sources.json. For rank 0 alone.
void remember_own_files(const OwnFiles& files, const std::filesystem::path& cache_dir);
/// ConfigError, naming the first difference, unless the cache was made from these rows.
void check_own_files(const OwnFiles& files, const std::filesystem::path& cache_dir);

}  // namespace thresher::activation_cache
