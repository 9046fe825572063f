#include "features/store_build.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "activation_cache/harvest/pulse.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/stop_signal.h"
#include "core/version.h"
#include "features/decoder_facts.h"
#include "features/feature_store.h"
#include "features/store_writer.h"
#include "sae/thread_check.h"

namespace thresher::features {
namespace {

namespace fs = std::filesystem;
using activation_cache::Pulse;

/// A folder beside the first store that is gone afterwards, however the build ends.
class LogFolder {
 public:
  LogFolder(const fs::path& beside, comm::Communicator& comm) : is_owner_(comm.is_root()) {
    const std::string name =
        fmt::format(".tmp-features-{}-{}", beside.filename().string(), is_owner_ ? getpid() : 0);
    std::vector<std::byte> bytes(name.size());
    std::copy(name.begin(), name.end(), reinterpret_cast<char*>(bytes.data()));
    comm.broadcast(bytes, 0, "features.folder");
    path_ = beside.parent_path() /
            std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    comm.agree(
        [&] {
          if (is_owner_) make_folders(path_);
        },
        "make a folder for what fires");
  }
  ~LogFolder() {
    std::error_code ignored;
    if (is_owner_) fs::remove_all(path_, ignored);
  }
  LogFolder(const LogFolder&) = delete;
  fs::path log(std::size_t target, std::int64_t unit) const {
    return path_ / fmt::format("{}-{:08d}", target, unit);
  }

 private:
  bool is_owner_;
  fs::path path_;
};

/// One build on one rank.
class StoreBuild {
 public:
  StoreBuild(const std::vector<StoreTarget>& targets, ContextSource& source,
             const corpus::Tokenizer& tokenizer, const host_model::HostModel& model,
             const StoreOptions& options, comm::Communicator& comm)
      : targets_(targets),
        source_(source),
        tokenizer_(tokenizer),
        model_(model),
        options_(options),
        comm_(comm),
        hook_points_(hook_points_of(targets)),
        logs_(targets.front().path, comm) {
    for (const StoreTarget& target : targets_) {
      passes_.push_back(
          std::make_unique<LatentPass>(target.sae->sae, options_, source_.context_tokens()));
    }
  }

  void read_text();
  void look_at_decoders();
  void write();
  std::int64_t n_tokens() const { return passes_.front()->tallies().n_tokens; }

 private:
  void leave_if_stopped(Pulse& pulse) const {
    if (stop_requested()) pulse.request_stop();
  }
  void throw_if(bool was_stopped) const {
    if (!was_stopped) return;
    throw StoppedBySignal("features build stopped by " + stop_reason(), "",
                          "run the same command again; nothing was written");
  }
  bool is_mine(std::int64_t item) const { return item % comm_.world_size() == comm_.rank(); }
  void write_store(std::size_t index);
  Json facts(std::size_t index) const;

