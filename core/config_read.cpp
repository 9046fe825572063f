#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "core/config.h"
#include "core/error.h"

namespace thresher {
namespace {

std::string dotted(const std::string& path, std::string_view name) {
  return path.empty() ? std::string(name) : fmt::format("{}.{}", path, name);
}

/// A value as messages show it: one line, clipped, in quotes if it was in quotes.
std::string shown(const ConfigNode& node) {
  if (node.kind == ConfigNode::Kind::kList) return "[...]";
  if (node.kind == ConfigNode::Kind::kMap) return "{...}";
  std::string text = node.text.substr(0, 60);
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  if (node.text.size() > 60) text += "...";
  return node.is_quoted ? "\"" + text + "\"" : text;
}

bool is_null(const ConfigNode& node) {
  return node.kind == ConfigNode::Kind::kScalar && node.text.empty() && !node.is_quoted;
}

bool is_auto(const ConfigNode& node) {
  return node.kind == ConfigNode::Kind::kScalar && !node.is_quoted && node.text == "auto";
}

[[noreturn]] void wrong_type(const ConfigNode& node, const std::string& name,
                             std::string_view expected, std::string_view hint = {}) {
  throw ConfigError(fmt::format("{}: {} = {} is not {}", node.where(), name, shown(node), expected),
                    expected, hint);
}

void check_range(const ConfigNode& node, const std::string& name, double value,
                 const FieldInfo& info) {
  const bool is_low = info.min && (info.min_is_exclusive ? value <= *info.min : value < *info.min);
  const bool is_high = info.max && value > *info.max;
  if (!is_low && !is_high) return;
  std::string expected;
  if (info.min) expected += fmt::format("{} {} ", *info.min, info.min_is_exclusive ? "<" : "<=");
  expected += name;
  if (info.max) expected += fmt::format(" <= {}", *info.max);
  if (!info.unit.empty()) expected += fmt::format(" ({})", info.unit);
  const std::string problem = is_high                 ? fmt::format("above {}", *info.max)
                              : info.min_is_exclusive ? fmt::format("not above {}", *info.min)
                                                      : fmt::format("below {}", *info.min);
  throw ConfigError(fmt::format("{}: {} = {} is {}", node.where(), name, shown(node), problem),
                    expected);
}

void check_choice(const ConfigNode& node, const std::string& name, const FieldInfo& info) {
  if (info.choices.empty()) return;
  if (std::find(info.choices.begin(), info.choices.end(), node.text) != info.choices.end()) return;
  const std::string nearest = nearest_name(node.text, info.choices);
  throw ConfigError(fmt::format("{}: {} = {} is not known", node.where(), name, shown(node)),
                    fmt::format("one of {}", fmt::join(info.choices, ", ")),
                    nearest.empty() ? "" : fmt::format("did you mean {}?", nearest));
}

constexpr std::string_view kInteger = "a whole number";
constexpr std::string_view kIntegerHint = "20000, 20k, 1M, 1e6 and 1_000_000 are understood";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// A decimal number as sign, digits and a power of ten, so that 1.5M becomes a whole number without
/// rounding.
struct Decimal {
  bool is_negative = false;
  bool has_point = false;
  bool has_exponent = false;
  std::string digits;
  std::int64_t exponent = 0;
};

/// Digits into `out`, single underscores between digits dropped; the number of characters used.
std::size_t take_digits(std::string_view text, std::string& out) {
  std::size_t i = 0;
  while (i < text.size()) {
    const bool is_underscore = text[i] == '_' && i > 0 && is_digit(text[i - 1]) &&
                               i + 1 < text.size() && is_digit(text[i + 1]);
    if (!is_digit(text[i]) && !is_underscore) break;
    if (!is_underscore) out += text[i];
    ++i;
  }
  return i;
}

std::optional<Decimal> parse_decimal(std::string_view text) {
  Decimal out;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    out.is_negative = text[0] == '-';
    text.remove_prefix(1);
  }
  text.remove_prefix(take_digits(text, out.digits));
  if (out.digits.empty() || (out.digits.size() > 1 && out.digits[0] == '0')) return std::nullopt;
  if (!text.empty() && text[0] == '.') {
    out.has_point = true;
    const std::size_t before = out.digits.size();
    text.remove_prefix(1);
    text.remove_prefix(take_digits(text, out.digits));
    out.exponent = -static_cast<std::int64_t>(out.digits.size() - before);
    if (out.exponent == 0) return std::nullopt;
  }
  if (text.empty()) return out;
  out.has_exponent = true;
  if (text == "k") {
    out.exponent += 3;
  } else if (text == "M") {
    out.exponent += 6;
  } else if (text == "G") {
    out.exponent += 9;
  } else if (text[0] == 'e' || text[0] == 'E') {
    text.remove_prefix(text.size() > 1 && text[1] == '+' ? 2 : 1);
    int power = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), power);
    if (error != std::errc() || end != text.data() + text.size() || std::abs(power) > 400) {
      return std::nullopt;
    }
    out.exponent += power;
  } else {
    return std::nullopt;
  }
  return out;
}

