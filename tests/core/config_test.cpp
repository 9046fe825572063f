#include "core/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"

namespace thresher {
namespace {

/// A section with one field of each kind, as a real section declares them.
struct Sample {
  std::int64_t tokens = 100;
  double rate = 0.5;
  bool is_on = false;
  std::string mode = "fast";
  std::string label = "none";
  std::vector<std::string> paths;
  std::optional<std::int64_t> window;
  std::optional<double> scale;
  std::optional<bool> flag;

  void declare(FieldVisitor& fields) {
    fields.field("tokens", tokens, {.help = "how many", .unit = "tokens", .min = 1, .max = 1e12});
    fields.field("rate", rate, {.help = "how fast", .min = 0, .max = 10, .min_is_exclusive = true});
    fields.field("is_on", is_on, {.help = "whether"});
    fields.field("mode", mode, {.help = "how", .choices = {"fast", "exact"}});
    fields.field("label", label, {.help = "a name"});
    fields.field("paths", paths, {.help = "files"});
    fields.field("window", window, {.help = "window", .min = 0});
    fields.field("scale", scale, {.help = "scale", .min = 0});
    fields.field("flag", flag, {.help = "flag"});
  }
};

Sample read(const std::string& text) {
  const ConfigNode root = parse_config(text, "a.yaml");
  Sample sample;
  ConfigReader reader(root.find("s"), "s");
  sample.declare(reader);
  reader.finish();
  return sample;
}

std::string first_line_of(const std::string& text) {
  try {
    read(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kConfig) << text;
    return error.first_line();
  }
  return "accepted";
}

std::string nested(int depth) {
  std::string text = "s: {label: ";
  for (int i = 0; i < depth; ++i) text += "[";
  for (int i = 0; i < depth; ++i) text += "]";
  return text + "}\n";
}

struct BadConfig {
  std::string text;
  std::string first_line;
};

std::vector<BadConfig> bad_structure() {
  return {
      {"", "a.yaml: the configuration is empty"},
      {"# only a comment\n", "a.yaml: the configuration is empty"},
      {"just words\n", "a.yaml:1:1: a configuration is a map of sections"},
      {"- a\n- b\n", "a.yaml:1:1: a configuration is a map of sections"},
      {"s:\n  tokens: 1\ns:\n  tokens: 2\n", "a.yaml:3:1: duplicate key s"},
      {"s:\n  tokens: 1\n  tokens: 1\n", "a.yaml:3:3: duplicate key tokens"},
      {"s: {tokens: 1, tokens: 2}\n", "a.yaml:1:16: duplicate key tokens"},
      {"s: {tokens: 1, \"tokens\": 2}\n", "a.yaml:1:16: duplicate key tokens"},
      {"s: &here {tokens: 1}\n",
       "a.yaml:1:4: the YAML anchor &here is not allowed in a configuration"},
      {"s:\n  tokens: &t 1\n", "a.yaml:2:11: the YAML anchor &t is not allowed in a configuration"},
      {"s:\n  paths: &p [a]\n",
       "a.yaml:2:10: the YAML anchor &p is not allowed in a configuration"},
      {"s:\n  tokens: *t\n", "a.yaml:2:11: not YAML: the referenced anchor is not defined"},
      {"s:\n  tokens: !!int 1\n",
       "a.yaml:2:11: the YAML tag tag:yaml.org,2002:int is not allowed in a configuration"},
      {"s: !local {tokens: 1}\n",
       "a.yaml:1:4: the YAML tag !local is not allowed in a configuration"},
      {"s:\n  paths: !seq [a]\n",
       "a.yaml:2:10: the YAML tag !seq is not allowed in a configuration"},
      {"s: {tokens: 1}\n---\ns: {tokens: 2}\n", "a.yaml:2:1: a second YAML document starts here"},
      {nested(15), "a.yaml:1:26: lists and maps are nested deeper than 16"},
      {nested(400), "a.yaml:1:26: lists and maps are nested deeper than 16"},
      {"s: {[a]: 1}\n", "a.yaml:1:5: a key is a list or a map"},
      {"s:\n  ? {a: 1}\n  : 2\n", "a.yaml:2:5: a key is a list or a map"},
      {"s: {\"\": 1}\n", "a.yaml:1:5: a key is empty"},
      {"s:\n  : 1\n", "a.yaml:2:3: a key is empty"},
      {"s: {tokens: 1\n", "a.yaml:1:1: not YAML: end of map flow not found"},
      {"s: \"open\n", "a.yaml:1:9: not YAML: illegal EOF in scalar"},
      {"s:\n\ttokens: 1\n", "a.yaml:2:8: not YAML: illegal map value"},
      {std::string("s: {label: a\0b}\n", 16), "a.yaml:1:13: byte 0x00 is a control character"},
      {"s:\n  label: a\x04\n  tokens: 1\n", "a.yaml:2:11: byte 0x04 is a control character"},
      {"s: {label: \xff}\n", "a.yaml:1:12: byte 0xff is not UTF-8"},
      {"s: {label: \xc0\xaf}\n", "a.yaml:1:12: byte 0xc0 is not UTF-8"},
      {"s: {label: \xed\xa0\x80}\n", "a.yaml:1:12: byte 0xed is not UTF-8"},
      {"\xff\xfes\0:\0", "a.yaml:1:1: byte 0xff is not UTF-8"},
      {"s: {label: \"" + std::string(1 << 20, 'x') + "\"}\n",
       "a.yaml: 1048591 bytes is too large for a configuration"},
  };
}

std::vector<BadConfig> bad_keys() {
  return {
      {"s: 5\n", "a.yaml:1:4: s is the value 5"},
      {"s: [a]\n", "a.yaml:1:4: s is a list"},
      {"s:\n  tokns: 1\n", "a.yaml:2:3: unknown key s.tokns"},
      {"s:\n  is_no: true\n", "a.yaml:2:3: unknown key s.is_no"},
      {"s:\n  tokens: 1\n  Tokens: 2\n", "a.yaml:3:3: unknown key s.Tokens"},
      {"s:\n  tokens:\n", "a.yaml:2:3: s.tokens has no value"},
      {"s:\n  tokens: ~\n", "a.yaml:2:11: s.tokens has no value"},
      {"s:\n  label: null\n", "a.yaml:2:10: s.label has no value"},
      {"s: {paths: [a, ]}\n", "accepted"},
      {"s: {paths: [a, ~]}\n", "a.yaml:1:16: s.paths[1] has no value"},
  };
}

std::vector<BadConfig> bad_values() {
  return {
      {"s: {tokens: ten}\n", "a.yaml:1:13: s.tokens = ten is not a whole number"},
      {"s: {tokens: \"10\"}\n", "a.yaml:1:13: s.tokens = \"10\" is not a whole number"},
      {"s: {tokens: 1.5}\n", "a.yaml:1:13: s.tokens = 1.5 is not a whole number"},
      {"s: {tokens: 10.0}\n", "a.yaml:1:13: s.tokens = 10.0 is not a whole number"},
      {"s: {tokens: 1.5e0}\n", "a.yaml:1:13: s.tokens = 1.5e0 is not a whole number"},
      {"s: {tokens: 010}\n", "a.yaml:1:13: s.tokens = 010 is not a whole number"},
      {"s: {tokens: 0x10}\n", "a.yaml:1:13: s.tokens = 0x10 is not a whole number"},
      {"s: {tokens: 1__0}\n", "a.yaml:1:13: s.tokens = 1__0 is not a whole number"},
      {"s: {tokens: 10_}\n", "a.yaml:1:13: s.tokens = 10_ is not a whole number"},
      {"s: {tokens: 1m}\n", "a.yaml:1:13: s.tokens = 1m is not a whole number"},
      {"s: {tokens: 1e999}\n", "a.yaml:1:13: s.tokens = 1e999 is not a whole number"},
      {"s: {tokens: 1e30}\n", "a.yaml:1:13: s.tokens = 1e30 does not fit 64 bits"},
      {"s: {tokens: 9223372036854775808}\n",
       "a.yaml:1:13: s.tokens = 9223372036854775808 does not fit 64 bits"},
      {"s: {tokens: 0}\n", "a.yaml:1:13: s.tokens = 0 is below 1"},
      {"s: {tokens: -5}\n", "a.yaml:1:13: s.tokens = -5 is below 1"},
      {"s: {tokens: 2000G}\n", "a.yaml:1:13: s.tokens = 2000G is above 1000000000000"},
      {"s: {tokens: [1]}\n", "a.yaml:1:13: s.tokens = [...] is not a whole number"},
      {"s: {tokens: {a: 1}}\n", "a.yaml:1:13: s.tokens = {...} is not a whole number"},
      {"s: {tokens: true}\n", "a.yaml:1:13: s.tokens = true is not a whole number"},
      {"s: {tokens: auto}\n", "a.yaml:1:13: s.tokens = auto is not a whole number"},
      {"s: {rate: .nan}\n", "a.yaml:1:11: s.rate = .nan is not a finite number"},
      {"s: {rate: nan}\n", "a.yaml:1:11: s.rate = nan is not a finite number"},
      {"s: {rate: .inf}\n", "a.yaml:1:11: s.rate = .inf is not a finite number"},
      {"s: {rate: -inf}\n", "a.yaml:1:11: s.rate = -inf is not a finite number"},
      {"s: {rate: 1e999}\n", "a.yaml:1:11: s.rate = 1e999 does not fit a double"},
      {"s: {rate: 1,5}\n", "a.yaml:1:13: unknown key s.5"},
      {"s:\n  rate: 1,5\n", "a.yaml:2:9: s.rate = 1,5 is not a finite number"},
      {"s: {rate: \"1\"}\n", "a.yaml:1:11: s.rate = \"1\" is not a finite number"},
      {"s: {rate: 0}\n", "a.yaml:1:11: s.rate = 0 is not above 0"},
      {"s: {rate: 10.5}\n", "a.yaml:1:11: s.rate = 10.5 is above 10"},
      {"s: {is_on: yes}\n", "a.yaml:1:12: s.is_on = yes is not true or false"},
      {"s: {is_on: 1}\n", "a.yaml:1:12: s.is_on = 1 is not true or false"},
      {"s: {is_on: \"true\"}\n", "a.yaml:1:12: s.is_on = \"true\" is not true or false"},
      {"s: {is_on: auto}\n", "a.yaml:1:12: s.is_on = auto is not true or false"},
      {"s: {mode: fsat}\n", "a.yaml:1:11: s.mode = fsat is not known"},
      {"s: {mode: Fast}\n", "a.yaml:1:11: s.mode = Fast is not known"},
      {"s: {label: [a]}\n", "a.yaml:1:12: s.label = [...] is not a string"},
      {"s: {label: {a: b}}\n", "a.yaml:1:12: s.label = {...} is not a string"},
      {"s: {label: \"a\\0b\"}\n", "a.yaml:1:12: s.label contains a NUL character"},
      {"s: {paths: a.txt}\n", "a.yaml:1:12: s.paths = a.txt is not a list"},
      {"s: {paths: [[a]]}\n", "a.yaml:1:13: s.paths[0] = [...] is not a string"},
      {"s: {window: -1}\n", "a.yaml:1:13: s.window = -1 is below 0"},
      {"s: {window: \"auto\"}\n", "a.yaml:1:13: s.window = \"auto\" is not a whole number"},
      {"s: {scale: -0.5}\n", "a.yaml:1:12: s.scale = -0.5 is below 0"},
      {"s: {flag: maybe}\n", "a.yaml:1:11: s.flag = maybe is not true or false"},
  };
}

void expect_first_lines(const std::vector<BadConfig>& cases) {
  for (const BadConfig& bad : cases) {
    EXPECT_EQ(first_line_of(bad.text), bad.first_line) << bad.text.substr(0, 200);
  }
}

TEST(Config, RefusesBadStructure) { expect_first_lines(bad_structure()); }
TEST(Config, RefusesBadKeys) { expect_first_lines(bad_keys()); }
TEST(Config, RefusesBadValues) { expect_first_lines(bad_values()); }

TEST(Config, SuggestsTheNearestKey) {
  try {
    read("s:\n  tokns: 1\n");
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "a.yaml:2:3: unknown key s.tokns\n"
                 "  expected: one of tokens, rate, is_on, mode, label, paths, window, scale, flag\n"
                 "  hint: did you mean tokens?");
  }
}

TEST(Config, SaysTheRangeOfAnOutOfRangeValue) {
  try {
    read("s: {tokens: 0}\n");
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "a.yaml:1:13: s.tokens = 0 is below 1\n"
                 "  expected: 1 <= s.tokens <= 1000000000000 (tokens)");
  }
}

