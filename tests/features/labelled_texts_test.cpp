#include "features/labelled_texts.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"

namespace thresher::features {
namespace {

namespace fs = std::filesystem;

class LabelledTexts : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path write(const std::string& name, const std::string& content) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return folder_ / name;
  }
  fs::path folder_ = fs::path(testing::TempDir()) / "labelled-texts";
};

TEST_F(LabelledTexts, FoldersAreLabelsAndNamesAreKeys) {
  write("fr/a.txt", "un");
  write("fr/b.txt", "deux");
  write("en/a.txt", "one");
  const std::vector<LabelledText> texts = read_labelled_texts(folder_, {});
  ASSERT_EQ(texts.size(), 3U);
  EXPECT_EQ(texts[0].label + texts[0].key + texts[0].text, "enaone");
  EXPECT_EQ(texts[1].label + texts[1].key + texts[1].text, "fraun");
  EXPECT_EQ(texts[2].label + texts[2].key + texts[2].text, "frbdeux");
  EXPECT_EQ(labels_of(texts), (std::vector<std::string>{"en", "fr"}));
}

TEST_F(LabelledTexts, JsonLinesHaveTheFieldsAskedFor) {
  const fs::path path =
      write("texts.jsonl",
            "{\"text\":\"un\",\"meta\":{\"lang\":\"fr\"},\"s\":\"1\",\"c\":\"x\"}\n\n"
            "{\"text\":\"\",\"meta\":{\"lang\":\"fr\"},\"s\":\"1\",\"c\":\"x\"}\r\n"
            "{\"text\":\"one\",\"meta\":{\"lang\":\"en\"},\"s\":\"2\",\"c\":\"y\"}");
  const std::vector<LabelledText> texts =
      read_labelled_texts(path, {"text", "meta.lang", "s", "c"});
  ASSERT_EQ(texts.size(), 2U);  // the empty text is left out
  EXPECT_EQ(texts[0].label + texts[0].key + texts[0].control + texts[0].text, "fr1xun");
  EXPECT_EQ(texts[1].label + texts[1].key + texts[1].control + texts[1].text, "en2yone");
  const std::vector<LabelledText> group = read_group("all", path, {});
  EXPECT_EQ(labels_of(group), std::vector<std::string>{"all"});
  EXPECT_NE(group[0].key, group[1].key);  // without a key each line is on its own
}

TEST_F(LabelledTexts, ALineWithoutAFieldIsNamed) {
  const fs::path path =
      write("texts.jsonl", "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\"}\n");
  try {
    read_labelled_texts(path, {});
    FAIL() << "no error";
  } catch (const DataError& error) {
    EXPECT_EQ(error.first_line(), path.string() + ":2: no field label");
  }
  EXPECT_THROW(read_labelled_texts(write("empty/x", "").parent_path(), {}), ConfigError);
}

TEST(HeldOut, DependsOnTheKeyAlone) {
  std::int64_t n = 0;
  for (int i = 0; i < 10000; ++i) n += is_held_out(std::to_string(i), 0.3) ? 1 : 0;
  EXPECT_NEAR(static_cast<double>(n), 3000, 150);
  for (const char* key : {"a", "sect.apt-get", ""}) {
    EXPECT_LE(is_held_out(key, 0.2), is_held_out(key, 0.4));
  }
  EXPECT_FALSE(is_held_out("a", 0));
  EXPECT_TRUE(is_held_out("a", 1));
}

}  // namespace
}  // namespace thresher::features
