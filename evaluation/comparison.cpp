#include "evaluation/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "core/hash.h"
#include "core/visible_text.h"
#include "evaluation/metric_columns.h"
#include "evaluation/text_table.h"

namespace thresher::evaluation {
namespace {

const Json* member(const Json& json, std::string_view key) {
  return json.is_object() ? json.find(key) : nullptr;
}

std::string text_at(const Json& json, std::initializer_list<std::string_view> path) {
  const Json* at = &json;
  for (const std::string_view key : path) {
    at = member(*at, key);
    if (at == nullptr) return {};
  }
  return plain_value(*at);
}

std::vector<std::string> run_labels(const std::vector<RunRecord>& runs) {
  std::map<std::string, int> uses;
  for (const RunRecord& run : runs) ++uses[run.name];
  std::vector<std::string> labels;
  std::set<std::string> taken;
  for (const RunRecord& run : runs) {
    std::string label = uses[run.name] == 1 ? run.name : run.path.string();
    // The same run given twice.
    for (int n = 2; !taken.insert(label).second; ++n)
      label = fmt::format("{} ({})", run.path.string(), n);
    labels.push_back(label);
  }
  return labels;
}

/// One line of the comparison, with what decides whom it can be compared with.
struct Entry {
  const RunRecord* run = nullptr;
  const SaeRecord* sae = nullptr;
  std::string label;
  std::string hook_point, host, contexts, positions;
  std::string group_key() const {
    return Json::array({Json(hook_point), Json(host), Json(contexts), Json(positions)}).dump();
  }
  bool is_evaluated() const { return !sae->evaluation.is_null(); }
};

/// What the SAE was measured on: a digest of contexts, or of row numbers together with whose rows
/// they are.
std::string held_out_digest(const RunRecord& run, const SaeRecord& sae) {
  const std::string rows = text_at(sae.evaluation, {"rows_sha256"});
  if (rows.empty()) return text_at(sae.evaluation, {"contexts_sha256"});
  return sha256_hex(rows + text_at(run.identity, {"source", "cache", "corpus"}));
}

std::vector<Entry> entries_of(const std::vector<RunRecord>& runs) {
  const std::vector<std::string> labels = run_labels(runs);
  std::vector<Entry> entries;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    for (const SaeRecord& sae : runs[i].saes) {
      Entry entry;
      entry.run = &runs[i];
      entry.sae = &sae;
      if (runs.size() == 1) {
        entry.label = sae.name;
      } else if (runs[i].saes.size() == 1) {
        entry.label = labels[i];
      } else {
        entry.label = fmt::format("{}/{}", labels[i], sae.name);
      }
      entry.hook_point = text_at(sae.config, {"hook_point"});
      entry.host = text_at(runs[i].identity, {"source", "cache", "host_model", "fingerprint"});
      entry.contexts = held_out_digest(runs[i], sae);
      entry.positions = text_at(sae.evaluation, {"n_tokens"});
      entries.push_back(std::move(entry));
    }
  }
  return entries;
}

/// "a, b: x; c: y", or nothing when all have the same value. Empty values (unknown) do not count.
std::string different_values(const std::vector<Entry>& entries,
                             const std::function<std::string(const Entry&)>& value_of,
                             std::size_t shown_characters) {
  std::vector<std::pair<std::string, std::string>> by_value;
  for (const Entry& entry : entries) {
    const std::string value = value_of(entry);
    if (value.empty()) continue;
    const auto found = std::find_if(by_value.begin(), by_value.end(),
                                    [&](const auto& one) { return one.first == value; });
    if (found == by_value.end()) {
      by_value.emplace_back(value, entry.label);
    } else {
      found->second += fmt::format(", {}", entry.label);
    }
  }
  if (by_value.size() < 2) return {};
  std::string out;
  for (const auto& [value, labels] : by_value) {
    out +=
        fmt::format("{}{}: {}", out.empty() ? "" : "; ", labels, value.substr(0, shown_characters));
  }
  return out;
}

Json warnings_of(const std::vector<RunRecord>& runs, const std::vector<Entry>& entries) {
  Json warnings = Json::array();
  for (const RunRecord& run : runs) {
    if (!run.is_evaluated()) {
      warnings.push_back(fmt::format("{} has not been evaluated: `thresher eval {}` measures it",
                                     run.name, run.path.string()));
    }
  }
  constexpr std::size_t kDigestCharacters = 12, kAll = 200;
  const auto warn = [&](const char* what, const std::function<std::string(const Entry&)>& value_of,
                        std::size_t shown) {
    const std::string values = different_values(entries, value_of, shown);
    if (!values.empty()) warnings.push_back(fmt::format("{} ({})", what, values));
  };
  warn(
      "evaluated on different held-out text, so their metrics cannot be compared",
      [](const Entry& entry) { return entry.contexts; }, kDigestCharacters);
  warn(
      "different host models, so their metrics cannot be compared",
      [](const Entry& entry) { return entry.host; }, kDigestCharacters);
  warn(
      "different hook points, so their metrics cannot be compared",
      [](const Entry& entry) { return entry.hook_point; }, kAll);
  std::map<std::string, std::set<std::string>> positions;
  for (const Entry& entry : entries) {
    if (!entry.contexts.empty())
      positions[fmt::format("{} {}", entry.contexts, entry.hook_point)].insert(entry.positions);
  }
  if (std::any_of(positions.begin(), positions.end(),
                  [](const auto& one) { return one.second.size() > 1; })) {
    warn(
        "the rules of their caches keep different positions of the held-out text, so their metrics "
        "cannot be compared",
        [](const Entry& entry) { return entry.positions; }, kAll);
  }
  warn(
      "trained on different caches",
      [](const Entry& entry) {
        return text_at(entry.run->identity, {"source", "shards_sha256"});
      },
      kDigestCharacters);
  return warnings;
}

/// Metrics in which the entry is not beaten by another of its group.
Json best_of(const Entry& entry, const std::vector<Entry>& entries) {
  Json best = Json::array();
  const std::string key = entry.group_key();
  for (const MetricColumn& column : metric_columns()) {
    const Json* mine = member(entry.sae->evaluation, column.name);
    if (column.better == MetricColumn::Better::kNeither || mine == nullptr || !mine->is_number())
      continue;
    int n_others = 0;
    const bool is_beaten = std::any_of(entries.begin(), entries.end(), [&](const Entry& other) {
      if (&other == &entry || !other.is_evaluated() || other.group_key() != key) return false;
      const Json* its = member(other.sae->evaluation, column.name);
      if (its == nullptr || !its->is_number()) return false;
      ++n_others;
      return column.better == MetricColumn::Better::kLess ? its->as_double() < mine->as_double()
                                                          : its->as_double() > mine->as_double();
    });
    if (n_others > 0 && !is_beaten) best.push_back(column.name);
  }
  return best;
}

Json metrics_of(const Json& evaluation) {
  Json out = Json::object();
  for (const auto& [name, value] : evaluation.as_object()) {
    if (value.is_number() || value.is_null()) out[name] = value;
  }
  return out;
}

std::string reason_of(const Entry& entry) {
  return entry.is_evaluated() ? why_missing(entry.sae->evaluation, "ce_spliced") : "not evaluated";
}

/// Fields that have different values in those of `sides` that have them: [{"field", "values":
/// {LABEL: value}}]. A field that only some have, because they are of another type or version, is
/// no difference by itself.
Json differing_fields(const std::vector<std::pair<std::string, Json>>& sides,
                      const std::set<std::string>& left_out) {
  std::vector<std::string> fields;
  std::vector<std::map<std::string, Json>> values;
  for (const auto& [label, config] : sides) {
    values.emplace_back();
    for (auto& [field, value] : flatten(config)) {
      if (left_out.contains(field)) continue;
      if (std::find(fields.begin(), fields.end(), field) == fields.end()) fields.push_back(field);
      values.back()[field] = value;
    }
  }
  Json out = Json::array();
  for (const std::string& field : fields) {
    Json by_label = Json::object();
    const Json* first = nullptr;
    bool is_same = true;
    for (std::size_t i = 0; i < sides.size(); ++i) {
      const auto found = values[i].find(field);
      by_label[sides[i].first] = found == values[i].end() ? Json() : found->second;
      if (found == values[i].end()) continue;
      is_same = is_same && (first == nullptr || *first == found->second);
      first = &found->second;
    }
    if (!is_same) out.push_back(Json::object({{"field", field}, {"values", by_label}}));
  }
  return out;
}

Json without_saes(const Json& config) {
  Json out = Json::object();
  for (const auto& [section, content] : config.as_object()) {
    if (section != "sae") out[section] = content;
  }
  return out;
}

}  // namespace

