#include "corpus/json_place.h"

#include <fmt/format.h>

#include "core/error.h"

namespace thresher::corpus {

JsonPlace::JsonPlace(const Json& value, std::string_view file)
    : JsonPlace(value, std::string(file), "") {}

JsonPlace::JsonPlace(const Json& value, std::string file, std::string path)
    : value_(&value),
      file_(std::move(file)),
      path_(std::move(path)),
      where_(path_.empty() ? file_ : fmt::format("{}: {}", file_, path_)) {}

JsonPlace JsonPlace::at(std::string_view key) const {
  if (!value_->is_object()) fail("is not an object", "an object");
  const Json* found = value_->find(key);
  if (found == nullptr) fail(fmt::format("{} is missing", key));
  return {*found, file_, path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key)};
}

std::optional<JsonPlace> JsonPlace::find(std::string_view key) const {
  if (!value_->is_object()) fail("is not an object", "an object");
  const Json* found = value_->find(key);
  if (found == nullptr || found->is_null()) return std::nullopt;
  return at(key);
}

std::vector<JsonPlace> JsonPlace::items() const {
  if (!value_->is_array()) fail("is not a list", "a list");
  std::vector<JsonPlace> out;
  const Json::Array& array = value_->as_array();
  out.reserve(array.size());
  for (std::size_t i = 0; i < array.size(); ++i) {
    out.push_back(JsonPlace(array[i], file_, fmt::format("{}[{}]", path_, i)));
  }
  return out;
}

const std::string& JsonPlace::string() const {
  if (!value_->is_string()) fail("is not a string", "a string");
  return value_->as_string();
}

bool JsonPlace::boolean() const {
  if (!value_->is_bool()) fail("is neither true nor false", "true or false");
  return value_->as_bool();
}

std::int64_t JsonPlace::integer() const {
  if (!value_->is_integer()) fail("is not an integer", "an integer");
  return value_->as_int(where_);
}

bool JsonPlace::boolean_or(std::string_view key, bool otherwise) const {
  const auto found = find(key);
  return found ? found->boolean() : otherwise;
}

void JsonPlace::fail(std::string_view problem, std::string_view expected,
                     std::string_view hint) const {
  throw DataError(fmt::format("{}: {}", where_, problem), expected, hint);
}

void JsonPlace::unsupported(std::string_view kind, std::string_view name,
                            std::string_view known) const {
  // A name comes from the file: shown as JSON it cannot break the line or the terminal.
  fail(fmt::format("{} {} is not supported", kind, Json(name.substr(0, 100)).dump()), known,
       "text must be cut as the model's own tokenizer does, else its activations are not those of "
       "the model");
}

}  // namespace thresher::corpus
