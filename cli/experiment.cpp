#include "cli/experiment.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "cli/experiment_read.h"
#include "cli/sweep.h"
#include "comm/gpu.h"
#include "core/error.h"
#include "core/files.h"

namespace thresher::cli {
namespace {

const std::vector<std::string> kSections = {"schema", "run", "corpus", "host_model", "activations",
                                            "cache",  "sae", "train",  "evaluation", "comm"};

/// The file's name without its extension, or the folder's name (which may hold dots: Qwen2.5-0.5B).
std::string model_name(const std::filesystem::path& weights) {
  if (!std::filesystem::is_directory(weights)) return weights.stem().string();
  const bool ends_with_slash = weights.filename().empty();
  return (ends_with_slash ? weights.parent_path() : weights).filename().string();
}

void check_sections(const ConfigNode& root) {
  for (const auto& [key, value] : root.members) {
    if (std::find(kSections.begin(), kSections.end(), key.text) != kSections.end()) continue;
    const std::string nearest = nearest_name(key.text, kSections);
    throw ConfigError(fmt::format("{}: unknown section {}", key.where(), key.text.substr(0, 60)),
                      fmt::format("one of {}", fmt::join(kSections, ", ")),
                      nearest.empty() ? "" : fmt::format("did you mean {}?", nearest));
  }
  const ConfigNode* schema = root.find("schema");
  if (schema == nullptr) {
    throw ConfigError(root.file + ": schema is missing", "schema: 1",
                      "write `schema: 1` as the first line");
  }
  if (schema->kind != ConfigNode::Kind::kScalar || schema->text != "1") {
    throw ConfigError(
        fmt::format("{}: schema = {} is not known", schema->where(),
                    schema->kind == ConfigNode::Kind::kScalar ? schema->text.substr(0, 60)
                                                              : std::string("[...]")),
        "schema: 1");
  }
}

void read_run(const ConfigNode& root, RunConfig& run) {
  const ConfigNode node = section_or_empty(root, "run");
  ConfigReader reader(&node, "run");
  run.name = std::filesystem::path(root.file).stem().string();
  run.declare(reader);
  reader.finish();
  if (!is_safe_file_name(run.name)) {
    reader.fail("name", fmt::format("= {} cannot name a folder", Json(run.name).dump()),
                "1 to 128 letters, digits, '.', '_' or '-', not starting with '.' or '-'",
                node.find("name") == nullptr
                    ? "run.name is the name of the experiment file where it is left out"
                    : "");
  }
  if (run.place() == Device::kCuda && !comm::has_cuda_build()) {
    const ConfigNode* device = node.find("device");
    throw DeviceError(fmt::format("{}: run.device = cuda: this build has no CUDA",
                                  device == nullptr ? node.where() : device->where()),
                      "a build configured with -DTHRESHER_CUDA=ON (docs/gpu.md)",
                      "build one, or set run.device: cpu");
  }
}

void read_sae(const ConfigNode& entry, const std::string& path, Experiment& experiment) {
  std::unique_ptr<sae::SaeConfig> config = sae::read_sae_config(entry, path);
  const ConfigReader place(&entry, path);
  for (const auto& other : experiment.saes) {
    if (other->name == config->name) {
      place.fail("name", fmt::format("= {} is taken by another SAE", config->name),
                 "one name for each SAE", "a `name:` in every entry tells them apart");
    }
  }
  const std::vector<std::string>& harvested = experiment.cache.hook_points;
  if (config->hook_point.empty() && harvested.size() == 1) config->hook_point = harvested[0];
  if (config->hook_point.empty()) {
    place.fail("hook_point", "is missing: the cache has more than one hook point",
               fmt::format("one of {}", fmt::join(harvested, ", ")));
  }
  if (std::find(harvested.begin(), harvested.end(), config->hook_point) == harvested.end()) {
    const std::string nearest = nearest_name(config->hook_point, harvested);
    place.fail("hook_point", fmt::format("= {} is not in cache.hook_points", config->hook_point),
               fmt::format("one of {}", fmt::join(harvested, ", ")),
               nearest.empty() ? "" : fmt::format("did you mean {}?", nearest));
  }
  experiment.saes.push_back(std::move(config));
  experiment.sae_places.push_back(entry.where());
}

void read_saes(const ConfigNode& root, Experiment& experiment) {
  const ConfigNode* node = root.find("sae");
  if (node == nullptr) return;
  const bool is_list = node->kind == ConfigNode::Kind::kList;
  const std::vector<ConfigNode> entries = is_list ? node->items : std::vector<ConfigNode>{*node};
  if (entries.empty())
    throw ConfigError(node->where() + ": sae is an empty list", "one SAE or more");
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::string path = is_list ? fmt::format("sae[{}]", i) : "sae";
    for (const ConfigNode& entry : expand_sweep(entries[i], path)) {
      read_sae(entry, path, experiment);
    }
  }
  if (static_cast<std::int64_t>(experiment.saes.size()) > kMostSaes) {
    throw ConfigError(
        fmt::format("{}: sae stands for {} SAEs", node->where(), experiment.saes.size()),
        fmt::format("at most {} in one run", kMostSaes), "shorten the lists");
  }
}

/// Ramps that an entry of `sae` takes over from section `train` must fit the run too.
void check_overrides(const Experiment& experiment) {
  if (!experiment.train.is_settled()) return;
  for (std::size_t i = 0; i < experiment.saes.size(); ++i) {
    try {
      trainer::config_of(experiment.train, *experiment.saes[i]);
    } catch (const ConfigError& error) {
      throw ConfigError(fmt::format("{}: {}", experiment.sae_places[i], error.what()));
    }
  }
}

void check_ranks(const ConfigNode& root, const comm::CommConfig& comm) {
  const ConfigNode section = section_or_empty(root, "comm");
  if (comm.ranks > 1 && comm.backend != "threads" && comm.backend != "auto") {
    ConfigReader(&section, "comm")
        .fail("ranks",
              fmt::format("= {} has no use with comm.backend: {}", comm.ranks, comm.backend),
              comm.backend == "mpi" ? "the number of ranks comes from mpirun or srun" : "",
              "comm.backend: threads runs several ranks in one process");
  }
}

}  // namespace

