#include "core/json_field.h"

#include <fmt/format.h>

#include <cstdint>
#include <nlohmann/json.hpp>

#include "core/json_reason.h"
#include "core/visible_text.h"

namespace thresher {
namespace {

constexpr std::size_t kMaxDepth = 64;

/// Follows the path through the events of one object. A handler returns false to end the parse.
class FieldHandler {
 public:
  FieldHandler(const std::string& field, const std::vector<std::string>& path,
               JsonFieldReader::Result& result)
      : field_(field), path_(path), result_(result) {}

  bool null() { return other(); }
  bool boolean(bool) { return other(); }
  bool number_integer(std::int64_t) { return other(); }
  bool number_unsigned(std::uint64_t) { return other(); }
  bool number_float(double, const std::string&) { return other(); }
  bool binary(std::vector<std::uint8_t>&) { return false; }

  bool string(std::string& value) {
    if (!is_field()) return other();
    is_next_on_path_ = false;
    if (is_found_) return fail(fmt::format("{} is there twice", field_));
    result_.text = std::move(value);
    is_found_ = true;
    return true;
  }

  bool key(std::string& name) {
    is_next_on_path_ = is_on_path_.back() && is_on_path_.size() <= path_.size() &&
                       name == path_[is_on_path_.size() - 1];
    return true;
  }

  bool start_object(std::size_t) { return open(is_on_path_.empty() || is_next_on_path_); }
  bool start_array(std::size_t) { return open(false); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception& error) {
    return fail(fmt::format("not valid JSON at column {}: {}", position, json_error_reason(error)));
  }

  void finish() {
    if (result_.problem.empty() && !is_found_) result_.problem = "no field " + field_;
  }

 private:
  bool is_field() const { return is_next_on_path_ && is_on_path_.size() == path_.size(); }

  bool fail(std::string problem) {
    if (result_.problem.empty()) result_.problem = std::move(problem);
    return false;
  }

  bool other() {
    if (is_field()) return fail(fmt::format("{} is not a string", field_));
    is_next_on_path_ = false;
    return true;
  }

  bool open(bool is_on_path) {
    if (is_field()) return fail(fmt::format("{} is not a string", field_));
    if (is_on_path_.size() == kMaxDepth) {
      return fail(fmt::format("nested deeper than {} levels", kMaxDepth));
    }
    is_on_path_.push_back(is_on_path);
    is_next_on_path_ = false;
    return true;
  }

  bool close() {
    is_on_path_.pop_back();
    return true;
  }

  const std::string& field_;  // as messages show it
  const std::vector<std::string>& path_;
  JsonFieldReader::Result& result_;
  std::vector<bool> is_on_path_;  // of each open object or list
  bool is_next_on_path_ = false;
  bool is_found_ = false;
};

}  // namespace

JsonFieldReader::JsonFieldReader(std::string_view field) : shown_field_(escape_control(field)) {
  for (std::size_t begin = 0; begin <= field.size();) {
    const std::size_t end = std::min(field.find('.', begin), field.size());
    path_.emplace_back(field.substr(begin, end - begin));
    begin = end + 1;
  }
}

JsonFieldReader::Result JsonFieldReader::read(std::string_view object) const {
  Result result;
  // nlohmann takes a NUL for the end of the text and would not look at what stands behind it.
  if (const auto nul = object.find('\0'); nul != std::string_view::npos) {
    result.problem = fmt::format("not valid JSON at column {}: a NUL byte", nul + 1);
    return result;
  }
  FieldHandler handler(shown_field_, path_, result);
  nlohmann::json::sax_parse(object.begin(), object.end(), &handler);
  handler.finish();
  return result;
}

}  // namespace thresher