TEST(Config, ReadsEveryKindOfValue) {
  const Sample sample = read(
      "s:\n  tokens: 2M\n  rate: 3e-4\n  is_on: true\n  mode: exact\n  label: \"12\"\n"
      "  paths: [a.txt, 'b c.txt']\n  window: 5\n  scale: 0.25\n  flag: false\n");
  EXPECT_EQ(sample.tokens, 2'000'000);
  EXPECT_EQ(sample.rate, 3e-4);
  EXPECT_TRUE(sample.is_on);
  EXPECT_EQ(sample.mode, "exact");
  EXPECT_EQ(sample.label, "12");
  EXPECT_EQ(sample.paths, (std::vector<std::string>{"a.txt", "b c.txt"}));
  EXPECT_EQ(sample.window, 5);
  EXPECT_EQ(sample.scale, 0.25);
  EXPECT_EQ(sample.flag, false);
}

TEST(Config, ReadsWholeNumbersInEveryNotation) {
  const std::vector<std::pair<std::string, std::int64_t>> cases = {{"20000", 20000},
                                                                   {"1e6", 1'000'000},
                                                                   {"1E3", 1000},
                                                                   {"1e+3", 1000},
                                                                   {"1_000_000", 1000000},
                                                                   {"1k", 1000},
                                                                   {"1M", 1000000},
                                                                   {"2G", 2000000000},
                                                                   {"1.5M", 1500000},
                                                                   {"2.5e3", 2500},
                                                                   {"+7", 7},
                                                                   {"1.50e1", 15},
                                                                   {"3000e-3", 3},
                                                                   {"999999999999", 999999999999}};
  for (const auto& [text, value] : cases) {
    EXPECT_EQ(read("s: {tokens: " + text + "}\n").tokens, value) << text;
  }
}