void RunConfig::declare(FieldVisitor& fields) {
  fields.field(
      "name", name,
      {.help = "The run's folder inside `dir`; letters, digits, '.', '_' and '-'. Left out: "
               "the experiment file's name without its ending."});
  fields.field("dir", dir, {.help = "Folder of run directories."});
  fields.field(
      "seed", seed,
      {.help = "Decides document order, row order, initial weights and baselines.", .min = 0});
  fields.field(
      "device", device,
      {.help = "Where host model, training and evaluation run; cuda: each rank takes a GPU of its "
               "host (docs/gpu.md).",
       .choices = {"cpu", "cuda"}});
  fields.field("threads", threads,
               {.help = "Threads a rank; auto: the cores of the host divided by its ranks, and one "
                        "for the ranks of comm.backend: threads.",
                .min = 1,
                .max = 1024});
}

Experiment read_experiment(const ConfigNode& root, Purpose purpose) {
  check_sections(root);
  Experiment experiment;
  read_run(root, experiment.run);
  read_source(root, experiment);
  read_cache(root, experiment);
  read_saes(root, experiment);
  if (experiment.saes.empty() && purpose == Purpose::kWhole) {
    throw ConfigError(root.file + ": sae is missing", "a section `sae` with at least one SAE");
  }
  if (purpose == Purpose::kWhole || root.find("train") != nullptr) {
    read_section(root, "train", experiment.train);
    const ConfigNode section = section_or_empty(root, "train");
    check_at(section, [&] {
      experiment.train.settle(std::nullopt);
      experiment.train.validate();
    });
    check_overrides(experiment);
  }
  read_section(root, "evaluation", experiment.evaluation);
  read_section(root, "comm", experiment.comm);
  check_ranks(root, experiment.comm);
  return experiment;
}

bool settle_training(Experiment& experiment, std::int64_t rows) {
  if (experiment.train.is_settled()) return false;
  experiment.train.settle(rows);
  experiment.train.validate();
  check_overrides(experiment);
  return true;
}

Experiment load_experiment(const std::filesystem::path& path,
                           const std::vector<std::string>& overrides, Purpose purpose) {
  ConfigNode root = parse_config_file(path);
  for (const std::string& text : overrides) apply_override(root, text);
  return read_experiment(root, purpose);
}

