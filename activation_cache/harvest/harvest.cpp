#include "activation_cache/harvest/harvest.h"

#include <fmt/format.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "activation_cache/cache_format.h"
#include "activation_cache/harvest/harvest_plan.h"
#include "activation_cache/harvest/host_units.h"
#include "activation_cache/harvest/own_units.h"
#include "activation_cache/harvest/pulse.h"
#include "activation_cache/harvest/unit_worker.h"
#include "activation_cache/manifest.h"
#include "activation_cache/publish.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/stop_signal.h"

namespace thresher::activation_cache {

namespace {

// File systems take some space for themselves.
constexpr double kDiskMargin = 1.05;

/// What rank 0 finds in the folder, told to all.
struct Opening {
  bool is_complete = false;
  bool are_limits_known = false;
  std::int64_t rows = 0;  // of a complete cache
  std::vector<double> norm_limits;
  std::vector<std::int64_t> todo;

  Json to_json() const {
    return Json::object({{"is_complete", is_complete},
                         {"are_limits_known", are_limits_known},
                         {"rows", rows},
                         {"norm_limits", Json::array_of(norm_limits)},
                         {"todo", Json::array_of(todo)}});
  }
  static Opening from_json(const Json& json) {
    Opening opening{json.at("is_complete").as_bool(),
                    json.at("are_limits_known").as_bool(),
                    json.at("rows").as_int(),
                    read_norm_limits(json),
                    {}};
    for (const Json& unit : json.at("todo").as_array()) opening.todo.push_back(unit.as_int());
    return opening;
  }
};

/// Rank 0's value to everyone.
Json broadcast_json(comm::Communicator& comm, const Json& json, std::string_view what) {
  const std::string text = json.dump();
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  comm.broadcast(bytes, 0, what);
  const std::string_view received(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return Json::parse(received, what);
}

void check_disk(const std::filesystem::path& dir, const CacheIdentity& identity,
                const std::vector<std::int64_t>& todo) {
  std::uint64_t bytes = 0;
  for (const std::int64_t unit : todo) bytes += shard_bytes_at_most(identity, unit);
  const auto needed = static_cast<std::uint64_t>(static_cast<double>(bytes) * kDiskMargin);
  const std::uint64_t free = free_disk_bytes(dir);
  if (needed <= free) return;
  throw IoError(
      fmt::format("{}: the harvest needs {} more, the disk has {} free", dir.string(),
                  format_bytes(needed), format_bytes(free)),
      "room for the whole cache before work starts",
      "free some space, harvest less text or fewer hook points, or choose another cache.dir");
}

/// Without an identity nothing says what shards hold. Logs are opened before the identity is known,
/// so empty ones are what a harvest leaves that was stopped in its first unit.
void refuse_foreign_shards(const std::filesystem::path& dir) {
  for (const char* folder : {kShardFolder, kCommitFolder}) {
    if (!std::filesystem::is_directory(dir / folder)) continue;
    for (const std::filesystem::path& entry : list_folder(dir / folder)) {
      if (folder == std::string_view(kCommitFolder) && thresher::file_size(entry) == 0) continue;
      throw ConfigError(
          fmt::format("{}: there are {} but no {}", dir.string(), folder, kIdentityFile),
          "an empty folder or a cache", "choose another cache.dir");
    }
  }
}

/// Rank 0 opens the folder; `lock` is taken unless the cache is complete.
Opening open_folder(const std::filesystem::path& dir, const CacheIdentity& identity,
                    std::optional<FolderLock>& lock) {
  Opening opening;
  // Twice: another harvest may have ended between the look and the lock.
  for (int look = 0; look < 2; ++look) {
    if (std::filesystem::exists(dir / kIdentityFile)) {
      const Json written = read_cache_identity(dir);
      CacheIdentity wanted = identity;
      // Rows of a complete cache are not computed again, so any device may work with them.
      if (is_cache_complete(dir)) wanted.host_device = read_identity(dir).host_device;
      check_same_identity(dir, written, wanted);
      const CacheIdentity found = read_identity(dir);
      opening.norm_limits = found.norm_limits;
      opening.are_limits_known = true;
      if (is_cache_complete(dir)) {
        opening.is_complete = true;
        opening.rows = read_manifest(dir, found).rows;
        return opening;
      }
    }
    if (look > 0) break;
    make_folders(dir);
    lock.emplace(dir, "harvest");
  }
  if (!opening.are_limits_known) refuse_foreign_shards(dir);
  opening.todo = recover_cache(dir, identity).todo;
  check_disk(dir, identity, opening.todo);
  if (!opening.are_limits_known && identity.drop_norm_above <= 0) {
    write_identity(dir, identity);
    failpoint(failpoints::kIdentityWritten);
    opening.are_limits_known = true;
  }
  return opening;
}

std::int64_t tokens_of(const CacheIdentity& identity, const std::vector<std::int64_t>& units) {
  std::int64_t tokens = 0;
  for (const std::int64_t unit : units) {
    tokens += identity.unit_range(unit).n_contexts * identity.context_tokens;
  }
  return tokens;
}

void report(const std::filesystem::path& dir, const Manifest& manifest, bool is_own) {
  const DropCounts& dropped = manifest.dropped;
  const std::string which =
      is_own ? fmt::format("{} held out, {} by norm", dropped.held_out, dropped.norm)
             : fmt::format("{} first, {} special, {} by norm", dropped.first, dropped.special,
                           dropped.norm);
  log_info(fmt::format("{}: {} rows in {} units, {}; dropped {}", dir.string(), manifest.rows,
                       manifest.units.size(), format_bytes(manifest.bytes), which));
}

using UnitMaker = std::function<void(const std::vector<std::int64_t>& units, Pulse& pulse,
                                     const std::function<void()>& after_pass)>;

struct MadeUnits {
  std::int64_t tokens = 0;  // by all ranks
  bool was_stopped = false;
};

/// Deals the units to the ranks like cards and shows how far all of them are.
MadeUnits make_units(const CacheIdentity& identity, const std::vector<std::int64_t>& todo,
                     comm::Communicator& comm, double stall_seconds, const UnitMaker& make) {
  std::vector<std::int64_t> own;
  for (std::size_t i = comm.rank(); i < todo.size(); i += comm.world_size()) own.push_back(todo[i]);
  const std::int64_t all_tokens = identity.n_contexts * identity.context_tokens;
  const std::int64_t done_before = all_tokens - tokens_of(identity, todo);
  Progress progress("harvest", "tokens", all_tokens, done_before, comm.is_root());
  MadeUnits made;
  const auto show = [&](const Pulse& pulse) {
    made.tokens = pulse.tokens_of_all();
    progress.update(done_before + made.tokens);
  };
  made.was_stopped = run_with_pulse(
      comm, "harvest: making units",
      [&](Pulse& pulse) {
        if (!own.empty()) make(own, pulse, [&] { show(pulse); });
      },
      show, stall_seconds);
  if (!made.was_stopped) progress.finish();
  return made;
}

/// How far the cache has come when all ranks have left their work.
struct Closing {
  std::int64_t committed = 0;
  std::int64_t rows = 0;
};

Closing close_folder(const std::filesystem::path& dir) {
  // Stopped before unit 0 was whole: nothing was written.
  if (!std::filesystem::exists(dir / kIdentityFile)) return {};
  const CacheIdentity identity = read_identity(dir);
  const CommittedUnits committed = read_committed_units(dir, identity);
  Closing closing{static_cast<std::int64_t>(committed.size()), 0};
  if (closing.committed < identity.n_units()) return closing;
  failpoint(failpoints::kAllCommitted);
  write_manifest(dir, identity, committed);
  failpoint(failpoints::kManifestWritten);
  const Manifest manifest = read_manifest(dir, identity);
  report(dir, manifest, identity.has_held_out_rows());
  closing.rows = manifest.rows;
  return closing;
}

/// What a cache will be, but for the norm limits.
using PlanCache = std::function<CacheIdentity()>;

HarvestResult harvest_units(const CacheConfig& config, const PlanCache& plan,
                            const UnitWorker::MakeSource& make_source, comm::Communicator& comm) {
  const auto begin = std::chrono::steady_clock::now();
  const std::filesystem::path dir = config.dir;
  CacheIdentity identity;
  std::optional<FolderLock> lock;
  Opening opening;
  run_with_pulse(comm, "harvest: opening the cache", [&](Pulse&) {
    identity = plan();
    if (comm.is_root()) opening = open_folder(dir, identity, lock);
  });
  opening = Opening::from_json(broadcast_json(comm, opening.to_json(), "harvest: units to do"));
  HarvestResult result;
  if (opening.is_complete) {
    result.was_complete = true;
    result.rows = opening.rows;
    return result;
  }
  identity.norm_limits = opening.norm_limits;

  const auto [tokens, was_stopped] = make_units(
      identity, opening.todo, comm, config.stall_seconds,
      [&](const std::vector<std::int64_t>& units, Pulse& pulse,
          const std::function<void()>& after_pass) {
        UnitWorker worker(dir, identity, opening.are_limits_known, make_source, comm.rank());
        worker.run(units, pulse, after_pass);
      });
  result.tokens = tokens;

  Closing closing;
  run_with_pulse(comm, "harvest: closing the cache", [&](Pulse&) {
    if (comm.is_root()) closing = close_folder(dir);
  });
  const Json closed =
      broadcast_json(comm, Json::object({{"committed", closing.committed}, {"rows", closing.rows}}),
                     "harvest: result");
  const std::int64_t committed = closed.at("committed").as_int();
  if (committed < identity.n_units()) {
    THRESHER_CHECK(was_stopped, "units are left only when a stop was asked for");
    throw StoppedBySignal(fmt::format("{}: harvest stopped by {} with {} of {} units saved",
                                      dir.string(), stop_reason(), committed, identity.n_units()),
                          "", "run the same command again to continue");
  }
  result.rows = closed.at("rows").as_int();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace

HarvestResult harvest(const CacheConfig& config, const corpus::PackedContexts& contexts,
                      const Json& corpus_identity, const corpus::Tokenizer& tokenizer,
                      host_model::HostModel& model, comm::Communicator& comm, std::uint64_t seed) {
  return harvest_units(
      config,
      [&] {
        CacheIdentity identity = plan_cache(config, contexts, model);
        identity.tokenizer_fingerprint = tokenizer.fingerprint();
        identity.corpus = corpus_identity;
        identity.seed = seed;
        return identity;
      },
      [&](const CacheIdentity& identity) {
        return std::make_unique<HostUnits>(identity, contexts, tokenizer, model);
      },
      comm);
}

HarvestResult harvest_own(const CacheConfig& config, const OwnActivations& rows,
                          const Json& rows_identity, comm::Communicator& comm, std::uint64_t seed) {
  return harvest_units(
      config,
      [&] {
        CacheIdentity identity = plan_own_cache(config, rows, rows_identity);
        identity.seed = seed;
        return identity;
      },
      [&](const CacheIdentity& identity) { return std::make_unique<OwnUnits>(identity, rows); },
      comm);
}

}  // namespace thresher::activation_cache
