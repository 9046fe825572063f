#include "core/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/utf8.h"

namespace thresher {
namespace {

// A value as it stands in a message: short, on one line.
std::string shown(const Json& value) {
  constexpr std::size_t kLongest = 60;
  std::string text = value.dump();
  if (text.size() <= kLongest) return text;
  std::size_t end = 0;
  while (end < kLongest) end += std::max<std::size_t>(utf8_sequence_length(text, end), 1);
  return text.substr(0, end) + "...";
}

[[noreturn]] void wrong_kind(std::string_view what, std::string_view expected, const Json& found) {
  throw DataError(fmt::format("{}: expected {}, found {}", what, expected, shown(found)));
}

std::string join_path(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

std::string difference_at(const std::string& path, const Json* a, const Json* b) {
  return fmt::format("{}: {}, {}", path.empty() ? "(whole)" : path,
                     a == nullptr ? "absent" : shown(*a), b == nullptr ? "absent" : shown(*b));
}

std::string find_difference(const std::string& path, const Json& a, const Json& b);

std::string array_difference(const std::string& path, const Json::Array& a, const Json::Array& b) {
  for (std::size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    const std::string here = fmt::format("{}[{}]", path, i);
    if (i >= a.size() || i >= b.size()) {
      return difference_at(here, i < a.size() ? &a[i] : nullptr, i < b.size() ? &b[i] : nullptr);
    }
    if (auto found = find_difference(here, a[i], b[i]); !found.empty()) return found;
  }
  return {};
}

std::string object_difference(const std::string& path, const Json& a, const Json& b) {
  for (const auto& [key, value] : a.as_object()) {
    const std::string here = join_path(path, key);
    const Json* other = b.find(key);
    if (other == nullptr) return difference_at(here, &value, nullptr);
    if (auto found = find_difference(here, value, *other); !found.empty()) return found;
  }
  for (const auto& [key, value] : b.as_object()) {
    if (a.find(key) == nullptr) return difference_at(join_path(path, key), nullptr, &value);
  }
  return {};
}

bool both_nan(const Json& a, const Json& b) {
  return a.is_number() && b.is_number() && std::isnan(a.as_double()) && std::isnan(b.as_double());
}

std::string find_difference(const std::string& path, const Json& a, const Json& b) {
  if (a.is_object() && b.is_object()) return object_difference(path, a, b);
  if (a.is_array() && b.is_array()) return array_difference(path, a.as_array(), b.as_array());
  return a == b || both_nan(a, b) ? std::string() : difference_at(path, &a, &b);
}

}  // namespace

Json::Json(std::uint64_t value) {
  // One representation a number, so that equal integers compare equal.
  if (value <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    value_ = static_cast<std::int64_t>(value);
  } else {
    value_ = value;
  }
}

Json Json::object(std::initializer_list<Member> members) {
  Json out;
  out.value_ = Object(members);
  return out;
}

Json Json::array(Array items) {
  Json out;
  out.value_ = std::move(items);
  return out;
}

bool Json::is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
bool Json::is_bool() const { return std::holds_alternative<bool>(value_); }
bool Json::is_integer() const {
  return std::holds_alternative<std::int64_t>(value_) ||
         std::holds_alternative<std::uint64_t>(value_);
}
bool Json::is_number() const { return is_integer() || std::holds_alternative<double>(value_); }
bool Json::is_string() const { return std::holds_alternative<std::string>(value_); }
bool Json::is_array() const { return std::holds_alternative<Array>(value_); }
bool Json::is_object() const { return std::holds_alternative<Object>(value_); }

bool Json::as_bool(std::string_view what) const {
  if (const auto* held = std::get_if<bool>(&value_)) return *held;
  wrong_kind(what, "true or false", *this);
}

std::int64_t Json::as_int(std::string_view what) const {
  if (const auto* held = std::get_if<std::int64_t>(&value_)) return *held;
  wrong_kind(what, is_integer() ? "an integer below 2^63" : "an integer", *this);
}

std::uint64_t Json::as_uint(std::string_view what) const {
  if (const auto* held = std::get_if<std::uint64_t>(&value_)) return *held;
  if (const auto* held = std::get_if<std::int64_t>(&value_)) {
    if (*held >= 0) return static_cast<std::uint64_t>(*held);
  }
  wrong_kind(what, "an integer of at least 0", *this);
}

double Json::as_double(std::string_view what) const {
  if (const auto* held = std::get_if<double>(&value_)) return *held;
  if (const auto* held = std::get_if<std::int64_t>(&value_)) return static_cast<double>(*held);
  if (const auto* held = std::get_if<std::uint64_t>(&value_)) return static_cast<double>(*held);
  wrong_kind(what, "a number", *this);
}

const std::string& Json::as_string(std::string_view what) const {
  if (const auto* held = std::get_if<std::string>(&value_)) return *held;
  wrong_kind(what, "a string", *this);
}

const Json::Array& Json::as_array(std::string_view what) const {
  if (const auto* held = std::get_if<Array>(&value_)) return *held;
  wrong_kind(what, "an array", *this);
}

const Json::Object& Json::as_object(std::string_view what) const {
  if (const auto* held = std::get_if<Object>(&value_)) return *held;
  wrong_kind(what, "an object", *this);
}

const Json* Json::find(std::string_view key) const {
  const auto* members = std::get_if<Object>(&value_);
  if (members == nullptr) return nullptr;
  const auto it = std::find_if(members->begin(), members->end(),
                               [&](const Member& member) { return member.first == key; });
  return it == members->end() ? nullptr : &it->second;
}

const Json& Json::at(std::string_view key) const {
  const Json* found = find(key);
  if (found != nullptr) return *found;
  if (!is_object()) wrong_kind(key, "an object with this key", *this);
  throw DataError(fmt::format("key \"{}\" is missing", key));
}

Json& Json::operator[](std::string_view key) {
  THRESHER_CHECK(is_object() || is_null(), "operator[] on a JSON value that is no object");
  if (is_null()) value_ = Object();
  if (const Json* found = find(key)) return const_cast<Json&>(*found);
  return std::get<Object>(value_).emplace_back(std::string(key), Json()).second;
}

void Json::push_back(Json item) {
  THRESHER_CHECK(is_array() || is_null(), "push_back on a JSON value that is no array");
  if (is_null()) value_ = Array();
  std::get<Array>(value_).push_back(std::move(item));
}

void Json::append_member(std::string key, Json value) {
  THRESHER_CHECK(is_object(), "append_member on a JSON value that is no object");
  std::get<Object>(value_).emplace_back(std::move(key), std::move(value));
}

std::string first_difference(const Json& a, const Json& b) { return find_difference("", a, b); }

}  // namespace thresher