Experiment load_run(const std::filesystem::path& run_dir,
                    const std::vector<std::string>& overrides) {
  const std::filesystem::path config = run_dir / "config.resolved.yaml";
  if (!std::filesystem::exists(config)) {
    throw ConfigError(fmt::format("{}: there is no run here", run_dir.string()),
                      "a folder with config.resolved.yaml",
                      "`thresher run` and `thresher train` make one");
  }
  Experiment experiment = load_experiment(config, overrides);
  if (!experiment.train.is_settled()) {
    throw ConfigError(fmt::format("{}: train.total_tokens is auto", config.string()),
                      "the length that the run was trained for");
  }
  return experiment;
}

namespace {

template <class Section>
Json written(Section section) {
  ConfigWriter writer;
  section.declare(writer);
  return writer.json();
}

template <class Section>
SectionDescription described(const std::string& name, const std::string& help, Section section) {
  FieldCollector collector;
  section.declare(collector);
  return {name, name, "", help, collector.fields()};
}

}  // namespace

Json Experiment::resolved() const {
  Json list = Json::array();
  for (const auto& config : saes) {
    ConfigWriter writer;
    config->declare(writer);
    list.push_back(writer.json());
  }
  Json out = Json::object({{"schema", 1}, {"run", written(run)}});
  if (activations) {
    out["activations"] = written(*activations);
  } else {
    out["corpus"] = written(corpus);
    out["host_model"] = written(host_model);
  }
  out["cache"] = written(cache);
  out["sae"] = std::move(list);
  out["train"] = written(train);
  out["evaluation"] = written(evaluation);
  out["comm"] = written(comm);
  return out;
}

trainer::TrainJob Experiment::train_job(bool fresh) const {
  trainer::TrainJob job;
  job.config = train;
  // The job owns its configs; reading them back from the resolved form copies any variant.
  const ConfigNode list = parse_config(to_yaml(resolved()), "resolved configuration");
  for (const ConfigNode& entry : list.find("sae")->items) {
    job.saes.push_back(sae::read_sae_config(entry, "sae"));
  }
  job.run_dir = run_dir();
  job.seed = seed();
  job.resolved_config = resolved();
  job.fresh = fresh;
  job.device = run.place();
  if (activations) {
    job.export_metadata =
        Json::object({{"dataset_path", fmt::format("{}", fmt::join(activations->paths, ", "))}});
    return job;
  }
  job.export_metadata =
      Json::object({{"model_name", model_name(host_model.weights)},
                    {"context_size", corpus.context_tokens},
                    {"dataset_path", fmt::format("{}", fmt::join(corpus.paths, ", "))},
                    {"prepend_bos", corpus.prepend_bos != "never"}});
  return job;
}

std::vector<SectionDescription> describe_sections() {
  std::vector<SectionDescription> out;
  out.push_back(described("run", "The run: its name, folder, seed and machine.", RunConfig{}));
  out.push_back(
      described("corpus", "The text and how it is cut into contexts.", corpus::CorpusConfig{}));
  out.push_back(described("host_model", "The transformer whose activations are read.",
                          host_model::HostModelConfig{}));
  out.push_back(described("activations",
                          "Somebody's own activations, instead of `corpus` and `host_model` "
                          "([own-data.md](own-data.md)).",
                          activation_cache::OwnActivationsConfig{}));
  out.push_back(described("cache", "The activations on disk.", activation_cache::CacheConfig{}));
  for (const std::string& type : sae::sae_types()) {
    std::unique_ptr<sae::SaeConfig> config = sae::default_sae_config(type);
    FieldCollector collector;
    config->declare(collector);
    out.push_back({fmt::format("sae (type: {})", type), "sae", type,
                   "One SAE, or a list of them trained over one stream.", collector.fields()});
  }
  out.push_back(described("train", "Training. Lengths are in tokens over all ranks.",
                          trainer::TrainConfig::automatic()));
  out.push_back(
      described("evaluation", "Measuring on held-out text.", evaluation::EvaluationConfig{}));
  out.push_back(described("comm", "How ranks reach each other.", comm::CommConfig{}));
  return out;
}

}  // namespace thresher::cli
