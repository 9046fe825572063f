#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "core/random.h"
#include "corpus/tokenizer.h"
#include "tests/core/scratch_folder.h"

namespace thresher::corpus {
namespace {

using Ids = std::vector<std::int32_t>;
using testing::ScratchFolder;

/// "low" and "lower" over seven letters, a byte-level file as GPT-2's.
Json small_file() {
  return Json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 11, "content": "<|end|>", "single_word": false, "lstrip": false,
                      "rstrip": false, "normalized": false, "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                      "use_regex": true},
    "post_processor": null,
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "byte_fallback": false,
      "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": false,
      "vocab": {"l": 0, "o": 1, "w": 2, "e": 3, "r": 4, "Ġ": 5, "!": 6,
                "lo": 7, "low": 8, "er": 9, "Ġlow": 10},
      "merges": ["l o", "lo w", ["e", "r"], "Ġ low"]}})",
                     "small");
}

class JsonTokenizerTest : public ::testing::Test {
 protected:
  std::unique_ptr<Tokenizer> load(const Json& file) {
    write("tokenizer.json", file.dump());
    return load_tokenizer(folder_.path());
  }
  void write(const std::string& name, const std::string& text) const {
    std::filesystem::remove(folder_ / name);  // file systems flush a file that is emptied
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  /// First line of the error, the file's name without its folder.
  std::string message_of(const Json& file) {
    std::string line = testing::first_line_of<DataError>([&] { load(file); });
    const std::string prefix = folder_.path().string() + "/";
    if (const auto at = line.find(prefix); at != std::string::npos) line.erase(at, prefix.size());
    return line;
  }
  std::string message_with(std::string_view part, const char* key, Json value) {
    Json file = small_file();
    file[part][key] = std::move(value);
    return message_of(file);
  }

  ScratchFolder folder_;
};

TEST_F(JsonTokenizerTest, MergesAndDecodesAsTheFileSays) {
  const auto tokenizer = load(small_file());
  EXPECT_EQ(tokenizer->encode("low lower!"), (Ids{8, 10, 9, 6}));
  EXPECT_EQ(tokenizer->decode(Ids{8, 10, 9, 6, 11}), "low lower!<|end|>");
  EXPECT_EQ(tokenizer->vocabulary_size(), 12);
  EXPECT_EQ(tokenizer->bos_id(), std::nullopt);
  EXPECT_TRUE(tokenizer->is_special(11));
  EXPECT_FALSE(tokenizer->is_special(8));
}

TEST_F(JsonTokenizerTest, TakesSpecialTextInDocumentsAsText) {
  Json file = small_file();
  // The end token as a merge of the file would let a document forge it.
  file["model"]["vocab"]["<"] = 11;
  file["model"]["vocab"]["|end|>"] = 12;
  file["model"]["vocab"]["<|end|>"] = 13;
  file["model"]["merges"].push_back("< |end|>");
  file["model"]["ignore_merges"] = true;
  file["pre_tokenizer"]["use_regex"] = false;
  Json token = file.at("added_tokens").as_array()[0];
  token["id"] = 13;
  file["added_tokens"] = Json::array({token});
  const auto tokenizer = load(file);
  EXPECT_EQ(tokenizer->encode("<|end|>"), (Ids{11, 3}));
  EXPECT_EQ(tokenizer->encode("<|end|>", true), (Ids{13}));
}

TEST_F(JsonTokenizerTest, CountsBytesThatBecomeNoToken) {
  Json file = small_file();
  const auto bytes = load(file);
  EXPECT_EQ(bytes->encode("lowx\n\xFF"), (Ids{8}));
  EXPECT_EQ(bytes->n_lost_bytes("lowx\n\xFF"), 3);
  file["pre_tokenizer"] = Json();
  file["decoder"] = Json();
  file["model"]["unk_token"] = "!";
  const auto characters = load(file);
  EXPECT_EQ(characters->encode("low中\xFFr"), (Ids{8, 6, 6, 4}));
  EXPECT_EQ(characters->n_lost_bytes("low中\xFFr"), 4);
  EXPECT_EQ(characters->decode(Ids{8, 4}), "low r");
}

TEST_F(JsonTokenizerTest, ReadsBosAndEosBesideIt) {
  write("config.json", R"({"bos_token_id": 6, "eos_token_id": [2, 3]})");
  auto tokenizer = load(small_file());
  EXPECT_EQ(tokenizer->bos_id(), 6);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_TRUE(tokenizer->is_special(3));
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->description(),
            R"(BPE of 12 tokens; BOS 6 "!" (config.json); EOS 2 "w" (config.json))");