Json compare_runs(const std::vector<RunRecord>& runs) {
  const std::vector<Entry> entries = entries_of(runs);
  Json saes = Json::array();
  std::vector<std::string> groups;
  for (const Entry& entry : entries) {
    Json group;
    if (entry.is_evaluated()) {
      const auto at = std::find(groups.begin(), groups.end(), entry.group_key());
      group = static_cast<std::int64_t>(at - groups.begin());
      if (at == groups.end()) groups.push_back(entry.group_key());
    }
    saes.push_back(Json::object(
        {{"run", entry.run->path.string()},
         {"sae", entry.sae->name},
         {"label", entry.label},
         {"type", text_at(entry.sae->config, {"type"})},
         {"hook_point", entry.hook_point},
         {"training_tokens", static_cast<std::int64_t>(entry.sae->curves.tokens)},
         {"group", group},
         {"held_out_digest", entry.contexts.empty() ? Json() : Json(entry.contexts)},
         {"metrics", entry.is_evaluated() ? metrics_of(entry.sae->evaluation) : Json()},
         {"reason", reason_of(entry)},
         {"best", best_of(entry, entries)}}));
  }
  std::vector<std::pair<std::string, Json>> run_sides, sae_sides;
  const std::vector<std::string> labels = run_labels(runs);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    run_sides.emplace_back(labels[i], without_saes(runs[i].config));
  }
  for (const Entry& entry : entries) {
    if (!entry.sae->config.is_null()) sae_sides.emplace_back(entry.label, entry.sae->config);
  }
  return Json::object(
      {{"saes", saes},
       {"warnings", warnings_of(runs, entries)},
       {"differing_run_fields", differing_fields(run_sides, {"run.name", "run.dir"})},
       {"differing_sae_fields", differing_fields(sae_sides, {"name"})}});
}

