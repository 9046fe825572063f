#include "cli/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <type_traits>
#include <utility>

#include "core/error.h"
#include "sae/registry.h"

namespace thresher::cli {
namespace {

/// A field of an entry with the values it takes.
struct Axis {
  std::size_t member = 0;  // of the entry
  std::string key;
  std::vector<ConfigNode> values;
};

/// How a field is called in a derived name.
std::string short_name(const std::string& key) {
  constexpr std::array<std::pair<const char*, const char*>, 7> names = {
      {{"k", "k"},
       {"learning_rate", "lr"},
       {"l1_coefficient", "lambda"},
       {"expansion_factor", "x"},
       {"n_latents", "n"},
       {"aux_k", "aux"},
       {"seed", "seed"}}};
  for (const auto& [field, name] : names) {
    if (key == field) return name;
  }
  return key + "_";
}

std::string name_part(const FieldDescription& field, const std::string& value) {
  // A word says what it is; a number needs its field.
  const bool is_word = field.type == "string" && !value.empty();
  return "-" + (is_word ? value : short_name(field.name) + value);
}

/// Ends are read as the field's own values are: Number is std::int64_t or double.
template <class Number>
struct Range {
  Number from = 0, to = 0;
  std::int64_t steps = 0;
  std::string scale = "linear";

  void declare(FieldVisitor& fields) {
    fields.field("from", from, {.help = "The first value.", .is_required = true});
    fields.field("to", to, {.help = "The last value.", .is_required = true});
    fields.field("steps", steps,
                 {.help = "How many values, both ends among them.",
                  .min = 2,
                  .max = static_cast<double>(kMostSaes),
                  .is_required = true});
    fields.field("scale", scale,
                 {.help = "Equal differences or equal ratios.", .choices = {"linear", "log"}});
  }
  double at(std::int64_t step) const {
    const double part = static_cast<double>(step) / static_cast<double>(steps - 1);
    const auto first = static_cast<double>(from), last = static_cast<double>(to);
    return scale == "log" ? first * std::pow(last / first, part) : first + (last - first) * part;
  }
};

ConfigNode scalar_at(const ConfigNode& place, std::string text) {
  ConfigNode node;
  node.text = std::move(text);
  node.file = place.file;
  node.line = place.line;
  node.column = place.column;
  return node;
}

template <class Number>
std::vector<ConfigNode> values_between(const ConfigNode& node, const std::string& path) {
  ConfigReader reader(&node, path);
  Range<Number> range;
  range.declare(reader);
  reader.finish();
  if (range.scale == "log" && !(range.from > 0 && range.to > 0)) {
    throw ConfigError(fmt::format("{}: {} runs from {} to {} on a log scale", node.where(), path,
                                  range.from, range.to),
                      "both ends above 0");
  }
  constexpr const char* kBetween = std::is_integral_v<Number> ? "{:.0f}" : "{:.4g}";
  std::vector<ConfigNode> values;
  for (std::int64_t step = 0; step < range.steps; ++step) {
    values.push_back(scalar_at(node, step == 0 ? fmt::format("{}", range.from)
                                     : step == range.steps - 1
                                         ? fmt::format("{}", range.to)
                                         : fmt::format(kBetween, range.at(step))));
  }
  return values;
}

std::vector<ConfigNode> values_of_range(const ConfigNode& node, const std::string& path,
                                        const FieldDescription& field) {
  if (field.type.starts_with("integer")) return values_between<std::int64_t>(node, path);
  if (field.type.starts_with("number")) return values_between<double>(node, path);
  throw ConfigError(
      fmt::format("{}: {} is a range, but the field is no number", node.where(), path),
      "a list of values");
}

std::vector<ConfigNode> values_of(const ConfigNode& node, const std::string& path,
                                  const FieldDescription& field) {
  std::vector<ConfigNode> values =
      node.kind == ConfigNode::Kind::kList ? node.items : values_of_range(node, path, field);
  if (values.empty()) {
    throw ConfigError(fmt::format("{}: {} is an empty list", node.where(), path),
                      "at least one value");
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i].kind != ConfigNode::Kind::kScalar) {
      throw ConfigError(fmt::format("{}: {}[{}] is a list or a map", values[i].where(), path, i),
                        "a single value");
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (values[i].text == values[j].text) {
        throw ConfigError(fmt::format("{}: {} takes the value {} twice", values[i].where(), path,
                                      values[i].text.substr(0, 60)),
                          "values that differ");
      }
    }
  }
  return values;
}

