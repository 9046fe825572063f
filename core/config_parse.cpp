#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <span>
#include <sstream>
#include <utility>

#include "core/config.h"
#include "core/error.h"
#include "core/files.h"
#include "core/utf8.h"

namespace thresher {
namespace {

constexpr std::size_t kMaxConfigBytes = 1 << 20;
constexpr std::size_t kMaxDepth = 16;

/// Builds the tree from yaml-cpp's events. yaml-cpp's own tree would keep the first of two equal
/// keys without a word and would expand aliases; events let both be refused.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(std::string file) : file_(std::move(file)) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (has_document_) fail(mark, "a second YAML document starts here", "one document a file");
    has_document_ = true;
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    add(make_node(ConfigNode::Kind::kScalar, mark));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail(mark, "a YAML alias (*name) is not allowed in a configuration", "the value itself");
  }
  void OnAnchor(const YAML::Mark& mark, const std::string& name) override {
    fail(mark, fmt::format("the YAML anchor &{} is not allowed in a configuration", clip(name)),
         "the value itself");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    // yaml-cpp reports "?" for a plain scalar without a tag and "!" for a quoted one.
    if (!tag.empty() && tag != "?" && tag != "!") refuse_tag(mark, tag);
    ConfigNode node = make_node(ConfigNode::Kind::kScalar, mark);
    node.text = value;
    node.is_quoted = tag == "!";
    add(std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(ConfigNode::Kind::kList, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(ConfigNode::Kind::kMap, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

  bool has_document() const { return has_document_; }
  ConfigNode take_root() { return std::move(root_); }

  [[noreturn]] void fail(const YAML::Mark& mark, std::string_view problem,
                         std::string_view expected = {}) const {
    throw ConfigError(fmt::format("{}:{}:{}: {}", file_, line_of(mark), column_of(mark), problem),
                      expected);
  }

 private:
  struct Open {
    ConfigNode node;
    std::optional<ConfigNode> key;  // of a map, once read and until its value is
  };

  // yaml-cpp gives an empty value at the end of the text no position; the last one seen is the
  // nearest.
  static int line_of(const YAML::Mark& mark) { return mark.line < 0 ? 1 : mark.line + 1; }
  static int column_of(const YAML::Mark& mark) { return mark.column < 0 ? 1 : mark.column + 1; }
  static std::string clip(std::string_view text) { return std::string(text.substr(0, 60)); }

  ConfigNode make_node(ConfigNode::Kind kind, const YAML::Mark& mark) const {
    ConfigNode node;
    node.kind = kind;
    node.file = file_;
    node.line = line_of(mark);
    node.column = column_of(mark);
    return node;
  }
  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != YAML::NullAnchor) fail(mark, "a YAML anchor is not allowed in a configuration");
  }
  [[noreturn]] void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
    fail(mark, fmt::format("the YAML tag {} is not allowed in a configuration", clip(tag)),
         "the plain value");
  }

  void open(ConfigNode::Kind kind, const YAML::Mark& mark, const std::string& tag,
            YAML::anchor_t anchor) {
    refuse_anchor(mark, anchor);
    if (!tag.empty() && tag != "?") refuse_tag(mark, tag);
    if (stack_.size() >= kMaxDepth) {
      fail(mark, fmt::format("lists and maps are nested deeper than {}", kMaxDepth));
    }
    if (!stack_.empty() && stack_.back().node.kind == ConfigNode::Kind::kMap &&
        !stack_.back().key) {
      fail(mark, "a key is a list or a map", "a plain name");
    }
    stack_.push_back({make_node(kind, mark), std::nullopt});
  }
  void close() {
    ConfigNode node = std::move(stack_.back().node);
    stack_.pop_back();
    add(std::move(node));
  }
  void add(ConfigNode node) {
    if (stack_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& top = stack_.back();
    if (top.node.kind == ConfigNode::Kind::kList) {
      top.node.items.push_back(std::move(node));
    } else if (!top.key) {
      check_key(top.node, node);
      top.key = std::move(node);
    } else {
      // yaml-cpp reports an absent value where the next token stands, which may be anywhere.
      const bool is_absent =
          node.kind == ConfigNode::Kind::kScalar && node.text.empty() && !node.is_quoted;
      if (is_absent && (node.line != top.key->line || node.column <= top.key->column)) {
        node.line = top.key->line;
        node.column = top.key->column;
      }
      top.node.members.emplace_back(std::move(*top.key), std::move(node));
      top.key.reset();
    }
  }
  void check_key(const ConfigNode& map, const ConfigNode& key) const {
    if (key.text.empty()) throw ConfigError(key.where() + ": a key is empty", "a name");
    for (const auto& [other, value] : map.members) {
      if (other.text == key.text) {
        throw ConfigError(fmt::format("{}: duplicate key {}", key.where(), clip(key.text)), {},
                          fmt::format("the first one is in line {}", other.line));
      }
    }
  }

  std::string file_;
  std::vector<Open> stack_;
  ConfigNode root_;
  bool has_document_ = false;
};

/// yaml-cpp replaces invalid UTF-8 and takes byte 4 for the end of the text, both silently.
void check_characters(std::string_view text, std::string_view file) {
  int line = 1;
  std::size_t line_start = 0;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_sequence_length(text, i);
    const auto value = static_cast<unsigned char>(text[i]);
    const bool is_control =
        (value < 0x20 && value != '\n' && value != '\t' && value != '\r') || value == 0x7F;
    if (length == 0 || is_control) {
      throw ConfigError(fmt::format("{}:{}:{}: byte 0x{:02x} is {}", file, line, i - line_start + 1,
                                    value, is_control ? "a control character" : "not UTF-8"),
                        "a YAML file in UTF-8");
    }
    if (value == '\n') {
      ++line;
      line_start = i + 1;
    }
    i += length;
  }
}

ConfigNode parse_yaml(std::string_view text, std::string_view file_name) {
  const std::string file(file_name);
  if (text.size() > kMaxConfigBytes) {
    throw ConfigError(
        fmt::format("{}: {} bytes is too large for a configuration", file, text.size()),
        fmt::format("at most {} bytes", kMaxConfigBytes));
  }
  check_characters(text, file);
  TreeBuilder builder(file);
  // Text that ends in a line break hides an unclosed quote from yaml-cpp.
  const std::size_t end = text.find_last_not_of(" \r\n");
  std::istringstream stream{
      std::string(text.substr(0, end == std::string_view::npos ? 0 : end + 1))};
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    builder.fail(error.mark, fmt::format("not YAML: {}", error.msg));
  }
  if (!builder.has_document()) throw ConfigError(file + ": the configuration is empty");
  return builder.take_root();
}

}  // namespace

