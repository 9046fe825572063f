#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/safetensors.h"

namespace thresher {

/// Tensor name to file name, as the text of a `model.safetensors.index.json` has them. DataError,
/// starting with `where`, for what is no such index and for shards that are no plain file names.
std::map<std::string, std::string> parse_safetensors_index(std::string_view text,
                                                           std::string_view where);

/// The tensors of a folder as Hugging Face libraries save models: `model.safetensors`, or else the
/// shards that `model.safetensors.index.json` names in its `weight_map` (tensor name to file name).
/// Hostile input: besides what SafetensorsFile checks, a shard is a plain file name inside the
/// folder (core/inside_folder.h), at most 1,000 of them; every tensor of the index is in its shard and every tensor of a
/// shard in the index. DataError or ConfigError otherwise. Nothing but headers is read here.
class SafetensorsShards {
 public:
  static constexpr std::size_t kMaxShards = 1000;

  explicit SafetensorsShards(const std::filesystem::path& folder);

  struct Place {
    const SafetensorsFile* file = nullptr;
    const SafetensorsEntry* entry = nullptr;
  };
  /// Where a tensor lies; both pointers null if there is none. They live as long as this object.
  Place find(std::string_view name) const;
  /// All tensors, sorted by name.
  std::vector<std::string> names() const;
  /// Every file whose content matters (shards, and the index if there is one), sorted by name.
  std::vector<std::filesystem::path> files() const;

 private:
  void open_single(const std::filesystem::path& path);
  void open_indexed(const std::filesystem::path& index);
  void open_shard(const std::filesystem::path& index, const std::string& shard,
                  const std::map<std::string, std::string>& shard_of);

  std::map<std::string, SafetensorsFile> files_;  // by file name
  std::map<std::string, Place, std::less<>> places_;
  std::vector<std::filesystem::path> paths_;
};

}  // namespace thresher
