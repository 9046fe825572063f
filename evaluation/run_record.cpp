#include "evaluation/run_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "core/files.h"
#include "core/visible_text.h"
#include "evaluation/metric_columns.h"
#include "trainer/checkpoint.h"
#include "trainer/checkpoint_format.h"
#include "trainer/run_directory.h"

namespace thresher::evaluation {
namespace {

constexpr std::uint64_t kLargestJson = 64U << 20U;

Json scalar(const std::string& text) {
  if (text == "true" || text == "false") return Json(text == "true");
  const char* const end = text.data() + text.size();
  std::int64_t integer = 0;
  if (const auto read = std::from_chars(text.data(), end, integer);
      read.ec == std::errc() && read.ptr == end) {
    return Json(integer);
  }
  double number = 0;
  if (const auto read = std::from_chars(text.data(), end, number);
      read.ec == std::errc() && read.ptr == end && std::abs(number) < 1e300) {
    return Json(number);
  }
  return Json(text);
}

Json read_json_if_there(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return Json();
  return Json::parse(read_text_file(path, kLargestJson), path.string());
}

std::string folder_name(const std::filesystem::path& path) {
  std::filesystem::path whole = std::filesystem::absolute(path).lexically_normal();
  if (!whole.has_filename()) whole = whole.parent_path();
  return whole.filename().string();
}

SaeRecord& sae_of(RunRecord& run, const std::string& name) {
  for (SaeRecord& sae : run.saes) {
    if (sae.name == name) return sae;
  }
  run.saes.emplace_back();
  run.saes.back().name = name;
  return run.saes.back();
}

void take_configs(RunRecord& run) {
  const Json* saes = run.config.find("sae");
  if (saes == nullptr || !saes->is_array()) return;
  for (const Json& config : saes->as_array()) {
    const Json* name = config.is_object() ? config.find("name") : nullptr;
    if (name != nullptr) sae_of(run, plain_value(*name)).config = config;
  }
}

void take_timing(RunRecord& run, const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return;
  trainer::for_each_json_line(path, [&](const Json& line, const std::string& where) {
    line.as_object(where);
    if (line.find("event") != nullptr) {
      run.events.push_back(line);
    } else {
      run.speed.emplace_back(line.at("tokens").as_double(where),
                             line.at("tokens_per_second").as_double(where));
    }
  });
}

void take_held_out_curve(RunRecord& run, const std::filesystem::path& path) {
  const Json curve = read_json_if_there(path);
  if (curve.is_null()) return;
  for (const Json& point : curve.as_array(path.string())) {
    sae_of(run, point.at("name").as_string(path.string()))
        .held_out_fvu.emplace_back(
            point.at("tokens").as_double(path.string()),
            point.at("fvu").is_null() ? std::nan("") : point.at("fvu").as_double());
  }
}

void flatten_into(const Json& value, const std::string& path,
                  std::vector<std::pair<std::string, Json>>& out) {
  if (value.is_object()) {
    for (const auto& [key, member] : value.as_object()) {
      flatten_into(member, path.empty() ? key : path + "." + key, out);
    }
    return;
  }
  const bool holds_objects =
      value.is_array() &&
      std::any_of(value.as_array().begin(), value.as_array().end(),
                  [](const Json& item) { return item.is_object() || item.is_array(); });
  if (!holds_objects) {
    out.emplace_back(path, value);
    return;
  }
  for (std::size_t i = 0; i < value.as_array().size(); ++i) {
    flatten_into(value.as_array()[i], fmt::format("{}[{}]", path, i), out);
  }
}

/// The figures of one SAE; those that are shown and compared must be numbers or missing.
const Json& checked_figures(const Json& figures, const std::string& where) {
  figures.as_object(where);
  const auto check = [&](const std::string& key, bool is_of_type, const char* expected) {
    if (is_of_type) return;
    throw DataError(fmt::format("{}: {} is {}", escape_control(where), key,
                                figures.at(key).dump().substr(0, 60)),
                    expected, "`thresher eval RUN` writes the file again");
  };
  const auto check_number = [&](const std::string& key) {
    const Json* value = figures.find(key);
    check(key, value == nullptr || value->is_null() || value->is_number(), "a number or null");
  };
  for (const MetricColumn& column : metric_columns()) check_number(column.name);
  for (const char* key : {"n_tokens", "n_dropped"}) check_number(key);
  for (const char* key : {"contexts_sha256", "rows_sha256"}) {
    const Json* value = figures.find(key);
    check(key, value == nullptr || value->is_null() || value->is_string(), "a string or null");
  }
  return figures;
}

}  // namespace

bool RunRecord::is_evaluated() const {
  return std::any_of(saes.begin(), saes.end(),
                     [](const SaeRecord& sae) { return !sae.evaluation.is_null(); });
}

RunRecord read_run(const std::filesystem::path& run_dir) {
  const std::filesystem::path config = run_dir / "config.resolved.yaml";
  if (!std::filesystem::exists(config)) {
    throw ConfigError(fmt::format("{}: there is no run here", run_dir.string()),
                      "a folder with config.resolved.yaml",
                      "`thresher run` and `thresher train` make one");
  }
  RunRecord run;
  run.path = run_dir;
  run.name = folder_name(run_dir);
  run.config = config_to_json(parse_config_file(config));
  take_configs(run);
  if (const auto metrics = run_dir / "metrics.jsonl"; std::filesystem::exists(metrics)) {
    for (SaeCurves& curves : read_metric_curves(metrics)) {
      sae_of(run, curves.name).curves = std::move(curves);
    }
  }
  const std::filesystem::path evaluation = run_dir / "evaluation.json";
  if (const Json figures = read_json_if_there(evaluation); !figures.is_null()) {
    for (const auto& [name, its] : figures.as_object(evaluation.string())) {
      sae_of(run, name).evaluation =
          checked_figures(its, fmt::format("{}: {}", evaluation.string(), name));
    }
  }
  take_held_out_curve(run, run_dir / "curve.json");
  take_timing(run, run_dir / "timing.jsonl");
  run.status = read_json_if_there(run_dir / "status.json");
  run.identity = newest_identity(run_dir);
  return run;
}

Json newest_identity(const std::filesystem::path& run_dir) {
  const auto checkpoints = trainer::list_checkpoints(run_dir);
  if (checkpoints.empty()) return Json();
  const auto state = checkpoints.back().folder / trainer::kStateFile;
  const Json json = read_json_if_there(state);
  return json.is_null() ? json : json.at("identity");
}

Json config_to_json(const ConfigNode& node) {
  switch (node.kind) {
    case ConfigNode::Kind::kScalar:
      return node.is_quoted ? Json(node.text) : scalar(node.text);
    case ConfigNode::Kind::kList: {
      Json out = Json::array();
      for (const ConfigNode& item : node.items) out.push_back(config_to_json(item));
      return out;
    }
    case ConfigNode::Kind::kMap:
      break;
  }
  Json out = Json::object();
  for (const auto& [key, value] : node.members) out[key.text] = config_to_json(value);
  return out;
}

std::vector<std::pair<std::string, Json>> flatten(const Json& config) {
  std::vector<std::pair<std::string, Json>> out;
  flatten_into(config, "", out);
  return out;
}

std::string plain_value(const Json& value) {
  if (value.is_string()) return value.as_string();
  if (!value.is_array()) return value.is_null() ? "–" : value.dump();
  std::string out;
  for (const Json& item : value.as_array()) out += (out.empty() ? "" : ", ") + plain_value(item);
  return out;
}

}  // namespace thresher::evaluation