std::vector<Axis> axes_of(const ConfigNode& entry, const std::string& path,
                          const std::vector<FieldDescription>& fields) {
  std::vector<Axis> axes;
  for (std::size_t m = 0; m < entry.members.size(); ++m) {
    const auto& [key, value] = entry.members[m];
    if (value.kind == ConfigNode::Kind::kScalar) continue;
    const auto field = std::find_if(fields.begin(), fields.end(),
                                    [&](const auto& known) { return known.name == key.text; });
    if (field == fields.end()) continue;  // the reader of the entry names it
    const std::string full = fmt::format("{}.{}", path, key.text);
    if (key.text == "name" || key.text == "type") {
      throw ConfigError(fmt::format("{}: {} takes one value", value.where(), full),
                        "one entry for each");
    }
    axes.push_back({m, key.text, values_of(value, full, *field)});
  }
  return axes;
}

/// Gives the entry its name, in place of the one it has or at its end.
void set_name(ConfigNode& entry, const std::string& name) {
  for (auto& [key, value] : entry.members) {
    if (key.text == "name") {
      value.text = name;
      return;
    }
  }
  entry.members.emplace_back(scalar_at(entry, "name"), scalar_at(entry, name));
}

}  // namespace

std::vector<ConfigNode> expand_sweep(const ConfigNode& entry, const std::string& path) {
  const ConfigNode* type = entry.find("type");
  const bool is_known = type != nullptr && type->kind == ConfigNode::Kind::kScalar &&
                        sae::find_variant(type->text) != nullptr;
  if (type != nullptr && type->kind != ConfigNode::Kind::kScalar) {
    throw ConfigError(fmt::format("{}: {}.type takes one value", type->where(), path),
                      "one entry for each");
  }
  if (!is_known) return {entry};  // the reader of the entry names what is wrong
  FieldCollector collector;
  sae::default_sae_config(type->text)->declare(collector);
  const std::vector<Axis> axes = axes_of(entry, path, collector.fields());

  std::int64_t n_combinations = 1;
  for (const Axis& axis : axes) {
    n_combinations *= static_cast<std::int64_t>(axis.values.size());
    if (n_combinations <= kMostSaes) continue;
    throw ConfigError(fmt::format("{}: the lists and ranges of {} stand for more than {} SAEs",
                                  entry.where(), path, kMostSaes),
                      fmt::format("at most {} in one run", kMostSaes), "shorten the lists");
  }
  const ConfigNode* name = entry.find("name");
  const std::string base = name == nullptr || name->text.empty() ? type->text : name->text;
  std::vector<ConfigNode> out = {entry};
  std::vector<std::string> names = {base};
  for (const Axis& axis : axes) {
    const auto field = std::find_if(collector.fields().begin(), collector.fields().end(),
                                    [&](const auto& known) { return known.name == axis.key; });
    std::vector<ConfigNode> wider;
    std::vector<std::string> wider_names;
    for (std::size_t i = 0; i < out.size(); ++i) {
      for (const ConfigNode& value : axis.values) {
        wider.push_back(out[i]);
        wider.back().members[axis.member].second = value;
        wider_names.push_back(names[i] + name_part(*field, value.text));
      }
    }
    out = std::move(wider);
    names = std::move(wider_names);
  }
  if (axes.empty()) return out;
  for (std::size_t i = 0; i < out.size(); ++i) set_name(out[i], names[i]);
  return out;
}

}  // namespace thresher::cli
