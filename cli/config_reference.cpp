#include "cli/config_reference.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string_view>

#include "cli/experiment.h"
#include "cli/sweep.h"

namespace thresher::cli {
namespace {

std::string number(double value) {
  return value == static_cast<double>(static_cast<std::int64_t>(value))
             ? fmt::format("{}", static_cast<std::int64_t>(value))
             : fmt::format("{}", value);
}

std::string range(const FieldInfo& info) {
  if (!info.choices.empty()) return fmt::format("{}", fmt::join(info.choices, ", "));
  if (info.min && info.max) {
    return fmt::format("{}{} to {}", info.min_is_exclusive ? "above " : "", number(*info.min),
                       number(*info.max));
  }
  if (info.min) {
    return fmt::format("{} {}", info.min_is_exclusive ? "above" : "at least", number(*info.min));
  }
  if (info.max) return fmt::format("at most {}", number(*info.max));
  return "";
}

std::string default_text(const FieldDescription& field) {
  if (field.info.is_required) return "required";
  const Json& value = field.default_value;
  if (value.is_string()) {
    return value.as_string().empty() ? "\"\"" : fmt::format("`{}`", value.as_string());
  }
  return fmt::format("`{}`", value.dump());
}

/// A bar would end the cell of a Markdown table.
std::string cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

/// Declarations differ in how they begin and end a sentence; a page should not.
std::string sentence(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 32);
  if (!text.empty() && text.back() != '.') text += '.';
  return text;
}

std::string table_row(const FieldDescription& field) {
  std::string type = field.type;
  if (!field.info.unit.empty()) type += fmt::format(" ({})", field.info.unit);
  return fmt::format("| `{}` | {} | {} | {} | {} |\n", field.name, type, default_text(field),
                     cell(range(field.info)), cell(sentence(field.info.help)));
}

constexpr std::string_view kIntroduction =
    R"(# Keys of an experiment file

Made by `thresher config reference`; do not edit. The same declarations make the reader, so nothing here can be out of
date.

An experiment is one YAML file: `schema: 1` and the sections below. Unknown, duplicate, ill-typed and out-of-range keys
are errors with file, line and column. Anchors, aliases and tags are refused. Whole numbers may be written 20000, 20k,
1M, 1e6 or 1_000_000. Lengths are in tokens over all ranks. Relative paths start at the working directory. Left out,
`run.name` is the file's name, `cache.dir` is `caches/` and that name, an SAE's `name` is its type, its `hook_point` the
cache's only one, and the length of training follows from the size of the cache; each start says what was chosen, and
`config.resolved.yaml` in the run directory holds it. Any key can
be set on the command line: `--set train.learning_rate=3e-4`, `--set sae.0.k=16` or, by the SAE's name as the file has
it, `--set sae.topk.k=16`; a single SAE without a list also as `--set sae.k=16`. Names may hold dots. Under `sae` any key but `name` and `type` may be a list of values, and a number also a range,
`{from: 1e-4, to: 1e-3, steps: 4, scale: log}`: the entry then stands for one SAE a combination
([training.md](training.md)).
)";

}  // namespace

std::string config_reference() {
  std::string out(kIntroduction);
  for (const SectionDescription& section : describe_sections()) {
    out += fmt::format("\n## {}\n\n{}\n\n", section.name, section.help);
    out += "| key | type | default | range | meaning |\n| --- | --- | --- | --- | --- |\n";
    for (const FieldDescription& field : section.fields) {
      if (!section.sae_type.empty() && field.name == "type") {
        out += fmt::format("| `type` | string | required | {} | The SAE variant. |\n",
                           section.sae_type);
      } else {
        out += table_row(field);
      }
    }
  }
  return out;
}