const ConfigNode* ConfigNode::find(std::string_view key) const {
  for (const auto& [name, value] : members) {
    if (name.text == key) return &value;
  }
  return nullptr;
}

std::string ConfigNode::where() const {
  return line == 0 ? file : fmt::format("{}:{}:{}", file, line, column);
}

ConfigNode parse_config(std::string_view text, std::string_view file_name) {
  ConfigNode root = parse_yaml(text, file_name);
  if (root.kind != ConfigNode::Kind::kMap) {
    throw ConfigError(root.where() + ": a configuration is a map of sections",
                      "lines such as `schema: 1` and `train:`");
  }
  return root;
}

ConfigNode parse_config_file(const std::filesystem::path& path) {
  const std::uint64_t size = thresher::file_size(path);
  if (size > kMaxConfigBytes) {
    throw ConfigError(
        fmt::format("{}: {} bytes is too large for a configuration", path.string(), size),
        fmt::format("at most {} bytes", kMaxConfigBytes));
  }
  return parse_config(read_text_file(path, kMaxConfigBytes), path.string());
}

namespace {

/// The value of an override: YAML for lists, maps and quoted strings, the bare text otherwise.
ConfigNode override_value(std::string_view text, const std::string& place) {
  ConfigNode node;
  if (!text.empty() && std::string_view("[{\"'").find(text[0]) != std::string_view::npos) {
    return parse_yaml(text, place);
  }
  check_characters(text, place);
  node.text = text;
  node.is_quoted = text.empty();
  return node;
}

/// Everything below an overridden value says that it came from the command line.
void set_place(ConfigNode& node, const std::string& place) {
  node.file = place;
  node.line = node.column = 0;
  for (ConfigNode& item : node.items) set_place(item, place);
  for (auto& [key, value] : node.members) {
    set_place(key, place);
    set_place(value, place);
  }
}

/// How many of `steps` name an entry of a list, by its number or by its name, which may hold dots;
/// 0: it is another entry.
std::size_t steps_naming(const ConfigNode& entry, std::size_t number,
                         std::span<const std::string> steps) {
  const ConfigNode* name = entry.find("name");
  if (name == nullptr) name = entry.find("type");
  std::size_t longest = steps[0] == std::to_string(number) ? 1 : 0;
  std::string joined;
  for (std::size_t i = 0; i < steps.size() && name != nullptr; ++i) {
    joined += (i > 0 ? "." : "") + steps[i];
    if (joined == name->text) longest = i + 1;
  }
  return longest;
}

/// The entry that the first of `steps` name, and how many they are.
std::pair<ConfigNode*, std::size_t> list_entry(ConfigNode& list, std::span<const std::string> steps,
                                               const std::string& place,
                                               const std::string& so_far) {
  std::pair<ConfigNode*, std::size_t> found = {nullptr, 0};
  for (std::size_t i = 0; i < list.items.size(); ++i) {
    const std::size_t used = steps_naming(list.items[i], i, steps);
    if (used > found.second) found = {&list.items[i], used};
  }
  if (found.first != nullptr) return found;
  throw UsageError(fmt::format("{}: {} has no entry {}", place, so_far, steps[0]),
                   fmt::format("a number from 0 to {}, or an entry's name",
                               static_cast<std::int64_t>(list.items.size()) - 1));
}

/// The value under the first of `steps`, or the map itself where it has a type and stands for a
/// list of one entry, which they name; and how many they are.
std::pair<ConfigNode*, std::size_t> map_entry(ConfigNode& map, std::span<const std::string> steps,
                                              const std::string& place) {
  const std::string& step = steps[0];
  for (auto& [key, value] : map.members) {
    if (key.text == step) return {&value, 1};
  }
  const std::size_t used = map.find("type") == nullptr ? 0 : steps_naming(map, 0, steps);
  if (used > 0) return {&map, used};
  ConfigNode key;
  key.text = step;
  key.file = place;
  ConfigNode value;
  value.file = place;
  return {&map.members.emplace_back(std::move(key), std::move(value)).second, 1};
}

}  // namespace

