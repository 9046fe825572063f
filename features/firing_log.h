#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "core/files.h"

namespace thresher::features {

/// One latent on one token.
struct Firing {
  std::int32_t latent = 0;
  std::int32_t position = 0;  // in the context
  float activation = 0;
};

/// A context and all that fires in it, ordered by latent and position.
struct ContextFirings {
  std::int64_t context = 0;
  std::vector<std::int32_t> token_ids, documents;  // one a position
  std::vector<Firing> firings;
  std::span<const Firing> of_latent(std::int32_t latent) const;
};

/// What a pass over text remembers until it is known which contexts are shown: a temporary file of
/// one unit, its contexts in order. 12 bytes a firing.
class FiringLogWriter {
 public:
  explicit FiringLogWriter(const std::filesystem::path& path);
  void add(const ContextFirings& context);
  void finish();

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
  std::vector<std::byte> buffer_;
};

class FiringLogReader {
 public:
  explicit FiringLogReader(const std::filesystem::path& path);
  /// Nothing at the end.
  std::optional<ContextFirings> next();

 private:
  template <class T>
  void read(std::span<T> out);
  std::filesystem::path path_;
  FileDescriptor file_;
  std::uint64_t offset_ = 0, size_ = 0;
};

}  // namespace thresher::features
