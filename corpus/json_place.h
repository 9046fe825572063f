#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace thresher::corpus {

/// A value in a JSON file that knows where it stands ("tokenizer.json: model.merges[3]"), so that
/// every complaint names the file and the component. Does not own the value.
class JsonPlace {
 public:
  /// The root of `file`.
  JsonPlace(const Json& value, std::string_view file);

  const Json& value() const { return *value_; }
  const std::string& where() const { return where_; }

  bool is_null() const { return value_->is_null(); }
  bool is_string() const { return value_->is_string(); }
  bool is_array() const { return value_->is_array(); }
  bool is_object() const { return value_->is_object(); }

  /// DataError "<where>: <key> is missing".
  JsonPlace at(std::string_view key) const;
  /// Absent for a missing key and for null.
  std::optional<JsonPlace> find(std::string_view key) const;
  std::vector<JsonPlace> items() const;

  /// DataError for a value of another kind.
  const std::string& string() const;
  bool boolean() const;
  std::int64_t integer() const;
  bool boolean_or(std::string_view key, bool otherwise) const;

  /// DataError "<where>: <problem>".
  [[noreturn]] void fail(std::string_view problem, std::string_view expected = {},
                         std::string_view hint = {}) const;
  /// The same for a component that Thresher does not have: "<where>: <kind> 'X' is not supported".
  [[noreturn]] void unsupported(std::string_view kind, std::string_view name,
                                std::string_view known) const;

 private:
  JsonPlace(const Json& value, std::string file, std::string path);

  const Json* value_;
  std::string file_, path_, where_;
};

}  // namespace thresher::corpus
