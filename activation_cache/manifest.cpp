#include "activation_cache/manifest.h"

#include <fmt/format.h>

#include "activation_cache/cache.h"
#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"

namespace thresher::activation_cache {

namespace {

constexpr std::uint64_t kMaxManifestBytes = 4ULL << 30;
constexpr const char* kChecksumKey = "sha256";  // of the rest of the manifest, as one line of JSON

Json statistics_json(const Moments& moments) {
  const SourceStatistics statistics = moments.statistics();
  return Json::object({{"rows", statistics.n_rows},
                       {"mean_squared_norm", statistics.mean_squared_norm},
                       {"mean_squared_deviation", statistics.mean_squared_deviation},
                       {"mean", Json::array_of(moments.mean())},
                       {"m2", Json::array_of(moments.m2())}});
}

std::vector<double> read_numbers(const Json& json, std::size_t count, std::string_view where) {
  std::vector<double> numbers;
  for (const Json& value : json.as_array("statistics")) {
    numbers.push_back(value.as_double("statistics"));
  }
  if (numbers.size() != count) {
    throw DataError(fmt::format("{}: {} values a hook point", where, numbers.size()),
                    fmt::format("{}", count));
  }
  return numbers;
}

std::string identity_sha256(const CacheIdentity& identity) {
  return sha256_hex(identity.to_json().dump());
}

// A flipped bit in a number would otherwise pass as another number.
void check_own_checksum(const Json& json, const std::string& where) {
  if (manifest_sha256(json) != json.at(kChecksumKey).as_string(kChecksumKey)) {
    throw DataError(fmt::format("{}: the manifest does not match its own checksum", where), "",
                    "delete it and run the harvest again: it is rebuilt from the commit logs");
  }
}

}  // namespace

std::string manifest_sha256(const Json& json) {
  Json rest = Json::object();
  for (const auto& [key, value] : json.as_object("manifest")) {
    if (key != kChecksumKey) rest.append_member(key, value);
  }
  return sha256_hex(rest.dump());
}

bool is_cache_complete(const std::filesystem::path& dir) {
  return std::filesystem::exists(dir / kManifestFile);
}

void write_manifest(const std::filesystem::path& dir, const CacheIdentity& identity,
                    const CommittedUnits& committed) {
  THRESHER_CHECK(static_cast<std::int64_t>(committed.size()) == identity.n_units(),
                 "the manifest is written when every unit is committed");
  std::vector<Moments> moments;
  for (const HookPointWidth& hook : identity.hook_points) moments.emplace_back(hook.d_in);
  Json units = Json::array();
  std::int64_t rows = 0;
  std::uint64_t bytes = 0;
  DropCounts dropped;
  for (const auto& [number, unit] : committed) {
    UnitRecord record = read_logged_unit(unit, identity);
    for (std::size_t hook = 0; hook < moments.size(); ++hook) {
      moments[hook].merge(record.moments[hook]);
    }
    rows += record.rows;
    bytes += record.bytes;
    dropped += record.dropped;
    record.moments.clear();
    units.push_back(record.to_json(identity));
  }
  Json statistics = Json::object();
  for (std::size_t hook = 0; hook < moments.size(); ++hook) {
    statistics[identity.hook_points[hook].hook_point] = statistics_json(moments[hook]);
  }
  Json json = Json::object();
  json["format"] = kFormatName;
  json["format_version"] = kFormatVersion;
  json["identity_sha256"] = identity_sha256(identity);
  json["n_units"] = identity.n_units();
  json["rows"] = rows;
  json["bytes"] = bytes;
  json["dropped"] = dropped.to_json();
  json["norm_quantile_levels"] = Json::array_of(kNormQuantileLevels);
  json["statistics"] = std::move(statistics);
  json["units"] = std::move(units);
  json[kChecksumKey] = sha256_hex(json.dump());
  write_file_atomically(dir / kManifestFile, json.dump(1) + "\n");
}

Manifest read_manifest(const std::filesystem::path& dir, const CacheIdentity& identity) {
  const std::filesystem::path path = dir / kManifestFile;
  const std::string where = path.string();
  if (!is_cache_complete(dir)) {
    throw DataError(fmt::format("{}: the cache is not complete", dir.string()),
                    fmt::format("{}, which is written when every unit is there", kManifestFile),
                    "run the harvest again: it continues where it stopped");
  }
  return parse_manifest(read_text_file(path, kMaxManifestBytes), where, identity);
}

Manifest parse_manifest(std::string_view text, const std::string& where,
                        const CacheIdentity& identity) {
  const Json json = Json::parse(text, where);
  check_own_checksum(json, where);
  if (json.at("identity_sha256").as_string() != identity_sha256(identity)) {
    throw DataError(fmt::format("{}: this manifest belongs to another {}", where, kIdentityFile));
  }
  Manifest manifest;
  for (const Json& unit : json.at("units").as_array("units")) {
    manifest.units.push_back(UnitRecord::from_json(unit, identity, where));
    const UnitRecord& record = manifest.units.back();
    if (record.unit != static_cast<std::int64_t>(manifest.units.size()) - 1) {
      throw DataError(
          fmt::format("{}: unit {} at place {}", where, record.unit, manifest.units.size() - 1));
    }
    manifest.rows += record.rows;
    manifest.bytes += record.bytes;
    manifest.dropped += record.dropped;
  }
  if (static_cast<std::int64_t>(manifest.units.size()) != identity.n_units()) {
    throw DataError(fmt::format("{}: {} units", where, manifest.units.size()),
                    fmt::format("{}", identity.n_units()));
  }
  for (const HookPointWidth& hook : identity.hook_points) {
    const Json& statistics = json.at("statistics").at(hook.hook_point);
    const auto d_in = static_cast<std::size_t>(hook.d_in);
    manifest.statistics.push_back(Moments(statistics.at("rows").as_int("rows"),
                                          read_numbers(statistics.at("mean"), d_in, where),
                                          read_numbers(statistics.at("m2"), d_in, where))
                                      .statistics());
  }
  return manifest;
}

}  // namespace thresher::activation_cache