  const std::vector<StoreTarget>& targets_;
  ContextSource& source_;
  const corpus::Tokenizer& tokenizer_;
  const host_model::HostModel& model_;
  StoreOptions options_;
  comm::Communicator& comm_;
  std::vector<std::string> hook_points_;
  LogFolder logs_;
  std::vector<std::unique_ptr<LatentPass>> passes_;
  std::vector<std::vector<DecoderFacts>> decoder_facts_;  // rank 0: one a target
};

void StoreBuild::read_text() {
  const std::int64_t n_units = source_.n_units();
  Progress progress("features", "tokens", source_.n_contexts() * source_.context_tokens(), 0,
                    comm_.is_root());
  const bool was_stopped = activation_cache::run_with_pulse(
      comm_, "read the text",
      [&](Pulse& pulse) {
        for (std::int64_t unit = 0; unit < n_units; ++unit) {
          if (!is_mine(unit)) continue;
          leave_if_stopped(pulse);
          if (pulse.should_leave() || stop_requested()) return;
          const ContextUnit contexts = source_.load(unit);
          for (std::size_t i = 0; i < targets_.size(); ++i) {
            const auto hook =
                std::find(hook_points_.begin(), hook_points_.end(), targets_[i].sae->hook_point);
            FiringLogWriter log(logs_.log(i, unit));
            passes_[i]->add(contexts, static_cast<std::size_t>(hook - hook_points_.begin()), log);
            log.finish();
          }
          pulse.add_tokens(contexts.n_contexts * source_.context_tokens());
          progress.update(pulse.tokens_of_all());
        }
      },
      [&](const Pulse& pulse) { progress.update(pulse.tokens_of_all()); });
  throw_if(was_stopped || (comm_.world_size() == 1 && stop_requested()));
  progress.finish();
  for (const auto& pass : passes_) pass->merge(comm_);
}

at::Tensor unembedding_for(const NamedSae& sae, const corpus::Tokenizer& tokenizer,
                           const host_model::HostModel& model) {
  at::Tensor unembedding = model.unembedding();
  if (sae.sae.d_in() != unembedding.size(1)) return {};
  // Rows beyond the tokenizer's vocabulary are padding: they are no tokens.
  return unembedding.slice(0, 0, std::min(unembedding.size(0), tokenizer.vocabulary_size()));
}

void StoreBuild::look_at_decoders() {
  for (const StoreTarget& target : targets_) {
    const DecoderProducts products(
        target.sae->sae.W_dec, unembedding_for(*target.sae, tokenizer_, model_), options_.n_listed);
    std::vector<std::vector<DecoderFacts>> mine(static_cast<std::size_t>(products.n_blocks()));
    const bool was_stopped =
        activation_cache::run_with_pulse(comm_, "look at the decoder", [&](Pulse& pulse) {
          for (std::int64_t block = 0; block < products.n_blocks(); ++block) {
            if (!is_mine(block)) continue;
            leave_if_stopped(pulse);
            if (pulse.should_leave() || stop_requested()) return;
            mine[static_cast<std::size_t>(block)] = products.block(block);
          }
        });
    throw_if(was_stopped || (comm_.world_size() == 1 && stop_requested()));
    std::vector<DecoderFacts> all;
    for (std::int64_t block = 0; block < products.n_blocks(); ++block) {
      const std::vector<std::byte> bytes = pack(mine[static_cast<std::size_t>(block)]);
      const auto gathered = comm_.all_gather(bytes, "features.decoder");
      const auto owner = static_cast<std::size_t>(block % comm_.world_size());
      const std::vector<DecoderFacts> facts =
          unpack(gathered[owner], products.end(block) - products.first(block));
      if (comm_.is_root()) all.insert(all.end(), facts.begin(), facts.end());
    }
    decoder_facts_.push_back(std::move(all));
  }
}

Json StoreBuild::facts(std::size_t index) const {
  const NamedSae& sae = *targets_[index].sae;
  const LatentPass& pass = *passes_[index];
  const host_model::HostModelInfo& model = model_.info();
  Json out = Json::object({{"format", kStoreFormat},
                           {"version", kStoreVersion},
                           {"program", std::string(kVersion)},
                           {"sae", sae.name},
                           {"architecture", sae.sae.architecture},
                           {"hook_point", sae.hook_point},
                           {"n_latents", sae.sae.n_latents()},
                           {"d_in", sae.sae.d_in()}});
  for (const auto& [name, value] : targets_[index].facts.as_object()) out[name] = value;
  out["host_model"] = Json::object({{"family", model.family}, {"fingerprint", model.fingerprint}});
  out["tokenizer"] = tokenizer_.fingerprint();
  out["text"] = source_.facts();
  out["n_contexts"] = source_.n_contexts();
  out["context_tokens"] = source_.context_tokens();
  out["n_tokens"] = pass.tallies().n_tokens;
  out["n_co_firing_tokens"] = pass.co_firing().n_tokens();
  out["n_top"] = options_.n_top;
  out["n_quantiles"] = options_.n_quantiles;
  out["n_per_quantile"] = options_.n_per_quantile;
  out["n_silent"] = options_.n_silent;
  out["window_tokens"] = options_.window_tokens;
  out["seed"] = options_.seed;
  return out;
}

void StoreBuild::write_store(std::size_t index) {
  const fs::path& path = targets_[index].path;
  const fs::path temporary =
      path.parent_path() / fmt::format(".tmp-{}-{}", path.filename().string(), getpid());
  std::vector<fs::path> logs;
  for (std::int64_t unit = 0; unit < source_.n_units(); ++unit) {
    logs.push_back(logs_.log(index, unit));
  }
  try {
    StoreWriter writer(temporary, tokenizer_, options_, source_.n_contexts(),
                       source_.context_tokens());
    writer.write(facts(index), *passes_[index], decoder_facts_[index], logs);
    sync_file(temporary);
    rename_file(temporary, path);
    sync_folder(path.parent_path());
  } catch (...) {
    remove_if_possible(temporary);
    throw;
  }
}

void StoreBuild::write() {
  activation_cache::run_with_pulse(comm_, "write the stores", [&](Pulse&) {
    if (!comm_.is_root()) return;
    for (std::size_t i = 0; i < targets_.size(); ++i) write_store(i);
  });
}

}  // namespace

std::vector<std::string> hook_points_of(const std::vector<StoreTarget>& targets) {
  std::vector<std::string> out;
  for (const StoreTarget& target : targets) {
    const std::string& name = target.sae->hook_point;
    if (std::find(out.begin(), out.end(), name) == out.end()) out.push_back(name);
  }
  return out;
}

StoreEstimate estimate_store(const StoreOptions& options, const sae::InferenceSae& sae,
                             const ContextSource& source, double fired) {
  const auto n = static_cast<std::uint64_t>(sae.n_latents());
  const auto sampled = static_cast<std::uint64_t>(options.n_quantiles * options.n_per_quantile);
  const auto top = static_cast<std::uint64_t>(options.n_top);
  const auto silent = static_cast<std::uint64_t>(options.n_silent);
  const double tokens = static_cast<double>(source.n_contexts() * source.context_tokens());
  const double kept =
      std::min(tokens, static_cast<double>(options.max_pairs) / std::max(1.0, fired * fired));
  StoreEstimate out;
  out.memory_bytes = n * (16 * top + 24 * sampled + 40 * (top + sampled + silent) +
                          4 * kHistogramBins + 64 + 24 * options.n_listed) +
                     static_cast<std::uint64_t>(kept * (8 * fired + 48));
  out.disk_bytes = static_cast<std::uint64_t>(tokens * (12 * fired + 8));
  return out;
}

int store_threads(const std::vector<StoreTarget>& targets, const host_model::HostModel& model,
                  int threads) {
  if (threads == 1) return 1;
  std::vector<sae::ThreadProbe> probes;
  for (const StoreTarget& target : targets) {
    const NamedSae& one = *target.sae;
    const at::Tensor x =
        one.sae.W_dec.slice(0, 0, std::min(one.sae.n_latents(), LatentPass::batch_rows(one.sae)));
    probes.push_back({"encode " + one.name, [&one, x] { return one.sae.pre_acts(x); }});
    const at::Tensor unembedding = model.unembedding();
    const auto products = std::make_shared<DecoderProducts>(
        one.sae.W_dec, one.sae.d_in() == unembedding.size(1) ? unembedding : at::Tensor(), 1);
    probes.push_back({"cosines of " + one.name, [products] { return products->cosines(0); }});
    probes.push_back({"logits of " + one.name, [products] { return products->effects(0); }});
  }
  const std::vector<std::string> differ = sae::probes_that_differ(probes, threads);
  if (differ.empty()) return threads;
  log_warning(
      fmt::format("features: {} give other bits with {} threads than with one: one thread "
                  "is used, so that stores do not depend on it",
                  fmt::join(differ, ", "), threads));
  return 1;
}

Json build_stores(const std::vector<StoreTarget>& targets, ContextSource& source,
                  const corpus::Tokenizer& tokenizer, const host_model::HostModel& model,
                  const StoreOptions& options, comm::Communicator& comm) {
  const auto begin = std::chrono::steady_clock::now();
  comm.agree(
      [&] {
        if (!comm.is_root()) return;
        for (const StoreTarget& target : targets) make_folders(target.path.parent_path());
      },
      "make the folder of the stores");
  StoreBuild build(targets, source, tokenizer, model, options, comm);
  build.read_text();
  build.look_at_decoders();
  build.write();
  Json stores = Json::array();
  for (const StoreTarget& target : targets) {
    stores.push_back(Json::object(
        {{"path", target.path.string()}, {"bytes", thresher::file_size(target.path)}}));
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  return Json::object({{"n_tokens", build.n_tokens()},
                       {"n_contexts", source.n_contexts()},
                       {"seconds", seconds.count()},
                       {"stores", std::move(stores)}});
}

}  // namespace thresher::features