namespace {

Json number_schema(const FieldInfo& info, bool is_integer) {
  Json schema = Json::object();
  if (is_integer) {
    schema["type"] = Json::array({"integer", "string"});
    schema["pattern"] = "^[0-9][0-9_]*(\\.[0-9]+)?([eE][+-]?[0-9]+|[kMG])?$";
  } else {
    schema["type"] = "number";
  }
  if (info.min) schema[info.min_is_exclusive ? "exclusiveMinimum" : "minimum"] = *info.min;
  if (info.max) schema["maximum"] = *info.max;
  return schema;
}

Json field_schema(const FieldDescription& field) {
  const std::string_view type = field.type;
  Json schema = Json::object();
  if (type.starts_with("bool")) {
    schema["type"] = "boolean";
  } else if (type.starts_with("integer")) {
    schema = number_schema(field.info, true);
  } else if (type.starts_with("number")) {
    schema = number_schema(field.info, false);
  } else if (type.starts_with("list")) {
    schema["type"] = "array";
    schema["items"] = Json::object({{"type", "string"}});
  } else {
    schema["type"] = Json::array({"string", "number", "boolean"});
  }
  if (!field.info.choices.empty()) {
    schema = Json::object({{"enum", Json::array_of(field.info.choices)}});
  }
  if (type.ends_with("or auto")) {
    schema = Json::object(
        {{"anyOf", Json::array({Json::object({{"const", "auto"}}), std::move(schema)})}});
  }
  std::string description = sentence(field.info.help);
  if (!field.info.unit.empty()) description += fmt::format(" ({})", field.info.unit);
  schema["description"] = description;
  if (!field.info.is_required) schema["default"] = field.default_value;
  return schema;
}

/// One value of a field, or the lists and ranges that make a sweep of it (cli/sweep.h).
Json swept_schema(const FieldDescription& field) {
  const Json one = field_schema(field);
  Json choices =
      Json::array({one, Json::object({{"type", "array"}, {"items", one}, {"minItems", 1}})});
  if (field.type.starts_with("integer") || field.type.starts_with("number")) {
    choices.push_back(Json::object({{"$ref", "#/$defs/range"}}));
  }
  return Json::object({{"anyOf", std::move(choices)}, {"description", one.at("description")}});
}

Json range_schema() {
  const Json number = Json::object({{"type", "number"}});
  return Json::object(
      {{"type", "object"},
       {"properties",
        Json::object(
            {{"from", number},
             {"to", number},
             {"steps", Json::object({{"type", "integer"}, {"minimum", 2}, {"maximum", kMostSaes}})},
             {"scale", Json::object({{"enum", Json::array({"linear", "log"})}})}})},
       {"required", Json::array({"from", "to", "steps"})},
       {"additionalProperties", false}});
}

Json section_schema(const SectionDescription& section) {
  Json properties = Json::object();
  Json required = Json::array();
  for (const FieldDescription& field : section.fields) {
    const bool is_swept = !section.sae_type.empty() && field.name != "name";
    properties[field.name] = is_swept ? swept_schema(field) : field_schema(field);
    if (field.info.is_required) required.push_back(field.name);
    if (!section.sae_type.empty() && field.name == "type") {
      properties["type"] = Json::object({{"const", section.sae_type}});
    }
  }
  return Json::object({{"type", "object"},
                       {"description", section.help},
                       {"properties", std::move(properties)},
                       {"required", std::move(required)},
                       {"additionalProperties", false}});
}

}  // namespace

Json config_json_schema() {
  Json properties = Json::object({{"schema", Json::object({{"const", 1}})}});
  Json variants = Json::array();
  Json required = Json::array({"schema"});
  for (const SectionDescription& section : describe_sections()) {
    if (!section.sae_type.empty()) {
      variants.push_back(section_schema(section));
      continue;
    }
    properties[section.key] = section_schema(section);
    const bool is_choice =
        section.key == "corpus" || section.key == "host_model" || section.key == "activations";
    if (!is_choice && !properties.at(section.key).at("required").as_array().empty()) {
      required.push_back(section.key);
    }
  }
  const auto needs = [](Json keys) { return Json::object({{"required", std::move(keys)}}); };
  const Json sources = Json::array(
      {needs(Json::array({"corpus", "host_model"})), needs(Json::array({"activations"}))});
  const Json reference = Json::object({{"$ref", "#/$defs/sae"}});
  properties["sae"] = Json::object(
      {{"anyOf",
        Json::array({reference,
                     Json::object({{"type", "array"}, {"items", reference}, {"minItems", 1}})})}});
  return Json::object({{"$schema", "https://json-schema.org/draft/2020-12/schema"},
                       {"title", "Thresher experiment"},
                       {"type", "object"},
                       {"properties", std::move(properties)},
                       {"required", std::move(required)},
                       {"oneOf", sources},
                       {"additionalProperties", false},
                       {"$defs", Json::object({{"sae", Json::object({{"oneOf", variants}})},
                                               {"range", range_schema()}})}});
}

}  // namespace thresher::cli
