#include "activation_cache/unit_record.h"

#include <fmt/format.h>

#include "core/checked.h"
#include "core/error.h"

namespace thresher::activation_cache {

DropCounts& DropCounts::operator+=(const DropCounts& other) {
  first += other.first;
  special += other.special;
  norm += other.norm;
  held_out += other.held_out;
  return *this;
}

Json DropCounts::to_json() const {
  Json json = Json::object({{"first", first}, {"special", special}, {"norm", norm}});
  if (held_out > 0) json["held_out"] = held_out;
  return json;
}

DropCounts DropCounts::from_json(const Json& json) {
  const Json* held_out = json.find("held_out");
  return {json.at("first").as_int("first"), json.at("special").as_int("special"),
          json.at("norm").as_int("norm"), held_out == nullptr ? 0 : held_out->as_int("held_out")};
}

Json UnitRecord::to_json(const CacheIdentity& identity) const {
  const std::vector<DatasetSpec> specs = shard_datasets(identity);
  THRESHER_CHECK(specs.size() == datasets.size(), "a place for every dataset");
  Json json = Json::object();
  json["unit"] = unit;
  json["file"] = shard_file_name(unit);
  json["bytes"] = bytes;
  json["rows"] = rows;
  json["sha256"] = sha256;
  json["dropped"] = dropped.to_json();
  Json places = Json::object();
  for (std::size_t i = 0; i < specs.size(); ++i) {
    places[specs[i].name] = Json::object(
        {{"offset", datasets[i].offset},
         {"bytes", datasets[i].bytes},
         {"rows", datasets[i].rows},
         {"checksums_offset", datasets[i].checksums_offset},
         {"checksums_crc32c", static_cast<std::uint64_t>(datasets[i].checksums_crc32c)}});
  }
  json["datasets"] = std::move(places);
  Json quantiles = Json::object();
  for (std::size_t hook = 0; hook < identity.hook_points.size(); ++hook) {
    quantiles[identity.hook_points[hook].hook_point] = Json::array_of(norm_quantiles.at(hook));
  }
  json["norm_quantiles"] = std::move(quantiles);
  if (moments.empty()) return json;
  Json all = Json::object();
  for (std::size_t hook = 0; hook < identity.hook_points.size(); ++hook) {
    all[identity.hook_points[hook].hook_point] =
        Json::object({{"count", moments[hook].count()},
                      {"mean", encode_doubles(moments[hook].mean())},
                      {"m2", encode_doubles(moments[hook].m2())}});
  }
  json["moments"] = std::move(all);
  return json;
}

namespace {

void check_inside(std::uint64_t offset, std::uint64_t bytes, std::uint64_t file_bytes,
                  std::string_view where, std::string_view name) {
  if (checked_add(offset, bytes, where) > file_bytes) {
    throw DataError(fmt::format("{}: {} ends at byte {}, the file at {}", where, name,
                                offset + bytes, file_bytes));
  }
}

DatasetPlace read_place(const Json& json, const DatasetSpec& spec, std::int64_t want_rows,
                        const UnitRecord& record, std::int64_t block_rows, std::string_view where) {
  DatasetPlace place;
  place.offset = json.at("offset").as_uint("offset");
  place.bytes = json.at("bytes").as_uint("bytes");
  place.rows = json.at("rows").as_int("rows");
  place.checksums_offset = json.at("checksums_offset").as_uint("checksums_offset");
  const std::uint64_t crc = json.at("checksums_crc32c").as_uint("checksums_crc32c");
  if (crc > 0xffffffffU) throw DataError(fmt::format("{}: CRC {} has over 32 bits", where, crc));
  place.checksums_crc32c = static_cast<std::uint32_t>(crc);
  const auto want_bytes =
      static_cast<std::uint64_t>(want_rows) * static_cast<std::uint64_t>(spec.row_bytes());
  if (place.rows != want_rows || place.bytes != want_bytes) {
    throw DataError(
        fmt::format("{}: {} has {} rows in {} bytes", where, spec.name, place.rows, place.bytes),
        fmt::format("{} rows in {} bytes", want_rows, want_bytes));
  }
  check_inside(place.offset, place.bytes, record.bytes, where, spec.name);
  check_inside(place.checksums_offset,
               static_cast<std::uint64_t>(block_count(place.rows, block_rows)) * 4, record.bytes,
               where, spec.checksum_name());
  return place;
}

bool is_sha256(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

}  // namespace

void UnitRecord::require_positions(std::int64_t positions, std::string_view where) const {
  std::int64_t left = positions;
  bool fits = true;
  for (const std::int64_t part :
       {rows, dropped.first, dropped.special, dropped.norm, dropped.held_out}) {
    fits = fits && part >= 0 && part <= left;  // one by one: a sum of hostile numbers overflows
    if (fits) left -= part;
  }
  if (fits && left == 0) return;
  throw DataError(fmt::format("{}: unit {} has {} rows and dropped {}", where, unit, rows,
                              dropped.to_json().dump()),
                  fmt::format("{} positions in all", positions));
}

UnitRecord UnitRecord::from_json(const Json& json, const CacheIdentity& identity,
                                 std::string_view where) {
  UnitRecord record;
  record.unit = json.at("unit").as_int("unit");
  if (record.unit < 0 || record.unit >= identity.n_units()) {
    throw DataError(fmt::format("{}: unit {} of {}", where, record.unit, identity.n_units()));
  }
  if (json.at("file").as_string("file") != shard_file_name(record.unit)) {
    throw DataError(
        fmt::format("{}: unit {} in file {}", where, record.unit, json.at("file").dump()),
        shard_file_name(record.unit));
  }
  const UnitRange range = identity.unit_range(record.unit);
  record.bytes = json.at("bytes").as_uint("bytes");
  record.rows = json.at("rows").as_int("rows");
  record.sha256 = json.at("sha256").as_string("sha256");
  record.dropped = DropCounts::from_json(json.at("dropped"));
  if (!is_sha256(record.sha256)) {
    throw DataError(
        fmt::format("{}: unit {} has SHA-256 {}", where, record.unit, json.at("sha256").dump()));
  }
  record.require_positions(range.n_contexts * identity.context_tokens, where);
  const Json& places = json.at("datasets");
  for (const DatasetSpec& spec : shard_datasets(identity)) {
    record.datasets.push_back(read_place(places.at(spec.name), spec,
                                         spec.is_per_context ? range.n_contexts : record.rows,
                                         record, identity.block_rows, where));
  }
  for (const HookPointWidth& hook : identity.hook_points) {
    std::vector<double> quantiles;
    for (const Json& value : json.at("norm_quantiles").at(hook.hook_point).as_array("quantiles")) {
      quantiles.push_back(value.as_double("norm quantile"));
    }
    if (quantiles.size() != kNormQuantileLevels.size()) {
      throw DataError(fmt::format("{}: {} norm quantiles", where, quantiles.size()),
                      fmt::format("{}", kNormQuantileLevels.size()));
    }
    record.norm_quantiles.push_back(std::move(quantiles));
  }
  if (const Json* moments = json.find("moments"); moments != nullptr) {
    for (const HookPointWidth& hook : identity.hook_points) {
      const Json& m = moments->at(hook.hook_point);
      const auto d_in = static_cast<std::size_t>(hook.d_in);
      record.moments.emplace_back(m.at("count").as_int("count"),
                                  decode_doubles(m.at("mean").as_string("mean"), d_in, where),
                                  decode_doubles(m.at("m2").as_string("m2"), d_in, where));
    }
  }
  return record;
}

}  // namespace thresher::activation_cache