std::int64_t read_integer(const ConfigNode& node, const std::string& name, const FieldInfo& info) {
  if (node.kind != ConfigNode::Kind::kScalar || node.is_quoted) wrong_type(node, name, kInteger);
  std::optional<Decimal> decimal = parse_decimal(node.text);
  if (!decimal || (decimal->has_point && !decimal->has_exponent)) {
    wrong_type(node, name, kInteger, kIntegerHint);
  }
  std::string& digits = decimal->digits;
  for (; decimal->exponent < 0; ++decimal->exponent) {
    if (digits.empty() || digits.back() != '0') {
      if (digits.find_first_not_of('0') == std::string::npos) break;
      wrong_type(node, name, kInteger, kIntegerHint);
    }
    digits.pop_back();
  }
  digits.erase(0, digits.find_first_not_of('0'));
  if (digits.empty()) digits = "0";
  if (digits != "0")
    digits.append(static_cast<std::size_t>(std::max<std::int64_t>(decimal->exponent, 0)), '0');
  if (decimal->is_negative) digits.insert(0, "-");
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    throw ConfigError(
        fmt::format("{}: {} = {} does not fit 64 bits", node.where(), name, shown(node)));
  }
  check_range(node, name, static_cast<double>(value), info);
  return value;
}

double read_number(const ConfigNode& node, const std::string& name, const FieldInfo& info) {
  constexpr std::string_view expected = "a finite number";
  if (node.kind != ConfigNode::Kind::kScalar || node.is_quoted) wrong_type(node, name, expected);
  std::string_view text = node.text;
  if (!text.empty() && text[0] == '+') text.remove_prefix(1);
  // from_chars would take "nan" and "inf"; only digits may start a number here.
  const std::size_t first = !text.empty() && text[0] == '-' ? 1 : 0;
  if (first >= text.size() || !(is_digit(text[first]) || text[first] == '.')) {
    wrong_type(node, name, expected);
  }
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) {
    throw ConfigError(
        fmt::format("{}: {} = {} does not fit a double", node.where(), name, shown(node)));
  }
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
    wrong_type(node, name, expected);
  }
  check_range(node, name, value, info);
  return value;
}

bool read_bool(const ConfigNode& node, const std::string& name) {
  if (node.kind == ConfigNode::Kind::kScalar && !node.is_quoted) {
    if (node.text == "true") return true;
    if (node.text == "false") return false;
  }
  wrong_type(node, name, "true or false");
}

std::string read_string(const ConfigNode& node, const std::string& name, const FieldInfo& info) {
  if (node.kind != ConfigNode::Kind::kScalar) wrong_type(node, name, "a string");
  if (node.text.find('\0') != std::string::npos) {
    throw ConfigError(fmt::format("{}: {} contains a NUL character", node.where(), name));
  }
  check_choice(node, name, info);
  return node.text;
}

}  // namespace

ConfigReader::ConfigReader(const ConfigNode* node, std::string path)
    : node_(node), path_(std::move(path)) {
  if (node_ == nullptr || node_->kind == ConfigNode::Kind::kMap || is_null(*node_)) return;
  throw ConfigError(fmt::format("{}: {} is {}", node_->where(), path_,
                                node_->kind == ConfigNode::Kind::kList
                                    ? "a list"
                                    : fmt::format("the value {}", shown(*node_))),
                    "a map of keys and values");
}

const ConfigNode* ConfigReader::take(const char* name, const FieldInfo& info) {
  known_.emplace_back(name);
  const ConfigNode* value = node_ == nullptr ? nullptr : node_->find(name);
  if (value == nullptr) {
    if (info.is_required) fail(name, "is missing", info.help);
    return nullptr;
  }
  if (is_null(*value))
    fail(name, "has no value", info.help, "leave the key out to take its default");
  return value;
}