TEST(Config, KeepsDefaultsOfAbsentKeysAndSections) {
  EXPECT_EQ(read("t: {}\n").tokens, 100);
  EXPECT_EQ(read("s:\n").tokens, 100);
  EXPECT_EQ(read("s: {rate: 1}\n").mode, "fast");
  EXPECT_EQ(read("s: {window: auto}\n").window, std::nullopt);
}

TEST(Config, FailsWhereARequiredKeyIsMissing) {
  const ConfigNode root = parse_config("a: 1\ns:\n  other: 2\n", "a.yaml");
  ConfigReader reader(root.find("s"), "s");
  std::int64_t value = 0;
  try {
    reader.field("total", value, {.help = "length of the run", .is_required = true});
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(), "a.yaml:3:3: s.total is missing\n  expected: length of the run");
  }
}

TEST(Config, OverridesValuesAndNamesTheCommandLineInErrors) {
  ConfigNode root =
      parse_config("s: {tokens: 5}\nsae:\n- {name: first, k: 1}\n- {type: relu, k: 2}\n", "a.yaml");
  apply_override(root, "s.tokens=7");
  apply_override(root, "s.paths=[x, y]");
  apply_override(root, "sae.0.k=16");
  apply_override(root, "sae.relu.k=32");
  apply_override(root, "new.section.key=a=b");
  apply_override(root, "s.label=");
  EXPECT_EQ(root.find("s")->find("tokens")->text, "7");
  EXPECT_EQ(root.find("s")->find("tokens")->where(), "--set s.tokens");
  EXPECT_EQ(root.find("s")->find("paths")->items.at(1).text, "y");
  EXPECT_EQ(root.find("sae")->items.at(0).find("k")->text, "16");
  EXPECT_EQ(root.find("sae")->items.at(1).find("k")->text, "32");
  EXPECT_EQ(root.find("new")->find("section")->find("key")->text, "a=b");
  Sample sample;
  ConfigReader reader(root.find("s"), "s");
  sample.declare(reader);
  EXPECT_EQ(sample.tokens, 7);
  EXPECT_EQ(sample.label, "");

  apply_override(root, "s.tokns=7");
  ConfigReader again(root.find("s"), "s");
  sample.declare(again);
  try {
    again.finish();
    FAIL() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.first_line(), "--set s.tokns: unknown key s.tokns");
  }
}

