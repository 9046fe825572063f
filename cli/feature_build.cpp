#include "cli/feature_build.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "activation_cache/cache.h"
#include "cli/ranks.h"
#include "cli/stages.h"
#include "cli/subject.h"
#include "cli/text_inputs.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/visible_text.h"
#include "features/feature_store.h"
#include "features/store_build.h"
#include "trainer/run_directory.h"

namespace thresher::cli {
namespace {

namespace fs = std::filesystem;

struct BuildOptions : SubjectOptions {
  std::string from = "auto", out;
  std::vector<std::string> text;
  features::StoreOptions store;
};

/// Where the text comes from, once "auto" is settled.
enum class TextFrom { kCache, kTraining, kHeldOut, kFiles };

TextFrom choose_text(const BuildOptions& options, const LoadedSubject& subject) {
  if (!options.text.empty()) return TextFrom::kFiles;
  if (!subject.experiment) {
    throw UsageError("features build: an SAE without a run has no text of its own",
                     "--text PATH, files or folders of text");
  }
  if (options.from == "training") return TextFrom::kTraining;
  if (options.from == "held-out") return TextFrom::kHeldOut;
  const bool is_complete = activation_cache::is_cache_complete(subject.experiment->cache.dir);
  if (is_complete || options.from == "cache") return TextFrom::kCache;
  log_info("features: the cache is not there; the host model reads the training text again");
  return TextFrom::kTraining;
}

/// The cache must be that of the run: same weights, same tokenizer.
void check_cache(const fs::path& dir, const features::Subject& subject) {
  const Json identity = activation_cache::read_cache_identity(dir);
  if (identity.at("host_model").at("fingerprint") != Json(subject.model->info().fingerprint) ||
      identity.at("tokenizer") != Json(subject.tokenizer->fingerprint())) {
    throw ConfigError(
        fmt::format("{}: the cache is of another host model or tokenizer", display_path(dir)),
        "the cache that the SAE was trained on", "--from training runs the host model on the text");
  }
}

/// Text that is packed for the host model, and what is said of it.
struct FreshText {
  corpus::PackedContexts contexts;
  Json facts = Json::object();
};

FreshText pack_text(const BuildOptions& options, LoadedSubject& loaded, TextFrom from) {
  corpus::CorpusConfig config = loaded.subject.rules.corpus;
  std::uint64_t seed = 0;
  if (from == TextFrom::kFiles) {
    config.paths = options.text;
    config.held_out_fraction = 0;
    config.max_tokens = 0;
  } else {
    use_kept_input(*loaded.experiment);
    config.paths = loaded.experiment->corpus.paths;
    seed = loaded.experiment->seed();
  }
  const corpus::Corpus corpus(config, *loaded.subject.tokenizer, seed);
  const bool is_held_out = from == TextFrom::kHeldOut;
  FreshText out;
  out.contexts = corpus.pack(is_held_out ? corpus::Split::kHeldOut : corpus::Split::kTraining);
  out.facts = Json::object({{"from", "host model"},
                            {"corpus", Json::object({{"fingerprint", corpus.fingerprint()},
                                                     {"split", from == TextFrom::kFiles ? "all"
                                                               : is_held_out            ? "held_out"
                                                                             : "training"}})}});
  return out;
}

std::vector<features::StoreTarget> targets_of(const BuildOptions& options,
                                              const LoadedSubject& loaded) {
  const auto& saes = loaded.subject.saes;
  if (!options.out.empty() && saes.size() > 1) {
    throw UsageError(fmt::format("--out names one file for {} SAEs", saes.size()), "--sae NAME");
  }
  if (options.out.empty() && !loaded.experiment) {
    throw UsageError("features build: an SAE without a run has no place for its store",
                     "--out PATH, the file to write");
  }
  std::vector<features::StoreTarget> out;
  for (const features::NamedSae& one : saes) {
    features::StoreTarget target;
    target.sae = &one;
    target.path =
        options.out.empty() ? features::store_path(options.path, one.name) : fs::path(options.out);
    if (target.path.parent_path().empty()) target.path = "." / target.path;
    if (fs::is_directory(target.path)) {
      throw UsageError(fmt::format("--out {} is a folder", display_path(target.path)),
                       "the name of the store's file");
    }
    const fs::path folder =
        loaded.experiment ? trainer::sae_folder(options.path, one.name) : fs::path(options.path);
    target.facts["sae_sha256"] = sha256_file(folder / "sae_weights.safetensors");
    out.push_back(std::move(target));
  }
  return out;
}

constexpr double kGuessedFirings = 64;  // on a token, of an SAE that does not say its k

void tell_estimate(const std::vector<features::StoreTarget>& targets,
                   const features::ContextSource& source, const features::StoreOptions& options) {
  std::uint64_t memory = 0, disk = 0;
  for (const features::StoreTarget& target : targets) {
    const sae::InferenceSae& sae = target.sae->sae;
    const features::StoreEstimate one = features::estimate_store(
        options, sae, source, sae.k > 0 ? static_cast<double>(sae.k) : kGuessedFirings);
    memory += one.memory_bytes;
    disk += one.disk_bytes;
  }
  log_info(fmt::format(
      "features: {} of text for {} {}; needs about {} of memory beside the model and {} of disk "
      "meanwhile",
      format_count(static_cast<double>(source.n_contexts() * source.context_tokens())) + " tokens",
      targets.size(), targets.size() == 1 ? "SAE" : "SAEs", format_bytes(memory),
      format_bytes(disk)));
}

void build_on_rank(const BuildOptions& options, LoadedSubject& loaded, TextFrom from,
                   comm::Communicator& comm) {
  const features::Subject& subject = loaded.subject;
  std::optional<std::int64_t> threads;
  comm::CommConfig comm_config;
  if (loaded.experiment) threads = loaded.experiment->run.threads;
  const int available = set_threads(threads, comm);
  std::vector<features::StoreTarget> targets;
  std::unique_ptr<features::ContextSource> source;
  FreshText text;
  int used = 1;
  work_together(comm, "open the text", [&] {
    targets = targets_of(options, loaded);
    const std::vector<std::string> points = features::hook_points_of(targets);
    const std::int64_t width = from == TextFrom::kCache ? loaded.experiment->corpus.context_tokens
                                                        : subject.rules.corpus.context_tokens;
    const std::int64_t max_contexts = std::max<std::int64_t>(1, options.store.max_tokens / width);
    if (from == TextFrom::kCache) {
      check_cache(loaded.experiment->cache.dir, subject);
      source = features::open_cached_contexts(loaded.experiment->cache.dir, points, max_contexts);
    } else {
      text = pack_text(options, loaded, from);
      source = features::make_fresh_contexts(text.contexts, points, subject.rules, max_contexts,
                                             *subject.tokenizer, *subject.model, text.facts);
    }
    used = features::store_threads(targets, *subject.model, available);
  });
  const ThreadsScope scope(used);
  if (comm.is_root()) tell_estimate(targets, *source, options.store);
  const Json result = features::build_stores(targets, *source, *subject.tokenizer, *subject.model,
                                             options.store, comm);
  if (!comm.is_root()) return;
  if (options.json) {
    print_result(result.dump(2) + "\n");
    return;
  }
  std::string said;
  for (const Json& one : result.at("stores").as_array()) {
    said += fmt::format("{}: {} tokens, {}, {}\n", display_path(one.at("path").as_string()),
                        result.at("n_tokens").as_int(), format_bytes(one.at("bytes").as_uint()),
                        format_duration(result.at("seconds").as_double()));
  }
  print_result(said);
}

void run_build(const BuildOptions& options) {
  start(options);
  LoadedSubject loaded = load_subject(options, Needs::kSae);
  const TextFrom from = choose_text(options, loaded);
  BuildOptions with_seed = options;
  comm::CommConfig comm_config;
  Device device = Device::kCpu;
  if (loaded.experiment) {
    with_seed.store.seed = loaded.experiment->seed();
    comm_config = loaded.experiment->comm;
    device = loaded.experiment->run.place();
  }
  with_ranks(comm_config, device,
             [&](comm::Communicator& comm) { build_on_rank(with_seed, loaded, from, comm); });
}

void add_size_options(CLI::App& command, features::StoreOptions& store) {
  command.add_option("--tokens", store.max_tokens, "of text to read, at most")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  command.add_option("--top", store.n_top, "contexts of strongest activation a latent")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  command.add_option("--quantiles", store.n_quantiles, "groups of the contexts drawn at random")
      ->capture_default_str()
      ->check(CLI::Range(1, 100));
  command.add_option("--per-quantile", store.n_per_quantile, "contexts a group")
      ->capture_default_str()
      ->check(CLI::Range(1, 100));
  command.add_option("--window", store.window_tokens, "tokens of a context that are shown")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
}

}  // namespace

void add_feature_build(CLI::App& parent, Action& action) {
  CLI::App* command = parent.add_subcommand("build", "make the feature store of a run's SAEs");
  command->footer(
      "One pass over text writes RUN/features/NAME.sqlite: contexts, densities, histograms,\n"
      "co-firing, neighbours and logit effects of every latent. Any number of ranks, the same "
      "file.");
  const auto options = std::make_shared<BuildOptions>();
  add_subject_options(*command, *options);
  command
      ->add_option("--from", options->from,
                   "auto (the cache, or the training text where it is not complete), cache, "
                   "training, held-out (the text through the host model)")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "cache", "training", "held-out"}));
  command->add_option("--text", options->text, "files or folders of other text, instead");
  command->add_option("--out", options->out, "the file to write, for one SAE");
  add_size_options(*command, options->store);
  command->callback([&action, options] {
    options->store.window_before =
        std::min(options->store.window_before, options->store.window_tokens * 5 / 8);
    action = [options] { run_build(*options); };
  });
}

}  // namespace thresher::cli
