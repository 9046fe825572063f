#include "tests/activation_cache/cache_testing.h"

#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "activation_cache/commit_log.h"
#include "activation_cache/manifest.h"
#include "activation_cache/publish.h"
#include "core/files.h"
#include "core/random.h"

namespace thresher::activation_cache::testing {

namespace {

// What a killed process leaves is the same in a memory file system, where a sync costs nothing:
// there are thousands here.
[[maybe_unused]] const bool kUsesMemory =
    access("/dev/shm", W_OK) == 0 && setenv("TMPDIR", "/dev/shm", 0) == 0;

}  // namespace

CacheIdentity small_identity(Dtype dtype) {
  CacheIdentity identity;
  identity.host_family = "llama";
  identity.host_fingerprint = "host";
  identity.tokenizer_fingerprint = "tokenizer";
  identity.corpus = Json::object({{"fingerprint", "corpus"}});
  identity.hook_points = {{"blocks.0.hook_resid_post", 12}, {"hook_embed", 5}};
  identity.dtype = dtype;
  identity.context_tokens = 16;
  identity.n_contexts = 40;
  identity.unit_tokens = 128;
  identity.drop_first_positions = 1;
  identity.seed = 7;
  identity.forward_contexts = 4;
  identity.block_rows = 7;
  return identity;
}

float value_at(std::size_t hook, std::int64_t context, std::int64_t position, std::int64_t d) {
  static const RandomStream stream(1, "test.activations");
  const auto index = static_cast<std::uint64_t>(((context * 64 + position) * 64 + d) * 8) + hook;
  // A mean well away from zero, so that moments cannot be right by accident.
  return static_cast<float>(3.0 + 0.25 * static_cast<double>(d) + stream.normal(index));
}

float stored_value_at(Dtype dtype, std::size_t hook, std::int64_t context, std::int64_t position,
                      std::int64_t d) {
  const float value = value_at(hook, context, position, d);
  if (dtype == Dtype::kFloat16) return float16_to_float(float_to_float16(value));
  if (dtype == Dtype::kBfloat16) return bfloat16_to_float(float_to_bfloat16(value));
  return value;
}

std::int32_t token_id_at(std::int64_t context, std::int64_t position) {
  return static_cast<std::int32_t>(context * 100 + position);
}

std::int32_t document_at(std::int64_t context) { return static_cast<std::int32_t>(context / 3); }

UnitContent unit_content(const CacheIdentity& identity, std::int64_t unit) {
  const UnitRange range = identity.unit_range(unit);
  UnitContent owner;
  owner.content.unit = unit;
  std::vector<std::int64_t> kept;
  for (std::int64_t c = 0; c < range.n_contexts; ++c) {
    for (std::int64_t p = 0; p < identity.context_tokens; ++p) {
      owner.token_ids.push_back(token_id_at(range.first_context + c, p));
      owner.documents.push_back(document_at(range.first_context + c));
      if (p > 0) kept.push_back(c * identity.context_tokens + p);
    }
  }
  owner.content.dropped.first = range.n_contexts;
  for (std::size_t hook = 0; hook < identity.hook_points.size(); ++hook) {
    std::vector<float> values;
    for (std::int64_t c = 0; c < range.n_contexts; ++c) {
      for (std::int64_t p = 0; p < identity.context_tokens; ++p) {
        for (std::int64_t d = 0; d < identity.hook_points[hook].d_in; ++d) {
          values.push_back(value_at(hook, range.first_context + c, p, d));
        }
      }
    }
    owner.encoded.emplace_back(values.size() * dtype_bytes(identity.dtype));
    encode_values(identity.dtype, values, owner.encoded.back());
  }
  const Permutation order(kept.size(), identity.seed, fmt::format("cache.rows.{}", unit));
  for (std::size_t i = 0; i < kept.size(); ++i) owner.content.rows.push_back(kept[order(i)]);
  // Moving the owner moves the vectors' buffers along, so these stay right.
  for (const auto& bytes : owner.encoded) owner.content.activations.emplace_back(bytes);
  owner.content.token_ids = owner.token_ids;
  owner.content.documents = owner.documents;
  return owner;
}

void write_cache(const std::filesystem::path& dir, const CacheIdentity& identity,
                 const std::vector<std::int64_t>& units, int rank) {
  make_folders(dir);
  write_identity(dir, identity);
  recover_cache(dir, identity);
  std::vector<std::int64_t> todo = units;
  if (todo.empty()) {
    for (std::int64_t unit = 0; unit < identity.n_units(); ++unit) todo.push_back(unit);
  }
  CommitLog log(dir, rank);
  for (const std::int64_t unit : todo) {
    const UnitContent owner = unit_content(identity, unit);
    publish_unit(dir, identity, owner.content, rank, log);
  }
  const CommittedUnits committed = read_committed_units(dir, identity);
  if (static_cast<std::int64_t>(committed.size()) == identity.n_units()) {
    write_manifest(dir, identity, committed);
  }
}

std::string read_bytes(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::stringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

std::map<std::string, std::string> promised_bytes(const std::filesystem::path& dir) {
  std::map<std::string, std::string> files;
  for (const char* name : {kIdentityFile, kManifestFile}) files[name] = read_bytes(dir / name);
  if (!std::filesystem::is_directory(dir / kShardFolder)) return files;
  for (const auto& path : list_folder(dir / kShardFolder)) {
    files[path.filename().string()] = read_bytes(path);
  }
  return files;
}

void flip_bit(const std::filesystem::path& file, std::uint64_t bit) {
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekg(static_cast<std::streamoff>(bit / 8));
  char byte = 0;
  stream.get(byte);
  byte = static_cast<char>(static_cast<unsigned char>(byte) ^ (1U << (bit % 8)));
  stream.seekp(static_cast<std::streamoff>(bit / 8));
  stream.put(byte);
}

void append_bytes(const std::filesystem::path& file, const std::string& bytes) {
  std::ofstream out(file, std::ios::binary | std::ios::app);
  out << bytes;
}

}  // namespace thresher::activation_cache::testing