TEST(Config, OverridesASingleEntryByNumberAndByName) {
  ConfigNode root = parse_config("sae: {type: topk, k: 1}\nrun: {name: mine}\n", "a.yaml");
  const ConfigNode& sae = *root.find("sae");
  apply_override(root, "sae.0.k=16");
  EXPECT_EQ(sae.find("k")->text, "16");
  apply_override(root, "sae.topk.k=17");
  EXPECT_EQ(sae.find("k")->text, "17");
  apply_override(root, "sae.k=18");
  EXPECT_EQ(sae.find("k")->text, "18");
  EXPECT_EQ(sae.members.size(), 2U);
  apply_override(root, "sae.name=a.b");
  apply_override(root, "sae.a.b.k=19");
  EXPECT_EQ(sae.find("k")->text, "19");
  apply_override(root, "sae.topk.k=20");  // no longer its name
  EXPECT_NE(sae.find("topk"), nullptr);
  apply_override(root, "run.mine.seed=1");  // only entries with a type are a list of one
  EXPECT_NE(root.find("run")->find("mine"), nullptr);
}

TEST(Config, OverridesTheEntryWithTheLongestName) {
  ConfigNode root = parse_config(
      "sae: [{name: topk-lr0}, {name: topk-lr0.001, k: 1}, {name: topk-lr0.001.2}]\n", "a.yaml");
  apply_override(root, "sae.topk-lr0.001.k=16");
  apply_override(root, "sae.topk-lr0.001.2.k=17");
  apply_override(root, "sae.topk-lr0.k=18");
  const std::vector<ConfigNode>& entries = root.find("sae")->items;
  EXPECT_EQ(entries.at(0).find("k")->text, "18");
  EXPECT_EQ(entries.at(1).find("k")->text, "16");
  EXPECT_EQ(entries.at(2).find("k")->text, "17");
}