  Json file = small_file();
  file["post_processor"] = Json::parse(
      R"({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing",
          "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A"}}]}]})",
      "template");
  const std::string before = tokenizer->fingerprint();
  tokenizer = load(file);
  EXPECT_EQ(tokenizer->bos_id(), 11);
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_NE(tokenizer->fingerprint(), before);

  write("tokenizer_config.json", R"({"bos_token": {"content": "low"}, "eos_token": "<|end|>"})");
  tokenizer = load(file);
  EXPECT_EQ(tokenizer->bos_id(), 8);
  EXPECT_EQ(tokenizer->eos_id(), 11);
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->description(), R"(BPE of 12 tokens; BOS 8 "low" (tokenizer_config.json); )"
                                      R"(EOS 11 "<|end|>" (tokenizer_config.json))");
}

TEST_F(JsonTokenizerTest, NamesTokensThatAreNotThere) {
  write("config.json", R"({"eos_token_id": 12})");
  EXPECT_EQ(message_of(small_file()), "config.json: eos_token_id: 12 is not a token");
  write("tokenizer_config.json", R"({"eos_token": "</s>\u001b[31m"})");
  EXPECT_EQ(message_of(small_file()),
            R"(tokenizer_config.json: eos_token: token "</s>\u001b[31m" is not in the vocabulary)");
}

TEST_F(JsonTokenizerTest, ChangesItsFingerprintWithEveryPartThatDecidesIds) {
  const std::string original = load(small_file())->fingerprint();
  Json file = small_file();
  file["decoder"] = Json();
  file["version"] = "1.0";
  EXPECT_EQ(load(file)->fingerprint(), original);
  file = small_file();
  file["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_NE(load(file)->fingerprint(), original);
  file = small_file();
  file["normalizer"] = Json::object({{"type", "NFC"}});
  EXPECT_NE(load(file)->fingerprint(), original);
  file = small_file();
  file["model"]["merges"].push_back("w e");
  file["model"]["vocab"]["we"] = 11;
  Json token = file.at("added_tokens").as_array()[0];
  token["id"] = 12;
  file["added_tokens"] = Json::array({token});
  EXPECT_NE(load(file)->fingerprint(), original);
}

TEST_F(JsonTokenizerTest, NamesComponentsThatItDoesNotHave) {
  const auto component = [&](const char* key, const char* text) {
    Json file = small_file();
    file[key] = Json::parse(text, "component");
    return message_of(file);
  };
  EXPECT_EQ(message_with("model", "type", "Unigram"),
            R"(tokenizer.json: model.type: model "Unigram" is not supported)");
  EXPECT_EQ(
      component("normalizer", R"({"type": "Sequence", "normalizers":
                                        [{"type": "NFC"}, {"type": "Precompiled"}]})"),
      R"(tokenizer.json: normalizer.normalizers[1]: normalizer "Precompiled" is not supported)");
  EXPECT_EQ(component("pre_tokenizer", R"({"type": "UnicodeScripts"})"),
            R"(tokenizer.json: pre_tokenizer: pre-tokenizer "UnicodeScripts" is not supported)");
  EXPECT_EQ(component("decoder", R"({"type": "WordPiece"})"),
            R"(tokenizer.json: decoder: decoder "WordPiece" is not supported)");
  EXPECT_EQ(component("pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "a"},
                                           "behavior": "Glued\n", "invert": false})"),
            R"(tokenizer.json: pre_tokenizer.behavior: behaviour "Glued\n" is not supported)");
  EXPECT_EQ(component("pre_tokenizer", R"({"type": "Metaspace", "replacement": "__"})"),
            "tokenizer.json: pre_tokenizer.replacement: is not one character");
  EXPECT_EQ(component("pre_tokenizer",
                      R"({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"},
                          {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"}]})"),
            "tokenizer.json: pre_tokenizer.pretokenizers[1]: prepend_scheme first is not supported "
            "behind another pre-tokenizer");
  EXPECT_EQ(message_with("model", "dropout", 0.1),
            "tokenizer.json: model.dropout: merges that are left out at random are not supported");
  EXPECT_EQ(message_with("model", "end_of_word_suffix", "</w>"),
            R"(tokenizer.json: model.end_of_word_suffix: "\"</w>\"" is not supported)");
}

TEST_F(JsonTokenizerTest, RefusesVocabulariesAndMergesThatCannotBe) {
  const auto vocabulary = [&](const char* text) {
    return message_with("model", "vocab", Json::parse(text, "vocabulary"));
  };
  EXPECT_EQ(vocabulary(R"({"a": 4000000000})"),
            R"(tokenizer.json: model.vocab: token "a" has the id "4000000000")");
  EXPECT_EQ(vocabulary(R"({"a": -1})"),
            R"(tokenizer.json: model.vocab: token "a" has the id "-1")");
  EXPECT_EQ(vocabulary(R"({"a": 1.5})"),
            R"(tokenizer.json: model.vocab: token "a" has the id "1.5")");
  EXPECT_EQ(vocabulary(R"({"b": 3, "a": 3})"),
            R"(tokenizer.json: model.vocab: tokens "a" and "b" both have the id 3)");
  EXPECT_EQ(vocabulary(R"({"": 0})"), "tokenizer.json: model.vocab: token 0 is empty");
  EXPECT_EQ(vocabulary("{}"), "tokenizer.json: model.vocab: has no token");
  const auto merges = [&](const char* text) {
    return message_with("model", "merges", Json::parse(text, "merges"));
  };
  EXPECT_EQ(merges(R"(["l o", "x o"])"),
            R"(tokenizer.json: model.merges[1]: "x" is not in the vocabulary)");
  EXPECT_EQ(merges(R"([["o", "l"]])"),
            R"(tokenizer.json: model.merges[0]: "ol" is not in the vocabulary)");
  EXPECT_EQ(merges(R"(["l o w"])"),
            R"(tokenizer.json: model.merges[0]: "\"l o w\"" is not a pair)");
  EXPECT_EQ(merges(R"([["l"]])"), R"(tokenizer.json: model.merges[0]: "[\"l\"]" is not a pair)");
  EXPECT_EQ(merges("7"), "tokenizer.json: model.merges: is not a list");
  EXPECT_EQ(message_with("model", "unk_token", "<unk>"),
            R"(tokenizer.json: model.unk_token: "<unk>" is not in the vocabulary)");
}

TEST_F(JsonTokenizerTest, RefusesAddedTokensThatCannotBe) {
  const auto added = [&](const char* text) {
    Json file = small_file();
    file["added_tokens"] = Json::parse(text, "added");
    return message_of(file);
  };
  EXPECT_EQ(added(R"([{"id": 12, "content": "<s>"}])"),
            R"(tokenizer.json: added_tokens[0]: token "<s>" has the id 12)");
  EXPECT_EQ(added(R"([{"id": 3, "content": "low"}])"),
            R"(tokenizer.json: added_tokens[0]: token "low" has the id 3)");
  EXPECT_EQ(added(R"([{"id": 11, "content": ""}])"),
            "tokenizer.json: added_tokens[0]: content has 0 bytes");
  EXPECT_EQ(added(R"([{"id": 8, "content": "low"}, {"id": 8, "content": "low"}])"),
            R"(tokenizer.json: added_tokens[1]: token "low" is there twice)");
  EXPECT_EQ(added(R"([{"id": 11}])"), "tokenizer.json: added_tokens[0]: content is missing");
}

TEST_F(JsonTokenizerTest, StopsARegularExpressionThatBacktracksWithoutEnd) {
  Json file = small_file();
  file["pre_tokenizer"] = Json::parse(
      R"({"type": "Split", "pattern": {"Regex": "(?:l+)+!"}, "behavior": "Isolated", "invert": false})",
      "hostile");
  const auto tokenizer = load(file);
  EXPECT_EQ(tokenizer->encode("lol!"), (Ids{7, 0, 6}));
  const std::string line =
      testing::first_line_of<DataError>([&] { tokenizer->encode(std::string(60, 'l') + "o!"); });
  EXPECT_NE(line.find("tokenizer.json: pre_tokenizer.pattern.Regex: the regular expression gave up "
                      "in a text of 62 bytes"),
            std::string::npos)
      << line;
}

TEST_F(JsonTokenizerTest, RefusesRegularExpressionsThatItCannotReadExactly) {
  const auto pattern = [&](const std::string& text) {
    Json file = small_file();
    file["pre_tokenizer"] = Json::object({{"type", "Split"},
                                          {"pattern", Json::object({{"Regex", text}})},
                                          {"behavior", "Isolated"},
                                          {"invert", false}});
    std::string line = message_of(file);
    const std::string prefix = "tokenizer.json: pre_tokenizer.pattern.Regex: ";
    return line.starts_with(prefix) ? line.substr(prefix.size()) : line;
  };
  const std::string end = " of the regular expression is not supported";
  EXPECT_EQ(pattern("[a-z&&[^m]]"), "an intersection of sets at byte 4" + end);
  EXPECT_EQ(pattern("[[:alpha:]]"), "a set within a set at byte 1" + end);
  EXPECT_EQ(pattern("(a)\\1"), "'\\1' at byte 3" + end);
  EXPECT_EQ(pattern("(?<name>a)"), "'(?<n' at byte 0" + end);
  EXPECT_EQ(pattern("a(?i)b"), "'(?i)' at byte 1" + end);
  EXPECT_EQ(pattern("a{2}?"), "a quantifier on {n} at byte 4" + end);
  EXPECT_EQ(pattern("\\p{Lx}"),
            "not a regular expression at character 9: unknown property after \\P or \\p");
  EXPECT_EQ(pattern("\\p{L"), "'\\p' without {...} at byte 0" + end);
  EXPECT_EQ(pattern("a\\"), "'\\' at the end at byte 1" + end);
  EXPECT_EQ(pattern("(a"), "not a regular expression at character 2: missing closing parenthesis");
  EXPECT_EQ(pattern("\\C"), "'\\C' at byte 0" + end);
}

TEST_F(JsonTokenizerTest, ExplainsFilesThatAreNoTokenizer) {
  write("tokenizer.json", "{\"model\": ");
  const auto line = [&](const std::string& name) {
    return testing::first_line_of<Error>([&] { load_tokenizer(folder_ / name); })
        .substr(folder_.path().string().size() + 1);
  };
  EXPECT_EQ(
      line("tokenizer.json"),
      "tokenizer.json: not valid JSON at line 1, column 11: parsing value - unexpected end of "
      "input; expected '[', '{', or a literal");
  EXPECT_EQ(message_of(Json::object()), "tokenizer.json: model is missing");
  EXPECT_EQ(message_of(Json::array()), "tokenizer.json: is not an object");
  std::filesystem::create_directory(folder_ / "empty");
  EXPECT_EQ(line("empty"), "empty: this folder has no tokenizer.json");
}

TEST_F(JsonTokenizerTest, SurvivesDamageAnywhere) {
  const std::string good = small_file().dump();
  const RandomStream random(7, "damage");
  int n_refused = 0;
  constexpr int kFiles = 1000;
  for (int i = 0; i < kFiles; ++i) {
    std::string bad = good;
    for (std::uint64_t j = 0; j < 3; ++j) {
      const std::uint64_t draw = random.bits(static_cast<std::uint64_t>(i) * 3 + j);
      bad[draw % bad.size()] = R"({}[]",:0179-.elown\u)"[(draw >> 32) % 20];
    }
    write("tokenizer.json", bad);
    try {
      load_tokenizer(folder_.path())->encode("low lower! <|end|>\xFF中");
    } catch (const DataError&) {
      ++n_refused;
    }
  }
  EXPECT_GT(n_refused, kFiles / 2);
  EXPECT_LT(n_refused, kFiles);
}

}  // namespace
}  // namespace thresher::corpus