std::vector<std::vector<std::string>> differences_grid(const Json& fields) {
  if (fields.as_array().empty()) return {};
  std::vector<std::vector<std::string>> grid = {{"differs"}};
  for (const auto& [label, value] : fields.as_array()[0].at("values").as_object()) {
    grid[0].push_back(label);
  }
  for (const Json& field : fields.as_array()) {
    grid.push_back({field.at("field").as_string()});
    for (const auto& [label, value] : field.at("values").as_object()) {
      grid.back().push_back(plain_value(value));
    }
  }
  if (grid.size() >= grid[0].size()) return grid;
  std::vector<std::vector<std::string>> transposed(grid[0].size());
  for (const auto& line : grid) {
    for (std::size_t i = 0; i < line.size(); ++i) transposed[i].push_back(line[i]);
  }
  return transposed;
}

std::string comparison_text(const Json& comparison) {
  std::vector<std::vector<std::string>> lines = {{"sae"}};
  for (const MetricColumn& column : metric_columns()) lines[0].push_back(column.name);
  for (const Json& sae : comparison.at("saes").as_array()) {
    const auto& best = sae.at("best").as_array();
    lines.push_back({sae.at("label").as_string()});
    for (const MetricColumn& column : metric_columns()) {
      const bool is_best = std::find(best.begin(), best.end(), Json(column.name)) != best.end();
      lines.back().push_back(
          fmt::format("{}{}", figure_text(member(sae.at("metrics"), column.name), column.decimals),
                      is_best ? "*" : ""));
    }
  }
  std::string out = text_table(std::move(lines));
  std::set<std::string> reasons;
  for (const Json& sae : comparison.at("saes").as_array()) {
    const std::string& reason = sae.at("reason").as_string();
    if (!reason.empty()) reasons.insert(fmt::format("{}: {}", sae.at("label").as_string(), reason));
  }
  for (const std::string& reason : reasons) out += fmt::format("– {}\n", visible_text(reason));
  for (const Json& warning : comparison.at("warnings").as_array()) {
    out += fmt::format("\nwarning: {}\n", visible_text(warning.as_string()));
  }
  for (const char* list : {"differing_run_fields", "differing_sae_fields"}) {
    lines = differences_grid(comparison.at(list));
    if (!lines.empty()) out += fmt::format("\n{}", text_table(std::move(lines)));
  }
  return out;
}

}  // namespace thresher::evaluation
