#include "activation_cache/cache_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"

namespace thresher::activation_cache {

namespace {

std::int64_t element_bytes(ElementType type) {
  switch (type) {
    case ElementType::kFloat16:
    case ElementType::kBfloat16:
      return 2;
    case ElementType::kFloat32:
    case ElementType::kInt32:
    case ElementType::kUint32:
      return 4;
  }
  THRESHER_CHECK(false, "unknown element type");
}

ElementType element_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat32:
      return ElementType::kFloat32;
    case Dtype::kFloat16:
      return ElementType::kFloat16;
    case Dtype::kBfloat16:
      return ElementType::kBfloat16;
  }
  THRESHER_CHECK(false, "unknown dtype");
}

}  // namespace

std::int64_t DatasetSpec::row_bytes() const { return columns * element_bytes(type); }

std::string DatasetSpec::checksum_name() const {
  return fmt::format("{}/{}", kChecksumGroup, name);
}

std::vector<DatasetSpec> shard_datasets(const CacheIdentity& identity) {
  std::vector<DatasetSpec> specs;
  for (const HookPointWidth& hook : identity.hook_points) {
    specs.push_back({.name = fmt::format("{}/{}", kActivationGroup, hook.hook_point),
                     .type = element_type(identity.dtype),
                     .columns = hook.d_in,
                     .is_table = true});
  }
  for (const char* name : {kContextDataset, kPositionDataset, kDocumentDataset}) {
    specs.push_back({.name = name});
  }
  specs.push_back({.name = kTokenIdsDataset,
                   .columns = identity.context_tokens,
                   .is_table = true,
                   .is_per_context = true});
  return specs;
}

std::size_t dataset_index(const std::vector<DatasetSpec>& specs, std::string_view name) {
  const auto found = std::find_if(specs.begin(), specs.end(),
                                  [&](const DatasetSpec& spec) { return spec.name == name; });
  THRESHER_CHECK(found != specs.end(), fmt::format("no dataset {}", name));
  return static_cast<std::size_t>(found - specs.begin());
}

std::string shard_file_name(std::int64_t unit) { return fmt::format("{:08}.h5", unit); }

std::int64_t unit_of_shard_file(std::string_view file_name) {
  if (!file_name.ends_with(".h5")) return -1;
  const std::string_view digits = file_name.substr(0, file_name.size() - 3);
  std::int64_t unit = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), unit);
  if (error != std::errc{} || end != digits.data() + digits.size() || unit < 0) return -1;
  return shard_file_name(unit) == file_name ? unit : -1;
}

std::filesystem::path shard_path(const std::filesystem::path& dir, std::int64_t unit) {
  return dir / kShardFolder / shard_file_name(unit);
}

std::string commit_log_name(int rank) { return fmt::format("w{:03}.log", rank); }

std::int64_t default_block_rows(const std::vector<HookPointWidth>& hook_points, Dtype dtype) {
  std::int64_t widest = 1;
  for (const HookPointWidth& hook : hook_points) widest = std::max(widest, hook.d_in);
  return std::max<std::int64_t>(
      1, kBlockBytes / (widest * static_cast<std::int64_t>(dtype_bytes(dtype))));
}

}  // namespace thresher::activation_cache
