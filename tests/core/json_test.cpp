#include "core/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "core/error.h"
#include "core/utf8.h"
#include "tests/core/scratch_folder.h"

namespace thresher {
namespace {

using testing::first_line_of;

std::string parse_error_of(std::string_view text) {
  return first_line_of<DataError>([&] { Json::parse(text, "f.json"); });
}

TEST(JsonTest, NeverTurnsANegativeIntoAnUnsigned) {
  const Json value = Json::parse("-1", "f");
  EXPECT_EQ(value.as_int(), -1);
  EXPECT_EQ(first_line_of<DataError>([&] { (void)value.as_uint("rows"); }),
            "rows: expected an integer of at least 0, found -1");
}

TEST(JsonTest, NeverTurnsAFractionIntoAnInteger) {
  const Json value = Json::parse("1.9", "f");
  EXPECT_EQ(first_line_of<DataError>([&] { (void)value.as_int("rows"); }),
            "rows: expected an integer, found 1.9");
  EXPECT_EQ(first_line_of<DataError>([&] { (void)Json::parse("1.0", "f").as_uint("rows"); }),
            "rows: expected an integer of at least 0, found 1.0");
  EXPECT_EQ(value.as_double(), 1.9);
}

TEST(JsonTest, KeepsEveryIntegerOf64BitsAndRefusesLargerOnes) {
  EXPECT_EQ(Json::parse("18446744073709551615", "f").as_uint(), 18446744073709551615ULL);
  EXPECT_EQ(Json::parse("-9223372036854775808", "f").as_int(),
            std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(first_line_of<DataError>(
                [] { (void)Json::parse("9223372036854775808", "f").as_int("rows"); }),
            "rows: expected an integer below 2^63, found 9223372036854775808");
  EXPECT_EQ(first_line_of<DataError>(
                [] { (void)Json::parse("18446744073709551616", "f").as_uint("rows"); }),
            "rows: expected an integer of at least 0, found 18446744073709551616.0");
  EXPECT_EQ(Json(std::uint64_t{7}), Json(std::int64_t{7}));
  EXPECT_EQ(Json(std::uint64_t{1} << 63U).dump(), "9223372036854775808");
}

TEST(JsonTest, RefusesDuplicateKeysAtEveryDepth) {
  EXPECT_EQ(parse_error_of(R"({"a":1,"a":2})"), "f.json: duplicate key \"a\"");
  EXPECT_EQ(parse_error_of(R"({"x":[{"b":1,"\u0062":2}]})"), "f.json: duplicate key \"b\"");
  EXPECT_NO_THROW(Json::parse(R"([{"a":1},{"a":{"a":2}}])", "f"));
}

TEST(JsonTest, RefusesDeepNestingOfAnyLength) {
  EXPECT_EQ(parse_error_of(std::string(1'000'000, '[')),
            "f.json: JSON is nested deeper than 64 levels");
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_NO_THROW(Json::parse(nested(64), "f"));
  EXPECT_THROW(Json::parse(nested(65), "f"), DataError);
  EXPECT_THROW(Json::parse(R"({"a":{"b":{}}})", "f", 2), DataError);
}

TEST(JsonTest, RefusesInvalidUtf8) {
  EXPECT_EQ(parse_error_of("[\"\xC3\x28\"]"),
            "f.json: not valid JSON at line 1, column 4: parsing value - invalid string: "
            "ill-formed UTF-8 byte");
  EXPECT_NE(parse_error_of("\"\xED\xA0\x80\""), "no error");  // a surrogate
  EXPECT_NE(parse_error_of("\"\xC0\x80\""), "no error");      // an overlong NUL
}

TEST(JsonTest, SaysLineAndColumnOfASyntaxError) {
  EXPECT_EQ(parse_error_of("{\n  \"a\": 1,\n  b\n}"),
            "f.json: not valid JSON at line 3, column 3: parsing object key - invalid literal");
  EXPECT_EQ(parse_error_of(""),
            "f.json: not valid JSON at line 1, column 1: parsing value - unexpected end of input; "
            "expected '[', '{', or a literal");
  EXPECT_EQ(parse_error_of(std::string_view("{}\n\0{}", 6)),
            "f.json: not valid JSON at line 2, column 1: a NUL byte");
  EXPECT_NE(parse_error_of("{} x"), "no error");
  EXPECT_NE(parse_error_of("[1,]"), "no error");
  EXPECT_NE(parse_error_of("NaN"), "no error");
  EXPECT_NE(parse_error_of("1e999"), "no error");
  EXPECT_NE(parse_error_of("// c\n1"), "no error");
}

TEST(JsonTest, WritesDoublesShortAndKeepsThemDoubles) {
  EXPECT_EQ(Json(1.0).dump(), "1.0");
  EXPECT_EQ(Json(0.1).dump(), "0.1");
  EXPECT_EQ(Json(-0.0).dump(), "-0.0");
  EXPECT_EQ(Json(1e300).dump(), "1e+300");
  EXPECT_EQ(Json(1e20).dump(), "1e+20");
  EXPECT_EQ(Json(std::nan("")).dump(), "null");
  EXPECT_EQ(Json(-std::numeric_limits<double>::infinity()).dump(), "null");
  EXPECT_EQ(Json(1).dump(), "1");
  EXPECT_FALSE(Json(1.0) == Json(1));
}

TEST(JsonTest, EveryDoubleSurvivesTextBitForBit) {
  std::mt19937_64 bits(1);
  for (int i = 0; i < 20'000; ++i) {
    const std::uint64_t word = bits();
    double value = 0;
    static_assert(sizeof(value) == sizeof(word));
    std::memcpy(&value, &word, sizeof(value));
    if (!std::isfinite(value)) continue;
    const Json back = Json::parse(Json(value).dump(), "f");
    ASSERT_FALSE(back.is_integer());
    const double read = back.as_double();
    ASSERT_EQ(std::memcmp(&read, &value, sizeof(value)), 0) << Json(value).dump();
  }
}

TEST(JsonTest, EscapesWhatMustNotStandInAString) {
  EXPECT_EQ(Json("a\"b\\c\n\t\r\x01\x7F/").dump(), R"("a\"b\\c\n\t\r\u0001\u007f/")");
  EXPECT_EQ(Json("\xC3\xA9\xF0\x9F\x98\x80").dump(), "\"\xC3\xA9\xF0\x9F\x98\x80\"");
  EXPECT_EQ(Json("a\xFF\xC3").dump(), R"("a\ufffd\ufffd")");
  EXPECT_EQ(Json(std::string("\0", 1)).dump(), R"("\u0000")");
  EXPECT_EQ(Json::parse(R"("\ud83d\ude00\u0000")", "f").as_string(),
            std::string("\xF0\x9F\x98\x80\0", 5));
}

TEST(JsonTest, WritesObjectsInTheOrderOfInsertion) {
  Json value = Json::object({{"z", 1}, {"a", Json::array({true, nullptr, "x"})}});
  value["m"] = 2.5;
  value["z"] = Json::object();
  EXPECT_EQ(value.dump(), R"({"z":{},"a":[true,null,"x"],"m":2.5})");
  EXPECT_EQ(value.dump(2),
            "{\n  \"z\": {},\n  \"a\": [\n    true,\n    null,\n    \"x\"\n  ],\n  \"m\": 2.5\n}");
  EXPECT_EQ(Json::parse(value.dump(2), "f"), value);
  EXPECT_EQ(Json::array_of(std::vector<std::int64_t>{1, 2}).dump(), "[1,2]");
}

TEST(JsonTest, NamesTheMissingKeyAndTheWrongKind) {
  const Json value = Json::object({{"a", 1}});
  EXPECT_EQ(first_line_of<DataError>([&] { (void)value.at("rows"); }), "key \"rows\" is missing");
  EXPECT_EQ(value.find("rows"), nullptr);
  EXPECT_EQ(first_line_of<DataError>([&] { (void)value.at("a").as_string("unit"); }),
            "unit: expected a string, found 1");
  EXPECT_EQ(first_line_of<DataError>([&] { (void)Json(std::string(100, 'x')).as_bool("on"); }),
            "on: expected true or false, found \"" + std::string(59, 'x') + "...");
}

TEST(FirstDifferenceTest, NamesThePathAndBothValues) {
  const auto parse = [](const char* text) { return Json::parse(text, "f"); };
  const Json base = parse(R"({"train":{"batch_tokens":512,"rate":1.0},"sae":[{"k":16},{"k":32}]})");
  const auto difference = [&](const char* other) { return first_difference(base, parse(other)); };
  EXPECT_EQ(first_difference(base, base), "");
  EXPECT_EQ(difference(R"({"train":{"batch_tokens":1024,"rate":1.0},"sae":[{"k":16},{"k":32}]})"),
            "train.batch_tokens: 512, 1024");
  EXPECT_EQ(difference(R"({"train":{"batch_tokens":512,"rate":1.0},"sae":[{"k":16},{"k":8}]})"),
            "sae[1].k: 32, 8");
  EXPECT_EQ(difference(R"({"train":{"batch_tokens":512,"rate":1.0},"sae":[{"k":16}]})"),
            "sae[1]: {\"k\":32}, absent");
  EXPECT_EQ(difference(R"({"train":{"batch_tokens":512},"sae":[{"k":16},{"k":32}]})"),
            "train.rate: 1.0, absent");
  EXPECT_EQ(
      difference(R"({"train":{"batch_tokens":512,"rate":1.0},"sae":[{"k":16},{"k":32}],"x":null})"),
      "x: absent, null");
  EXPECT_EQ(difference(R"({"train":{"batch_tokens":512,"rate":1},"sae":[{"k":16},{"k":32}]})"),
            "train.rate: 1.0, 1");
  EXPECT_EQ(difference(R"({"sae":[{"k":16},{"k":32}],"train":{"rate":1.0,"batch_tokens":512}})"),
            "");
  EXPECT_EQ(first_difference(Json(1), Json("a")), "(whole): 1, \"a\"");
}

TEST(JsonTest, MutatedDocumentsAreReadOrRefusedNothingElse) {
  const std::string seed =
      R"({"schema":1,"units":[{"rows":12,"crc":[1,2,3],"x":-1.5e3}],"s":"\u00e9\n","t":true})";
  std::mt19937_64 random(7);
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text = seed;
    for (std::uint64_t edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 4);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), 1 + random() % 8));
      }
      if (text.empty()) text = "x";
    }
    try {
      const Json value = Json::parse(text, "f");
      ASSERT_EQ(first_difference(Json::parse(value.dump(), "f"), value), "") << text;
    } catch (const DataError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 10'000);
}

TEST(Utf8Test, KnowsWhereSequencesEnd) {
  EXPECT_EQ(utf8_sequence_length("a", 0), 1U);
  EXPECT_EQ(utf8_sequence_length("\xC3\xA9", 0), 2U);
  EXPECT_EQ(utf8_sequence_length("\xE2\x82\xAC", 0), 3U);
  EXPECT_EQ(utf8_sequence_length("\xF0\x9F\x98\x80", 0), 4U);
  EXPECT_EQ(utf8_sequence_length("\xF4\x8F\xBF\xBF", 0), 4U);
  for (const char* bad : {"\x80", "\xC3", "\xC1\x80", "\xE0\x9F\x80", "\xED\xA0\x80",
                          "\xF0\x8F\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xE2\x82"}) {
    EXPECT_EQ(utf8_sequence_length(bad, 0), 0U);
  }
}

}  // namespace
}  // namespace thresher
