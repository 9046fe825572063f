// Writes a small cache into DIR and beside it DIR.values: for every unit and hook point, all rows
// as the project's own reader gives them, as float32. The Python oracle compares them with what
// h5py reads.

#include <fmt/format.h>

#include <fstream>
#include <iostream>
#include <limits>

#include "activation_cache/commit_log.h"
#include "activation_cache/manifest.h"
#include "activation_cache/publish.h"
#include "activation_cache/shard_reader.h"
#include "core/error.h"
#include "core/files.h"
#include "tests/activation_cache/cache_testing.h"

namespace thresher::activation_cache {
namespace {

/// Values at the edges of the formats, in the first rows of unit 0.
void put_in_extremes(const CacheIdentity& identity, testing::UnitContent& owner) {
  const float largest = identity.dtype == Dtype::kFloat16 ? 65504.0F : 3.3e38F;
  const float smallest = identity.dtype == Dtype::kFloat16 ? 5.9604645e-8F : 1e-40F;  // subnormal
  const std::vector<float> extremes = {largest, -largest, smallest, -smallest, 0.0F,
                                       -0.0F,   1.0F,     -1.0F,    1e-7F,     0.1F};
  const std::size_t row_bytes = 12 * dtype_bytes(identity.dtype);
  const std::size_t first = static_cast<std::size_t>(owner.content.rows[0]) * row_bytes;
  encode_values(
      identity.dtype, extremes,
      std::span(owner.encoded[0]).subspan(first, extremes.size() * dtype_bytes(identity.dtype)));
}

void write_golden_cache(const std::filesystem::path& dir, Dtype dtype) {
  const CacheIdentity identity = testing::small_identity(dtype);
  make_folders(dir);
  write_identity(dir, identity);
  recover_cache(dir, identity);
  CommitLog log(dir, 0);
  for (std::int64_t unit = 0; unit < identity.n_units(); ++unit) {
    testing::UnitContent owner = testing::unit_content(identity, unit);
    if (unit == 0) put_in_extremes(identity, owner);
    publish_unit(dir, identity, owner.content, 0, log);
  }
  write_manifest(dir, identity, read_committed_units(dir, identity));

  ShardReader shards(dir, identity, read_manifest(dir, identity).units);
  std::ofstream out(dir.string() + ".values", std::ios::binary);
  for (const UnitRecord& unit : shards.units()) {
    for (std::size_t hook = 0; hook < identity.hook_points.size(); ++hook) {
      for (std::int64_t b = 0; b < block_count(unit.rows, identity.block_rows); ++b) {
        const auto n = static_cast<std::size_t>(shards.rows_in_block(unit.unit, hook, b));
        const auto width = static_cast<std::size_t>(identity.hook_points[hook].d_in);
        std::vector<std::byte> block(n * width * dtype_bytes(dtype));
        shards.read_block(unit.unit, hook, b, block);
        std::vector<float> values(n * width);
        decode_values(dtype, block, values);
        out.write(reinterpret_cast<const char*>(values.data()),
                  static_cast<std::streamsize>(values.size() * sizeof(float)));
      }
    }
  }
}

}  // namespace
}  // namespace thresher::activation_cache

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: golden_cache_tool DIR DTYPE\n";
    return 64;
  }
  try {
    thresher::activation_cache::write_golden_cache(argv[1], thresher::parse_dtype(argv[2]));
  } catch (const thresher::Error& error) {
    std::cerr << error.what() << "\n";
    return static_cast<int>(error.code());
  }
  return 0;
}