void ConfigReader::field(const char* name, bool& value, const FieldInfo& info) {
  if (const ConfigNode* node = take(name, info)) value = read_bool(*node, dotted(path_, name));
}

void ConfigReader::field(const char* name, std::int64_t& value, const FieldInfo& info) {
  if (const ConfigNode* node = take(name, info))
    value = read_integer(*node, dotted(path_, name), info);
}

void ConfigReader::field(const char* name, double& value, const FieldInfo& info) {
  if (const ConfigNode* node = take(name, info))
    value = read_number(*node, dotted(path_, name), info);
}

void ConfigReader::field(const char* name, std::string& value, const FieldInfo& info) {
  if (const ConfigNode* node = take(name, info))
    value = read_string(*node, dotted(path_, name), info);
}

void ConfigReader::field(const char* name, std::vector<std::string>& value, const FieldInfo& info) {
  const ConfigNode* node = take(name, info);
  if (node == nullptr) return;
  const std::string full = dotted(path_, name);
  if (node->kind != ConfigNode::Kind::kList) {
    wrong_type(*node, full, "a list", fmt::format("write {}: [{}]", name, shown(*node)));
  }
  if (info.is_required && node->items.empty()) fail(name, "is an empty list", info.help);
  value.clear();
  for (std::size_t i = 0; i < node->items.size(); ++i) {
    const std::string item_name = fmt::format("{}[{}]", full, i);
    const ConfigNode& item = node->items[i];
    if (is_null(item))
      throw ConfigError(fmt::format("{}: {} has no value", item.where(), item_name));
    value.push_back(read_string(item, item_name, info));
  }
}

void ConfigReader::field(const char* name, std::optional<std::int64_t>& value,
                         const FieldInfo& info) {
  const ConfigNode* node = take(name, info);
  if (node == nullptr) return;
  value.reset();
  if (!is_auto(*node)) value = read_integer(*node, dotted(path_, name), info);
}

void ConfigReader::field(const char* name, std::optional<double>& value, const FieldInfo& info) {
  const ConfigNode* node = take(name, info);
  if (node == nullptr) return;
  value.reset();
  if (!is_auto(*node)) value = read_number(*node, dotted(path_, name), info);
}

void ConfigReader::field(const char* name, std::optional<bool>& value, const FieldInfo& info) {
  const ConfigNode* node = take(name, info);
  if (node == nullptr) return;
  value.reset();
  if (!is_auto(*node)) value = read_bool(*node, dotted(path_, name));
}

void ConfigReader::finish() {
  if (node_ == nullptr) return;
  for (const auto& [key, value] : node_->members) {
    if (std::find(known_.begin(), known_.end(), key.text) != known_.end()) continue;
    const std::string nearest = nearest_name(key.text, known_);
    throw ConfigError(fmt::format("{}: unknown key {}", key.where(), dotted(path_, shown(key))),
                      fmt::format("one of {}", fmt::join(known_, ", ")),
                      nearest.empty() ? "" : fmt::format("did you mean {}?", nearest));
  }
}

void ConfigReader::fail(std::string_view name, std::string_view problem, std::string_view expected,
                        std::string_view hint) const {
  const ConfigNode* value = node_ == nullptr ? nullptr : node_->find(name);
  const ConfigNode* place = value == nullptr ? node_ : value;
  const std::string prefix = place == nullptr ? "" : place->where() + ": ";
  throw ConfigError(fmt::format("{}{} {}", prefix, dotted(path_, name), problem), expected, hint);
}

namespace {

/// Damerau-Levenshtein distance (optimal string alignment), or `limit + 1` when it is surely
/// larger.
std::size_t edit_distance(std::string_view a, std::string_view b, std::size_t limit) {
  const std::size_t gap = a.size() > b.size() ? a.size() - b.size() : b.size() - a.size();
  if (gap > limit) return limit + 1;
  std::vector<std::size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) above[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, above);
    std::swap(above, row);
  }
  return above[b.size()];
}

}  // namespace

std::string nearest_name(std::string_view name, const std::vector<std::string>& known) {
  constexpr std::size_t limit = 2;
  std::string best;
  std::size_t best_distance = limit + 1;
  for (const std::string& candidate : known) {
    const std::size_t distance = edit_distance(name, candidate, limit);
    // Two short names that share no letter are not a slip of the pen.
    if (distance >= std::max(name.size(), candidate.size())) continue;
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace thresher
