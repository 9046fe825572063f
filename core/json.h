#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace thresher {

/// A JSON value. Objects keep the order of insertion, so files have fixed bytes. Integers are kept
/// apart from floats and are never narrowed; numbers that fit neither int64 nor uint64 are refused
/// when integers are asked for.
class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;

  Json() : value_(nullptr) {}
  Json(std::nullptr_t) : value_(nullptr) {}  // NOLINT: implicit on purpose, as are all below
  Json(bool value) : value_(value) {}        // NOLINT
  Json(int value) : value_(static_cast<std::int64_t>(value)) {}  // NOLINT
  Json(std::int64_t value) : value_(value) {}                    // NOLINT
  Json(std::uint64_t value);                                     // NOLINT
  Json(double value) : value_(value) {}                          // NOLINT
  Json(const char* value) : value_(std::string(value)) {}        // NOLINT
  Json(std::string_view value) : value_(std::string(value)) {}   // NOLINT
  Json(std::string value) : value_(std::move(value)) {}          // NOLINT
  static Json object(std::initializer_list<Member> members = {});
  static Json array(Array items = {});
  template <class Range>
  static Json array_of(const Range& range) {
    Json out = array();
    for (const auto& item : range) out.push_back(Json(item));
    return out;
  }

  bool is_null() const;
  bool is_bool() const;
  bool is_integer() const;
  bool is_number() const;
  bool is_string() const;
  bool is_array() const;
  bool is_object() const;

  /// Typed access; DataError("<what>: expected an integer, found ...") on the wrong kind or range.
  bool as_bool(std::string_view what = "value") const;
  std::int64_t as_int(std::string_view what = "value") const;
  std::uint64_t as_uint(std::string_view what = "value") const;
  double as_double(std::string_view what = "value") const;  // integers are accepted
  const std::string& as_string(std::string_view what = "value") const;
  const Array& as_array(std::string_view what = "value") const;
  const Object& as_object(std::string_view what = "value") const;

  /// Object access. `at` throws DataError naming the missing key; `find` returns nullptr.
  const Json& at(std::string_view key) const;
  const Json* find(std::string_view key) const;
  Json& operator[](std::string_view key);  // inserts at the end when absent
  void push_back(Json item);
  /// Adds a member whose key is known to be new, without looking for it.
  void append_member(std::string key, Json value);

  /// One line without spaces, or indented. Doubles in the shortest form that reads back equal and
  /// as a double (1.0); NaN and infinities as null; bytes of strings that are not UTF-8 as U+FFFD.
  std::string dump(int indent = -1) const;

  /// Strict parse of untrusted text: no duplicate keys, no trailing bytes, valid UTF-8, depth <=
  /// max_depth. `where` (a file name) starts each message.
  static Json parse(std::string_view text, std::string_view where, int max_depth = 64);

  bool operator==(const Json& other) const = default;

 private:
  friend class JsonWriter;

  std::variant<std::nullptr_t, bool, std::int64_t, std::uint64_t, double, std::string, Array,
               Object>
      value_;
};

/// The first place where two values differ, as "path: a, b" (e.g. `train.batch_tokens: 512, 1024`,
/// `sae[1].k: absent, 32`); empty if equal. The order of an object's keys is no difference; 1
/// and 1.0 are one.
std::string first_difference(const Json& a, const Json& b);

}  // namespace thresher