TEST(Config, RefusesMalformedOverrides) {
  const std::vector<BadConfig> cases = {
      {"s.tokens", "--set s.tokens: there is no ="},
      {"=5", "--set =5: the key has an empty part"},
      {"s..k=5", "--set s..k=5: the key has an empty part"},
      {"s.tokens.x=5", "--set s.tokens.x: s.tokens is a single value and has no parts"},
      {"list.2=5", "--set list.2: list has no entry 2"},
      {"list.-1=5", "--set list.-1: list has no entry -1"},
      {"s.paths=[a", "--set s.paths=[a: the value is not a YAML value"},
  };
  for (const BadConfig& bad : cases) {
    ConfigNode root = parse_config("s: {tokens: 5}\nlist: [{name: a}, {name: b}]\n", "a.yaml");
    try {
      apply_override(root, bad.text);
      ADD_FAILURE() << "accepted " << bad.text;
    } catch (const UsageError& error) {
      EXPECT_EQ(error.first_line(), bad.first_line);
    }
  }
}

TEST(Config, NearestNameIsWithinTwoSlips) {
  const std::vector<std::string> known = {"learning_rate", "lanes", "k"};
  EXPECT_EQ(nearest_name("learning_rte", known), "learning_rate");
  EXPECT_EQ(nearest_name("learnign_rate", known), "learning_rate");
  EXPECT_EQ(nearest_name("laens", known), "lanes");
  EXPECT_EQ(nearest_name("kk", known), "k");
  EXPECT_EQ(nearest_name("lr", known), "");
  EXPECT_EQ(nearest_name("l0", known), "");
  EXPECT_EQ(nearest_name("learning", known), "");
}

TEST(Config, ResolvedYamlReadsBackEqual) {
  Sample sample;
  sample.rate = 1e-8;
  sample.label = "true";
  sample.paths = {"- a", "12", "data/x.txt", "", "it's: #1", "line\nbreak"};
  ConfigWriter writer;
  sample.declare(writer);
  Json json = Json::object({{"s", writer.json()}});
  json["list"] =
      Json::array({Json::object({{"name", "a"}, {"inner", Json::array({1, 2})}}), Json::object()});
  const std::string yaml = to_yaml(json);
  EXPECT_EQ(
      yaml,
      "s:\n  tokens: 100\n  rate: 1.0e-08\n  is_on: false\n  mode: fast\n  label: \"true\"\n"
      "  paths:\n    - \"- a\"\n    - \"12\"\n    - data/x.txt\n    - \"\"\n    - \"it's: #1\"\n"
      "    - \"line\\nbreak\"\n  window: auto\n  scale: auto\n  flag: auto\n"
      "list:\n  - name: a\n    inner:\n      - 1\n      - 2\n  - {}\n");
  const Sample back = read(yaml);
  EXPECT_EQ(back.rate, 1e-8);
  EXPECT_EQ(back.label, "true");
  EXPECT_EQ(back.paths, sample.paths);
}

TEST(Config, CollectsDeclarations) {
  Sample sample;
  FieldCollector collector;
  sample.declare(collector);
  ASSERT_EQ(collector.fields().size(), 9U);
  EXPECT_EQ(collector.fields()[0].name, "tokens");
  EXPECT_EQ(collector.fields()[0].type, "integer");
  EXPECT_EQ(collector.fields()[0].default_value, Json(100));
  EXPECT_EQ(collector.fields()[6].type, "integer or auto");
  EXPECT_EQ(collector.fields()[6].default_value, Json("auto"));
}

TEST(Config, RefusesAFileThatIsNotThereOrTooLarge) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "large.yaml";
  EXPECT_THROW(parse_config_file("/nonexistent/a.yaml"), IoError);
  std::ofstream(path) << std::string((1 << 20) + 1, '#');
  EXPECT_THROW(parse_config_file(path), ConfigError);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace thresher