void apply_override(ConfigNode& root, std::string_view key_equals_value) {
  const std::size_t equals = key_equals_value.find('=');
  const std::string key(key_equals_value.substr(0, std::min(equals, key_equals_value.size())));
  const std::string place = "--set " + key;
  const auto malformed = [&](std::string_view problem) {
    throw UsageError(fmt::format("--set {}: {}", key_equals_value.substr(0, 80), problem),
                     "KEY=VALUE with a dotted key",
                     "for example --set train.learning_rate=3e-4 or --set sae.0.k=16");
  };
  if (equals == std::string_view::npos) malformed("there is no =");
  std::vector<std::string> steps(1);
  for (const char c : key) {
    if (c == '.') {
      steps.emplace_back();
    } else {
      steps.back() += c;
    }
  }
  if (std::any_of(steps.begin(), steps.end(), [](const auto& step) { return step.empty(); })) {
    malformed("the key has an empty part");
  }
  if (steps.size() > kMaxDepth) malformed("the key has too many parts");

  ConfigNode value;
  try {
    value = override_value(key_equals_value.substr(equals + 1), place);
  } catch (const ConfigError&) {
    malformed("the value is not a YAML value");
  }
  set_place(value, place);
  ConfigNode* node = &root;
  std::string so_far;
  for (std::span<const std::string> left = steps; !left.empty();) {
    const bool is_empty =
        node->kind == ConfigNode::Kind::kScalar && node->text.empty() && !node->is_quoted;
    if (is_empty) node->kind = ConfigNode::Kind::kMap;
    if (node->kind == ConfigNode::Kind::kScalar) {
      throw UsageError(fmt::format("{}: {} is a single value and has no parts", place, so_far));
    }
    const auto [entry, used] = node->kind == ConfigNode::Kind::kList
                                   ? list_entry(*node, left, place, so_far)
                                   : map_entry(*node, left, place);
    node = entry;
    for (const std::string& step : left.first(used)) so_far += (so_far.empty() ? "" : ".") + step;
    left = left.subspan(used);
  }
  *node = std::move(value);
}

}  // namespace thresher
