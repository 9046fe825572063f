#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"

namespace thresher {

/// A parsed YAML value that remembers where it stood. Scalars stay text until a field gives them a type. Anchors,
/// aliases, tags, duplicate keys, files over 1 MiB and nesting deeper than 16 are refused while parsing.
struct ConfigNode {
  enum class Kind { kScalar, kList, kMap } kind = Kind::kScalar;
  std::string text;       // scalar
  bool is_quoted = false; // scalar was written in quotes: a string, never a number, bool or `auto`
  std::vector<ConfigNode> items;
  std::vector<std::pair<ConfigNode, ConfigNode>> members;  // keys are scalar nodes
  std::string file;
  int line = 0;    // 1-based
  int column = 0;  // 1-based

  const ConfigNode* find(std::string_view key) const;
  /// "configs/a.yaml:26:6"; "--set train.k" for values from the command line.
  std::string where() const;
};

/// Throws ConfigError with file:line:column.
ConfigNode parse_config(std::string_view text, std::string_view file_name);
ConfigNode parse_config_file(const std::filesystem::path& path);
/// Applies `train.learning_rate=3e-4` or `sae.0.k=16`; creates missing maps. UsageError on a malformed override.
void apply_override(ConfigNode& root, std::string_view key_equals_value);

/// What is declared about a field, once; parser, help, reference page, JSON Schema and resolved file come from it.
struct FieldInfo {
  std::string help;
  std::string unit = {};                 // "tokens", "seconds", "bytes"; empty for pure numbers
  std::optional<double> min = {};        // inclusive
  std::optional<double> max = {};        // inclusive
  bool min_is_exclusive = false;
  std::vector<std::string> choices = {}; // strings only
  bool is_required = false;
};

/// A section's fields are declared by one function, `void declare(FieldVisitor&)`, that calls `field` once a field,
/// in the order of the reference page, with the default already in the variable. A missing std::optional is
/// written `auto` in YAML.
class FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;
  virtual void field(const char* name, bool& value, const FieldInfo& info) = 0;
  virtual void field(const char* name, std::int64_t& value, const FieldInfo& info) = 0;
  virtual void field(const char* name, double& value, const FieldInfo& info) = 0;
  virtual void field(const char* name, std::string& value, const FieldInfo& info) = 0;
  virtual void field(const char* name, std::vector<std::string>& value, const FieldInfo& info) = 0;
  virtual void field(const char* name, std::optional<std::int64_t>& value, const FieldInfo& info) = 0;
  virtual void field(const char* name, std::optional<double>& value, const FieldInfo& info) = 0;
  virtual void field(const char* name, std::optional<bool>& value, const FieldInfo& info) = 0;
};

/// Fills fields from a map node. Integers accept 20000, 1e6, 1_000_000 and 1M/1k/1G; floats refuse NaN and
/// infinities. `finish` makes every key that no field asked for an error with "did you mean".
class ConfigReader : public FieldVisitor {
 public:
  /// `path` is the section's dotted name ("train", "sae[0]"), `node` its map or nullptr if absent.
  ConfigReader(const ConfigNode* node, std::string path);
  void field(const char* name, bool& value, const FieldInfo& info) override;
  void field(const char* name, std::int64_t& value, const FieldInfo& info) override;
  void field(const char* name, double& value, const FieldInfo& info) override;
  void field(const char* name, std::string& value, const FieldInfo& info) override;
  void field(const char* name, std::vector<std::string>& value, const FieldInfo& info) override;
  void field(const char* name, std::optional<std::int64_t>& value, const FieldInfo& info) override;
  void field(const char* name, std::optional<double>& value, const FieldInfo& info) override;
  void field(const char* name, std::optional<bool>& value, const FieldInfo& info) override;
  void finish();
  /// ConfigError at the place of `name` (or of the section): "<where>: <path>.<name> <problem>".
  [[noreturn]] void fail(std::string_view name, std::string_view problem, std::string_view expected = {},
                         std::string_view hint = {}) const;

 private:
  const ConfigNode* take(const char* name, const FieldInfo& info);

  const ConfigNode* node_;
  std::string path_;
  std::vector<std::string> known_;
};

/// Collects what a resolved config says: `declare` into this and take `json()`. Absent optionals become "auto".
class ConfigWriter : public FieldVisitor {
 public:
  void field(const char* name, bool& value, const FieldInfo& info) override;
  void field(const char* name, std::int64_t& value, const FieldInfo& info) override;
  void field(const char* name, double& value, const FieldInfo& info) override;
  void field(const char* name, std::string& value, const FieldInfo& info) override;
  void field(const char* name, std::vector<std::string>& value, const FieldInfo& info) override;
  void field(const char* name, std::optional<std::int64_t>& value, const FieldInfo& info) override;
  void field(const char* name, std::optional<double>& value, const FieldInfo& info) override;
  void field(const char* name, std::optional<bool>& value, const FieldInfo& info) override;
  const Json& json() const { return json_; }

 private:
  Json json_ = Json::object();
};

/// One field's declaration as data, with its default; for --help, docs/config-reference.md and the JSON Schema.
struct FieldDescription {
  std::string name, type;  // type: bool, integer, number, string, list of strings; "or auto" appended
  Json default_value;
  FieldInfo info;
};

class FieldCollector : public FieldVisitor {
 public:
  void field(const char* name, bool& value, const FieldInfo& info) override;
  void field(const char* name, std::int64_t& value, const FieldInfo& info) override;
  void field(const char* name, double& value, const FieldInfo& info) override;
  void field(const char* name, std::string& value, const FieldInfo& info) override;
  void field(const char* name, std::vector<std::string>& value, const FieldInfo& info) override;
  void field(const char* name, std::optional<std::int64_t>& value, const FieldInfo& info) override;
  void field(const char* name, std::optional<double>& value, const FieldInfo& info) override;
  void field(const char* name, std::optional<bool>& value, const FieldInfo& info) override;
  const std::vector<FieldDescription>& fields() const { return fields_; }

 private:
  std::vector<FieldDescription> fields_;
};

/// The nearest of `known` within Damerau-Levenshtein distance 2, or empty.
std::string nearest_name(std::string_view name, const std::vector<std::string>& known);
/// Block-style YAML of a resolved config (strings quoted where YAML would read something else).
std::string to_yaml(const Json& value);

}  // namespace thresher
