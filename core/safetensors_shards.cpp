#include "core/safetensors_shards.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/inside_folder.h"
#include "core/json.h"

namespace thresher {
namespace {

constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr std::uint64_t kMaxIndexBytes = 256ULL << 20;

std::string in_quotes(std::string_view text) { return Json(text.substr(0, 512)).dump(); }

[[noreturn]] void refuse_folder(const std::filesystem::path& folder) {
  const bool has_pickles = std::filesystem::exists(folder / "pytorch_model.bin") ||
                           std::filesystem::exists(folder / "pytorch_model.bin.index.json");
  throw ConfigError(
      fmt::format("{}: there is neither {} nor {}", folder.string(), kSingleName, kIndexName),
      "a model folder as `save_pretrained` of transformers writes it",
      has_pickles
          ? "pytorch_model.bin is not read; load and save the model with transformers once, "
            "which writes safetensors"
          : "");
}

}  // namespace

std::map<std::string, std::string> parse_safetensors_index(std::string_view text,
                                                           std::string_view where) {
  const Json index = Json::parse(text, where);
  const Json* weight_map = index.is_object() ? index.find("weight_map") : nullptr;
  if (weight_map == nullptr || !weight_map->is_object()) {
    throw DataError(fmt::format("{}: weight_map is missing", where),
                    "an object that maps tensor names to file names");
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, shard] : weight_map->as_object()) {
    if (!shard.is_string() || !is_safe_file_name(shard.as_string()) ||
        !shard.as_string().ends_with(".safetensors")) {
      throw DataError(
          fmt::format("{}: tensor {} is said to be in {}", where, in_quotes(tensor),
                      shard.is_string() ? in_quotes(shard.as_string())
                                        : std::string("something else than a file")),
          "the name of a .safetensors file beside the index, without a path");
    }
    shard_of.emplace(tensor, shard.as_string());
  }
  return shard_of;
}

SafetensorsShards::SafetensorsShards(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / kSingleName)) {
    open_single(folder / kSingleName);
  } else if (std::filesystem::exists(folder / kIndexName)) {
    open_indexed(folder / kIndexName);
  } else {
    refuse_folder(folder);
  }
}

void SafetensorsShards::open_single(const std::filesystem::path& path) {
  const SafetensorsFile& file = files_.emplace(kSingleName, SafetensorsFile(path)).first->second;
  for (const SafetensorsEntry& entry : file.entries()) {
    places_.emplace(entry.name, Place{&file, &entry});
  }
  paths_ = {path};
}

void SafetensorsShards::open_indexed(const std::filesystem::path& index) {
  const std::map<std::string, std::string> shard_of =
      parse_safetensors_index(read_text_file(index, kMaxIndexBytes), index.string());
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : shard_of) shards.insert(shard);
  if (shards.size() > kMaxShards) {
    throw DataError(fmt::format("{}: {} shards", index.string(), shards.size()),
                    fmt::format("at most {}", kMaxShards));
  }
  paths_ = {index};
  for (const std::string& shard : shards) open_shard(index, shard, shard_of);
  for (const auto& [tensor, shard] : shard_of) {
    if (places_.contains(tensor)) continue;
    throw DataError(fmt::format("{}: tensor {} is not in {}", index.string(), in_quotes(tensor),
                                in_quotes(shard)),
                    "every tensor in the shard that the index names",
                    "index and shards are not of one model; fetch them again");
  }
  std::sort(paths_.begin(), paths_.end());
}

void SafetensorsShards::open_shard(const std::filesystem::path& index, const std::string& shard,
                                   const std::map<std::string, std::string>& shard_of) {
  const std::filesystem::path path = index.parent_path() / shard;
  if (!std::filesystem::exists(path)) {
    throw DataError(fmt::format("{}: shard {} is missing", index.string(), in_quotes(shard)),
                    "all shards beside the index", "the download is not complete");
  }
  require_inside_folder(path);
  const SafetensorsFile& file = files_.emplace(shard, SafetensorsFile(path)).first->second;
  for (const SafetensorsEntry& entry : file.entries()) {
    const auto placed = shard_of.find(entry.name);
    if (placed == shard_of.end() || placed->second != shard) {
      throw DataError(fmt::format("{}: tensor {} is not placed here by {}", path.string(),
                                  in_quotes(entry.name), kIndexName),
                      placed == shard_of.end()
                          ? std::string("every tensor of a shard in the index")
                          : fmt::format("in {} alone", in_quotes(placed->second)),
                      "index and shards are not of one model; fetch them again");
    }
    places_.emplace(entry.name, Place{&file, &entry});
  }
  paths_.push_back(path);
}

SafetensorsShards::Place SafetensorsShards::find(std::string_view name) const {
  const auto place = places_.find(name);
  return place == places_.end() ? Place{} : place->second;
}

std::vector<std::string> SafetensorsShards::names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : places_) names.push_back(name);
  return names;
}

std::vector<std::filesystem::path> SafetensorsShards::files() const { return paths_; }

}  // namespace thresher
