#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace thresher {

/// Takes one string out of JSON objects without keeping the rest: for records of any size, one a
/// line. Stateless after construction.
class JsonFieldReader {
 public:
  /// `field` is a key, or keys joined by dots for an object within objects ("meta.text").
  explicit JsonFieldReader(std::string_view field);

  struct Result {
    std::string text;
    std::string problem;  // empty: text is the field's
  };
  /// The field of one object. As strict as Json::parse (one value, valid UTF-8, no NUL, at most 64
  /// levels), but other keys may repeat. The problem is without bytes of the input and says where:
  /// "not valid JSON at column 7: ...", "no field text", "text is not a string", "text is there
  /// twice". Control characters of the field's name are escaped.
  Result read(std::string_view object) const;

 private:
  std::string shown_field_;
  std::vector<std::string> path_;
};

}  // namespace thresher
