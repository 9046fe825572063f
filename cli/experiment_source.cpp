#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "cli/experiment_read.h"
#include "core/error.h"

namespace thresher::cli {

ConfigNode section_or_empty(const ConfigNode& root, const std::string& name) {
  if (const ConfigNode* node = root.find(name)) return *node;
  ConfigNode empty;
  empty.kind = ConfigNode::Kind::kMap;
  empty.file = root.file;
  return empty;
}

void check_at(const ConfigNode& node, const std::function<void()>& check) {
  try {
    check();
  } catch (const ConfigError& error) {
    throw ConfigError(fmt::format("{}: {}", node.where(), error.what()));
  }
}

void read_source(const ConfigNode& root, Experiment& experiment) {
  const ConfigNode* own = root.find("activations");
  if (own == nullptr) {
    read_section(root, "corpus", experiment.corpus);
    if (experiment.corpus.field.empty()) {
      const ConfigNode section = section_or_empty(root, "corpus");
      ConfigReader(&section, "corpus")
          .fail("field", "is empty", "a key of the JSON lines, text or meta.text for example");
    }
    read_section(root, "host_model", experiment.host_model);
    return;
  }
  for (const char* name : {"corpus", "host_model"}) {
    const ConfigNode* other = root.find(name);
    if (other == nullptr) continue;
    throw ConfigError(
        fmt::format("{}: the sections {} and activations exclude each other", other->where(), name),
        "corpus and host_model, or activations");
  }
  read_section(root, "activations", experiment.activations.emplace());
}

namespace {

/// What a cache of own activations does differently: nothing is known of positions and tokens, the
/// files' element type is kept, and no row is dropped unless asked for.
void set_own_defaults(activation_cache::CacheConfig& cache) {
  cache.dtype = "auto";
  cache.drop_first_positions = 0;
  cache.drop_special_tokens = false;
  cache.drop_norm_above = 0;
}

void check_own_cache(const ConfigReader& reader, const ConfigNode& section,
                     Experiment& experiment) {
  const activation_cache::CacheConfig& cache = experiment.cache;
  const activation_cache::OwnActivationsConfig& own = *experiment.activations;
  const char* positional = cache.drop_first_positions > 0 ? "drop_first_positions"
                           : cache.drop_special_tokens    ? "drop_special_tokens"
                                                          : nullptr;
  if (positional != nullptr) {
    reader.fail(positional, "needs a text: own activations have no positions and no tokenizer", "",
                "leave such rows out when you save activations; cache.drop_norm_above works");
  }
  const std::size_t n_matrices = std::max<std::size_t>(1, own.datasets.size());
  if (cache.hook_points.size() != n_matrices) {
    reader.fail("hook_points",
                fmt::format("names {} hook points, activations.datasets {}",
                            cache.hook_points.size(), own.datasets.size()),
                "one name for each dataset");
  }
  const ConfigNode* list = section.find("hook_points");
  for (std::size_t i = 0; i < cache.hook_points.size(); ++i) {
    if (activation_cache::is_hook_point_name(cache.hook_points[i])) continue;
    const ConfigNode& place = list != nullptr && i < list->items.size() ? list->items[i] : section;
    throw ConfigError(fmt::format("{}: cache.hook_points[{}] = {} cannot name a hook point",
                                  place.where(), i, Json(cache.hook_points[i]).dump()),
                      "1 to 200 letters, digits, '.', '_' and '-'");
  }
}

void check_hook_points(const ConfigNode& root, const Experiment& experiment) {
  const activation_cache::CacheConfig& cache = experiment.cache;
  const ConfigNode section = section_or_empty(root, "cache");
  const ConfigNode* list = section.find("hook_points");
  for (std::size_t i = 0; i < cache.hook_points.size(); ++i) {
    const std::string& name = cache.hook_points[i];
    const ConfigNode& place = list != nullptr && i < list->items.size() ? list->items[i] : section;
    if (!experiment.activations) check_at(place, [&] { host_model::HookPoint::parse(name); });
    for (std::size_t j = 0; j < i; ++j) {
      if (cache.hook_points[j] == name) {
        throw ConfigError(
            fmt::format("{}: cache.hook_points[{}] = {} is there twice", place.where(), i, name));
      }
    }
  }
}

}  // namespace

void read_cache(const ConfigNode& root, Experiment& experiment) {
  activation_cache::CacheConfig& cache = experiment.cache;
  if (experiment.activations) set_own_defaults(cache);
  read_section(root, "cache", cache);
  if (!experiment.activations && cache.dtype == "auto") cache.dtype = "bfloat16";
  if (cache.dir.empty()) cache.dir = "caches/" + experiment.run.name;
  const ConfigNode section = section_or_empty(root, "cache");
  if (experiment.activations) {
    if (cache.hook_points.empty()) {
      cache.hook_points = activation_cache::default_hook_points(*experiment.activations);
    }
    check_own_cache(ConfigReader(&section, "cache"), section, experiment);
  }
  if (cache.hook_points.empty()) {
    ConfigReader(&section, "cache")
        .fail("hook_points", section.find("hook_points") == nullptr ? "is missing" : "is empty",
              "at least one, for example [blocks.14.hook_resid_post]");
  }
  check_hook_points(root, experiment);
}

}  // namespace thresher::cli
