#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/config.h"

namespace thresher {
namespace {

template <class T>
Json optional_json(const std::optional<T>& value) {
  return value ? Json(*value) : Json("auto");
}

}  // namespace

void ConfigWriter::field(const char* name, bool& value, const FieldInfo&) { json_[name] = value; }
void ConfigWriter::field(const char* name, std::int64_t& value, const FieldInfo&) {
  json_[name] = value;
}
void ConfigWriter::field(const char* name, double& value, const FieldInfo&) { json_[name] = value; }
void ConfigWriter::field(const char* name, std::string& value, const FieldInfo&) {
  json_[name] = value;
}
void ConfigWriter::field(const char* name, std::vector<std::string>& value, const FieldInfo&) {
  json_[name] = Json::array_of(value);
}
void ConfigWriter::field(const char* name, std::optional<std::int64_t>& value, const FieldInfo&) {
  json_[name] = optional_json(value);
}
void ConfigWriter::field(const char* name, std::optional<double>& value, const FieldInfo&) {
  json_[name] = optional_json(value);
}
void ConfigWriter::field(const char* name, std::optional<bool>& value, const FieldInfo&) {
  json_[name] = optional_json(value);
}

void FieldCollector::field(const char* name, bool& value, const FieldInfo& info) {
  fields_.push_back({name, "bool", Json(value), info});
}
void FieldCollector::field(const char* name, std::int64_t& value, const FieldInfo& info) {
  fields_.push_back({name, "integer", Json(value), info});
}
void FieldCollector::field(const char* name, double& value, const FieldInfo& info) {
  fields_.push_back({name, "number", Json(value), info});
}
void FieldCollector::field(const char* name, std::string& value, const FieldInfo& info) {
  fields_.push_back({name, "string", Json(value), info});
}
void FieldCollector::field(const char* name, std::vector<std::string>& value,
                           const FieldInfo& info) {
  fields_.push_back({name, "list of strings", Json::array_of(value), info});
}
void FieldCollector::field(const char* name, std::optional<std::int64_t>& value,
                           const FieldInfo& info) {
  fields_.push_back({name, "integer or auto", optional_json(value), info});
}
void FieldCollector::field(const char* name, std::optional<double>& value, const FieldInfo& info) {
  fields_.push_back({name, "number or auto", optional_json(value), info});
}
void FieldCollector::field(const char* name, std::optional<bool>& value, const FieldInfo& info) {
  fields_.push_back({name, "bool or auto", optional_json(value), info});
}

namespace {

/// Words that some YAML reader takes for something other than a string. `auto` is ours and stays
/// plain.
constexpr std::array<std::string_view, 15> kReservedWords = {
    "true", "false", "yes",  "no",   "on",    "off",   "y", "n",
    "null", "~",     ".nan", ".inf", "-.inf", "+.inf", "<<"};

bool is_plain_safe(std::string_view text) {
  if (text.empty() || text.front() == ' ' || text.back() == ' ' || text.back() == ':') return false;
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (std::find(kReservedWords.begin(), kReservedWords.end(), lower) != kReservedWords.end())
    return false;
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || c == '_' || c == '/'; };
  // Anything else at the start may be a number, an indicator or a document marker.
  if (!is_letter(lower.front()) &&
      !(text.size() > 1 && text[0] == '.' && (text[1] == '/' || text[1] == '.'))) {
    return false;
  }
  return std::all_of(lower.begin(), lower.end(), [&](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == ' ' || c == '+';
  });
}

std::string scalar(const Json& value) {
  if (value.is_string()) {
    const std::string& text = value.as_string();
    return is_plain_safe(text) ? text : value.dump();
  }
  std::string text = value.dump();
  // YAML 1.1 readers take 1e-08 for a string; 1.0e-08 is a number everywhere.
  const std::size_t exponent = text.find('e');
  if (!value.is_bool() && value.is_number() && exponent != std::string::npos &&
      text.find('.') == std::string::npos) {
    text.insert(exponent, ".0");
  }
  return text;
}

bool is_empty_container(const Json& value) {
  return (value.is_array() && value.as_array().empty()) ||
         (value.is_object() && value.as_object().empty());
}

void write(std::string& out, const Json& value, int indent);

/// `value` after "key:" or "-": on the same line if it is a scalar, below it otherwise.
void write_value(std::string& out, const Json& value, int indent) {
  if (is_empty_container(value)) {
    out += value.is_array() ? " []\n" : " {}\n";
  } else if (value.is_array() || value.is_object()) {
    out += "\n";
    write(out, value, indent);
  } else {
    out += " " + scalar(value) + "\n";
  }
}

void write(std::string& out, const Json& value, int indent) {
  const std::string margin(static_cast<std::size_t>(indent), ' ');
  if (value.is_object()) {
    for (const auto& [key, member] : value.as_object()) {
      out += margin + scalar(Json(key)) + ":";
      write_value(out, member, indent + 2);
    }
  } else if (value.is_array()) {
    for (const Json& item : value.as_array()) {
      out += margin + "-";
      if (item.is_object() && !is_empty_container(item)) {
        // The first key stands on the line of the dash: write the map and overwrite its margin.
        std::string below;
        write(below, item, indent + 2);
        out += " " + below.substr(static_cast<std::size_t>(indent) + 2);
      } else {
        write_value(out, item, indent + 2);
      }
    }
  } else {
    out += margin + scalar(value) + "\n";
  }
}

}  // namespace

std::string to_yaml(const Json& value) {
  if (is_empty_container(value)) return value.is_array() ? "[]\n" : "{}\n";
  std::string out;
  write(out, value, 0);
  return out;
}

}  // namespace thresher
