#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "core/error.h"
#include "core/json.h"
#include "core/json_reason.h"

namespace thresher {
namespace {

// "line 3, column 7" of the byte before `position`, which counts the bytes read so far.
std::string line_and_column(std::string_view text, std::size_t position) {
  const std::string_view before = text.substr(0, position > 0 ? position - 1 : 0);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t last_break = before.rfind('\n');
  const std::size_t column =
      last_break == std::string_view::npos ? before.size() + 1 : before.size() - last_break;
  return fmt::format("line {}, column {}", line, column);
}

// Builds a Json value from events; refuses duplicate keys and deep nesting while they are read.
class Builder {
 public:
  Builder(std::string_view text, std::string_view where, int max_depth)
      : text_(text), where_(where), max_depth_(max_depth) {}

  bool null() { return add(Json()); }
  bool boolean(bool value) { return add(Json(value)); }
  bool number_integer(std::int64_t value) { return add(Json(value)); }
  bool number_unsigned(std::uint64_t value) { return add(Json(value)); }
  bool number_float(double value, const std::string&) { return add(Json(value)); }
  bool string(std::string& value) { return add(Json(std::move(value))); }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool start_object(std::size_t) { return open(Json::object()); }
  bool end_object() { return close(); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_array() { return close(); }

  bool key(std::string& name) {
    if (!levels_.back().seen.insert(name).second) {
      throw DataError(fmt::format("{}: duplicate key {}", where_, Json(name).dump()),
                      "each key of an object once");
    }
    levels_.back().key = std::move(name);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception& error) {
    throw DataError(fmt::format("{}: not valid JSON at {}: {}", where_,
                                line_and_column(text_, position), json_error_reason(error)));
  }

  Json take() { return std::move(root_); }

 private:
  struct Level {
    Json value;
    std::string key = {};
    std::unordered_set<std::string> seen = {};
  };

  bool open(Json value) {
    if (static_cast<int>(levels_.size()) >= max_depth_) {
      throw DataError(fmt::format("{}: JSON is nested deeper than {} levels", where_, max_depth_));
    }
    levels_.push_back({std::move(value)});
    return true;
  }

  bool close() {
    Json value = std::move(levels_.back().value);
    levels_.pop_back();
    return add(std::move(value));
  }

  bool add(Json value) {
    if (levels_.empty()) {
      root_ = std::move(value);
    } else if (Level& level = levels_.back(); level.value.is_array()) {
      level.value.push_back(std::move(value));
    } else {
      level.value.append_member(std::move(level.key), std::move(value));
    }
    return true;
  }

  std::string_view text_;
  std::string where_;
  int max_depth_;
  Json root_;
  std::vector<Level> levels_;
};

}  // namespace

std::string json_error_reason(const std::exception& error) {
  std::string_view text = error.what();
  for (const std::string_view mark :
       {"syntax error while ", "[json.exception.out_of_range.406] "}) {
    if (const auto at = text.find(mark); at != std::string_view::npos) {
      text.remove_prefix(at + mark.size());
    }
  }
  return std::string(text.substr(0, text.find("; last read:")));
}

Json Json::parse(std::string_view text, std::string_view where, int max_depth) {
  // nlohmann takes a NUL for the end of the text and would not look at what stands behind it.
  if (const auto nul = text.find('\0'); nul != std::string_view::npos) {
    throw DataError(
        fmt::format("{}: not valid JSON at {}: a NUL byte", where, line_and_column(text, nul + 1)));
  }
  Builder builder(text, where, max_depth);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

}  // namespace thresher
