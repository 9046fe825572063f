#include <array>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "activation_cache/commit_log.h"
#include "activation_cache/manifest.h"
#include "activation_cache/table_file.h"
#include "core/error.h"
#include "core/hash.h"
#include "tests/core/scratch_folder.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/parsers.h"
#include "tests/fuzz/sample_cache.h"
#include "trainer/checkpoint_format.h"

namespace thresher::fuzz {
namespace {

using activation_cache::CacheIdentity;

/// The log with each frame's CRC-32C made right, as far as frames fit.
std::vector<std::byte> with_right_checksums(std::span<const std::byte> log) {
  std::vector<std::byte> out(log.begin(), log.end());
  for (std::size_t at = 0; at + 8 <= out.size();) {
    std::uint32_t length = 0;
    std::memcpy(&length, out.data() + at, 4);
    if (length == 0 || length > out.size() - at - 8) break;
    const std::uint32_t crc = crc32c(std::span(out).subspan(at + 8, length));
    std::memcpy(out.data() + at + 4, &crc, 4);
    at += 8 + length;
  }
  return out;
}

void read_log(std::span<const std::byte> bytes) {
  static const MemoryFile file;
  static const CacheIdentity identity = sample_identity();
  const activation_cache::LogContent content =
      activation_cache::read_commit_log(file.write(bytes), identity);
  if (content.sound_bytes > content.file_bytes) throw std::logic_error("more sound bytes than any");
  for (const auto& unit : content.units) activation_cache::read_logged_unit(unit, identity);
}

/// The JSON object of `bytes` with another `sha256`; nothing where it is no such object.
std::string with_sha256(std::span<const std::byte> bytes, std::string (*sha256)(const Json&)) {
  try {
    Json json = Json::parse(as_text(bytes), "seed");
    if (!json.is_object()) return {};
    const std::string right = sha256(json);
    json["sha256"] = right;
    return json.dump();
  } catch (const Error&) {
    return {};
  }
}

}  // namespace

void parse_commit_log(std::span<const std::byte> bytes) {
  const std::vector<std::byte> mended = with_right_checksums(bytes);
  read_log(mended);
  read_log(bytes);
}

void parse_cache_manifest(std::span<const std::byte> bytes) {
  static const CacheIdentity identity = sample_identity();
  const std::string mended = with_sha256(bytes, activation_cache::manifest_sha256);
  if (!mended.empty()) activation_cache::parse_manifest(mended, "MANIFEST.json", identity);
  activation_cache::parse_manifest(as_text(bytes), "MANIFEST.json", identity);
}

void parse_cache_identity(std::span<const std::byte> bytes) {
  const auto identity =
      CacheIdentity::from_json(Json::parse(as_text(bytes), "cache.json"), "cache.json");
  const std::int64_t n_units = identity.n_units();
  const auto last = identity.unit_range(n_units - 1);
  if (last.n_contexts < 1 || last.first_context + last.n_contexts != identity.n_contexts) {
    throw std::logic_error("the units do not cover the contexts");
  }
  for (const auto& spec : activation_cache::shard_datasets(identity)) {
    if (spec.row_bytes() <= 0) throw std::logic_error("a row without bytes");
  }
  const auto again = CacheIdentity::from_json(identity.to_json(), "cache.json");
  if (again.to_json() != identity.to_json()) throw std::logic_error("another identity is written");
}

void parse_checkpoint_commit(std::span<const std::byte> bytes) {
  const std::string mended = with_sha256(bytes, [](const Json& json) {
    const Json* files = json.find("files");
    return trainer::commit_hash(files == nullptr ? Json() : *files);
  });
  if (!mended.empty()) trainer::parse_commit(mended, "COMMIT");
  trainer::parse_commit(as_text(bytes), "COMMIT");
}

void parse_checkpoint_state(std::span<const std::byte> bytes) {
  trainer::parse_state(as_text(bytes), "state.json");
}

void parse_hdf5_tables(std::span<const std::byte> bytes) {
  // libhdf5 wants a real path, and files that were examined are known by inode and time of change.
  static const testing::ScratchFolder folder;
  static int n_files = 0;
  const std::filesystem::path path = folder / (std::to_string(++n_files % 64) + ".h5");
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << as_text(bytes);
  for (const auto& listed : activation_cache::list_hdf5_tables(path)) {
    const auto table = activation_cache::open_hdf5_table(path, listed.name);
    if (table->shape().empty() || table->shape().size() > 2) continue;
    if (table->rows() == 0 || table->columns() > 1 << 16) continue;
    if (activation_cache::is_floating(table->type())) {
      std::vector<float> row(static_cast<std::size_t>(table->columns()));
      table->read_floats(table->rows() - 1, row);
    } else {
      std::vector<std::int64_t> row(static_cast<std::size_t>(table->columns()));
      table->read_integers(table->rows() - 1, row);
    }
  }
}

}  // namespace thresher::fuzz
