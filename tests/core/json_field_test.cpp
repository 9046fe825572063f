#include "core/json_field.h"

#include <gtest/gtest.h>

#include <string>

namespace thresher {
namespace {

std::string text_of(const std::string& field, const std::string& line) {
  const JsonFieldReader::Result result = JsonFieldReader(field).read(line);
  EXPECT_EQ(result.problem, "") << line;
  return result.text;
}

std::string problem_of(const std::string& field, const std::string& line) {
  return JsonFieldReader(field).read(line).problem;
}

TEST(JsonField, TakesAStringWhereverItStands) {
  EXPECT_EQ(text_of("text", R"({"text": "a"})"), "a");
  EXPECT_EQ(
      text_of("text",
              R"( {"id": [1, {"text": "no"}], "meta": {"text": "no"}, "text": "b\n\u00e9"} )"),
      "b\n\xC3\xA9");
  EXPECT_EQ(text_of("meta.text", R"({"text": "no", "meta": {"a": {"text": "no"}, "text": "c"}})"),
            "c");
  EXPECT_EQ(text_of("text", R"({"text": ""})"), "");
  EXPECT_EQ(text_of("text", R"({"a": 1, "a": 2, "text": "nul \u0000"})"), std::string("nul \0", 5));
}

TEST(JsonField, SaysWhyThereIsNone) {
  EXPECT_EQ(problem_of("text", R"({"texts": "a"})"), "no field text");
  EXPECT_EQ(problem_of("text", R"({"Text": {"text": "a"}})"), "no field text");
  EXPECT_EQ(problem_of("text", R"(["text", "a"])"), "no field text");
  EXPECT_EQ(problem_of("text", R"("text")"), "no field text");
  EXPECT_EQ(problem_of("meta.text", R"({"meta": "a", "text": "b"})"), "no field meta.text");
  EXPECT_EQ(problem_of("a\n\x1b[31m", R"({"text": "a"})"), "no field a\\n\\x1b[31m");
  EXPECT_EQ(problem_of("text", R"({"text": null})"), "text is not a string");
  EXPECT_EQ(problem_of("text", R"({"text": ["a"]})"), "text is not a string");
  EXPECT_EQ(problem_of("text", R"({"text": 1})"), "text is not a string");
  EXPECT_EQ(problem_of("text", R"({"text": "a", "text": "b"})"), "text is there twice");
}

TEST(JsonField, RefusesWhatIsNotOneJsonValue) {
  EXPECT_EQ(problem_of("text", R"({"text": "a"} x)"),
            "not valid JSON at column 15: parsing value - invalid literal");
  EXPECT_EQ(problem_of("text", R"({"text": "a")"),
            "not valid JSON at column 13: parsing object - unexpected end of input; expected '}'");
  EXPECT_EQ(problem_of("text", "{\"text\": \"\xFF\"}"),
            "not valid JSON at column 11: parsing value - invalid string: ill-formed UTF-8 byte");
  EXPECT_EQ(problem_of("text", std::string("{\"text\": \"a\"}\0", 14)),
            "not valid JSON at column 14: a NUL byte");
  EXPECT_EQ(problem_of("text", std::string(100'000, '[')), "nested deeper than 64 levels");
}

}  // namespace
}  // namespace thresher
