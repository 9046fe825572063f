#include "core/safetensors.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <limits>
#include <random>

#include "core/error.h"
#include "core/files.h"
#include "tests/core/allocation_meter.h"
#include "tests/core/scratch_folder.h"

namespace thresher {
namespace {

using testing::first_line_of;
using testing::ScratchFolder;

std::string with_length(std::uint64_t length, const std::string& rest) {
  std::string head(8, '\0');
  std::memcpy(head.data(), &length, 8);
  return head + rest;
}

/// A whole file: the header's length, the header, `data_bytes` bytes of data.
std::string file_of(const std::string& header, std::size_t data_bytes) {
  return with_length(header.size(), header + std::string(data_bytes, 'd'));
}

std::vector<SafetensorsEntry> parse(const std::string& file) {
  const std::span chars(file.data(), file.size());
  return SafetensorsFile::parse_header(std::as_bytes(chars), file.size(), "m.safetensors", nullptr);
}

std::string problem_of(const std::string& file) {
  return first_line_of<DataError>([&] { parse(file); });
}

std::string tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

struct MalformedCase {
  const char* name;
  std::string file;
  const char* problem;
};

std::vector<MalformedCase> malformed_cases() {
  const std::string good = "{" + tensor("a", "F32", "[2]", "[0,8]") + "}";
  const std::string attack =
      "{" + tensor("a", "F32", "[2]", "[0,8]") + "," + tensor("b", "F32", "[2]", "[0,8]") + "}";
  return {
      {"HeaderTooLarge", with_length(100'000'001, good),
       "m.safetensors: at byte 8: the header claims 100000001 bytes"},
      {"HeaderTooSmall", "abc",
       "m.safetensors: at byte 0: the header's length needs 8 bytes, 3 are left"},
      {"InvalidLength", with_length(60, "{}"),
       "m.safetensors: at byte 8: the header claims 60 bytes, the file has 10"},
      {"LengthOfAllOnes", with_length(~0ULL, "{}"),
       "m.safetensors: at byte 8: the header claims 18446744073709551615 bytes"},
      {"NotUtf8", file_of("{\"\xFF\":1}", 0), "m.safetensors: header is not valid JSON at byte 10"},
      {"NotJson", file_of("{{}", 0), "m.safetensors: header is not valid JSON at byte 9"},
      {"EmptyHeader", file_of("", 0), "m.safetensors: the header does not start with '{'"},
      {"NotAnObject", file_of("[]", 0), "m.safetensors: the header does not start with '{'"},
      {"LeadingWhitespace", file_of(" " + good, 8),
       "m.safetensors: the header does not start with '{'"},
      {"TrailingBytesInHeader", file_of(good + "{}", 8),
       "m.safetensors: header is not valid JSON at byte 62"},
      {"NulAndMoreInHeader", file_of(good + std::string("\0{}", 3), 8),
       "m.safetensors: header is not valid JSON at byte 62"},
      {"IncompleteData", file_of(good, 7),
       "m.safetensors: the tensors end at byte 8 of 7 bytes of data"},
      {"DataAppended", file_of(good, 9),
       "m.safetensors: the tensors end at byte 8 of 9 bytes of data"},
      {"Overlap", file_of(attack, 8),
       "m.safetensors: tensor \"b\": data begins at byte 0, the data before it ends at byte 8: an "
       "overlap"},
      {"Hole", file_of("{" + tensor("a", "U8", "[1]", "[1,2]") + "}", 2),
       "m.safetensors: tensor \"a\": data begins at byte 1, the data before it ends at byte 0: a "
       "hole"},
      {"ShapeAndOffsetsDisagree", file_of("{" + tensor("a", "F32", "[3]", "[0,8]") + "}", 8),
       "m.safetensors: tensor \"a\": F32 [3] needs 12 bytes, data_offsets span 8"},
      {"ElementsOverflow",
       file_of("{" + tensor("a", "U8", "[4294967296,4294967296]", "[0,8]") + "}", 8),
       "m.safetensors: tensor \"a\": element count: 4294967296 x 4294967296 overflows"},
      {"BytesOverflow",
       file_of("{" + tensor("a", "F64", "[4611686018427387904]", "[0,8]") + "}", 8),
       "m.safetensors: tensor \"a\": byte count: 4611686018427387904 x 8 overflows"},
      {"SizeAbove63Bits",
       file_of("{" + tensor("a", "U8", "[9223372036854775808]", "[0,8]") + "}", 8),
       "m.safetensors: tensor \"a\": shape holds 9223372036854775808"},
      {"DuplicateTensor",
       file_of(
           "{" + tensor("a", "U8", "[1]", "[0,1]") + "," + tensor("a", "U8", "[1]", "[1,2]") + "}",
           2),
       "m.safetensors: duplicate tensor \"a\""},
      {"DuplicateField",
       file_of(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
       "m.safetensors: tensor \"a\": duplicate key \"dtype\""},
      {"DuplicateMetadata", file_of(R"({"__metadata__":{},"__metadata__":{}})", 0),
       "m.safetensors: duplicate key \"__metadata__\""},
      {"DuplicateMetadataKey", file_of(R"({"__metadata__":{"k":"1","k":"2"}})", 0),
       "m.safetensors: duplicate key \"k\""},
      {"MetadataNotText", file_of(R"({"__metadata__":{"k":1}})", 0),
       "m.safetensors: __metadata__ \"k\" is 1"},
      {"MetadataNested", file_of(R"({"__metadata__":{"k":{}}})", 0),
       "m.safetensors: __metadata__ \"k\" is an object"},
      {"UnknownField", file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", 1),
       "m.safetensors: tensor \"a\": unknown key \"x\""},
      {"MissingField", file_of(R"({"a":{"dtype":"U8","shape":[1]}})", 1),
       "m.safetensors: tensor \"a\": data_offsets are missing"},
      {"UnknownDtype", file_of("{" + tensor("a", "F7", "[1]", "[0,1]") + "}", 1),
       "m.safetensors: tensor \"a\": dtype \"F7\" is not known"},
      {"FloatInShape", file_of("{" + tensor("a", "U8", "[1.0]", "[0,1]") + "}", 1),
       "m.safetensors: tensor \"a\": shape holds 1.0"},
      {"NegativeInShape", file_of("{" + tensor("a", "U8", "[-1]", "[0,1]") + "}", 1),
       "m.safetensors: tensor \"a\": shape holds -1"},
      {"OffsetAbove64Bits",
       file_of("{" + tensor("a", "U8", "[1]", "[0,18446744073709551616]") + "}", 1),
       "m.safetensors: tensor \"a\": data_offsets holds 18446744073709551616"},
      {"TextInOffsets", file_of("{" + tensor("a", "U8", "[1]", "[0,\"1\"]") + "}", 1),
       "m.safetensors: tensor \"a\": data_offsets holds a string"},
      {"ThreeOffsets", file_of("{" + tensor("a", "U8", "[1]", "[0,1,2]") + "}", 1),
       "m.safetensors: tensor \"a\": data_offsets are [0, 1, 2]"},
      {"OffsetsBackwards", file_of("{" + tensor("a", "U8", "[1]", "[1,0]") + "}", 1),
       "m.safetensors: tensor \"a\": data_offsets are [1, 0]"},
      {"RankNine", file_of("{" + tensor("a", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") + "}", 1),
       "m.safetensors: tensor \"a\": shape has more than 8 numbers"},
      {"NestedShape", file_of("{" + tensor("a", "U8", "[[[[[1]]]]]", "[0,1]") + "}", 1),
       "m.safetensors: tensor \"a\": shape holds an array"},
      {"TensorIsANumber", file_of(R"({"a":1})", 0),
       "m.safetensors: tensor \"a\": header holds 1 where a tensor's object is due"},
      {"NameTooLong", file_of("{" + tensor(std::string(513, 'n'), "U8", "[0]", "[0,0]") + "}", 0),
       "m.safetensors: a tensor's name has 513 bytes"},
      {"NameWithEscapes", file_of("{" + tensor("\\u001b[2J", "U8", "[1]", "[0,2]") + "}", 2),
       "m.safetensors: tensor \"\\u001b[2J\": U8 [1] needs 1 bytes, data_offsets span 2"},
  };
}

class MalformedSafetensorsTest : public ::testing::TestWithParam<MalformedCase> {};

TEST_P(MalformedSafetensorsTest, IsRefusedWithItsOwnMessage) {
  EXPECT_EQ(problem_of(GetParam().file), GetParam().problem);
}

std::string case_name(const ::testing::TestParamInfo<MalformedCase>& test) {
  return test.param.name;
}

INSTANTIATE_TEST_SUITE_P(EveryClass, MalformedSafetensorsTest,
                         ::testing::ValuesIn(malformed_cases()), case_name);

TEST(SafetensorsHeaderTest, AcceptsTheCornersOfTheFormat) {
  EXPECT_TRUE(parse(file_of("{}", 0)).empty());
  EXPECT_TRUE(parse(file_of("{}      ", 0)).empty());
  const auto entries =
      parse(file_of("{" + tensor("z", "F16", "[]", "[3,5]") + "," +
                        tensor("empty", "F32", "[0,4611686018427387904]", "[3,3]") + "," +
                        tensor("first", "U8", "[3]", "[0,3]") + "}",
                    5));
  ASSERT_EQ(entries.size(), 3U);
  EXPECT_EQ(entries[0].name, "first");
  EXPECT_EQ(entries[1].name, "empty");
  EXPECT_EQ(entries[2].name, "z");
  EXPECT_TRUE(entries[2].shape.empty());
}

TEST(SafetensorsHeaderTest, MoreThanAMillionTensorsAreRefused) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "a million tensors take half a minute under AddressSanitizer";
#endif
  std::string header = "{";
  for (int i = 0; i <= 1'000'000; ++i) {
    header += "\"" + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)";
  }
  header.back() = '}';
  EXPECT_EQ(problem_of(file_of(header, 0)),
            "m.safetensors: header names more than 1000000 tensors");
}

/// One to four edits: a byte, a run copied from elsewhere, a run removed, a number replaced by a
/// telling one.
std::string mutated(std::string text, std::mt19937_64& random) {
  constexpr std::array<const char*, 8> kNumbers{"0",   "-1",         "1.5", "18446744073709551615",
                                                "1e9", "4294967296", "[",   "\"x\""};
  for (std::uint64_t edits = 1 + random() % 4; edits > 0; --edits) {
    const std::size_t at = random() % text.size();
    switch (random() % 5) {
      case 0:
        text[at] = static_cast<char>(random());
        break;
      case 1:
        text.insert(at, text.substr(random() % text.size(), 1 + random() % 40));
        break;
      case 2:
        text.erase(at, 1 + random() % 12);
        break;
      case 3:
        text[at] = "{}[]\",:0123456789"[random() % 17];
        break;
      default:
        if (const auto digit = text.find_first_of("0123456789", at); digit != std::string::npos) {
          text.replace(digit, 1, kNumbers[random() % kNumbers.size()]);
        }
    }
    if (text.empty()) text = "{";
  }
  return text;
}

TEST(SafetensorsHeaderTest, MutatedHeadersAreReadOrRefusedNothingElse) {
  const std::string seed = "{\"__metadata__\":{\"format\":\"pt\"}," +
                           tensor("W_enc", "F32", "[4,8]", "[0,128]") + "," +
                           tensor("b_enc", "BF16", "[8]", "[128,144]") + "," +
                           tensor("n", "I64", "[]", "[144,152]") + "}";
  ASSERT_EQ(parse(file_of(seed, 152)).size(), 3U);
  std::mt19937_64 random(2024);
  int accepted = 0;
  testing::reset_largest_allocation();
  for (int i = 0; i < 25'000; ++i) {
    const std::string header = mutated(seed, random);
    const bool is_length_wrong = random() % 8 == 0;
    const std::uint64_t length = is_length_wrong ? random() >> (random() % 64) : header.size();
    const std::string file = with_length(length, header + std::string(152, 'd'));
    try {
      std::uint64_t data_bytes = 0;
      for (const auto& entry : parse(file)) data_bytes += entry.end - entry.begin;
      ASSERT_LE(data_bytes, file.size());
      ++accepted;
    } catch (const DataError& error) {
      ASSERT_TRUE(error.first_line().starts_with("m.safetensors: ")) << error.what();
    }
  }
  EXPECT_GT(accepted, 10);
  EXPECT_LT(accepted, 5'000);
  EXPECT_LT(testing::largest_allocation(), 64U << 10U);
}

std::vector<SafetensorsTensor> two_tensors(const std::vector<float>& floats,
                                           const std::vector<std::int64_t>& integers) {
  return {{"W", "F32", {2, 3}, std::as_bytes(std::span(floats))},
          {"steps", "I64", {1}, std::as_bytes(std::span(integers))}};
}

TEST(SafetensorsFileTest, ReadsWhatItWrote) {
  const ScratchFolder folder;
  const std::vector<float> floats{1, -2, 3.5, 0, std::numeric_limits<float>::infinity(), 6};
  const std::vector<std::int64_t> integers{1LL << 40};
  const std::map<std::string, std::string> metadata{{"b", "2"}, {"a", "\"quoted\"\n"}};
  write_safetensors(folder / "m", two_tensors(floats, integers), metadata);
  const SafetensorsFile file(folder / "m");
  ASSERT_EQ(file.entries().size(), 2U);
  EXPECT_EQ(file.metadata(), metadata);
  EXPECT_EQ(file.at("W").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(file.read_float32("W"), floats);
  std::vector<std::int64_t> steps(1);
  file.read(file.at("steps"), std::as_writable_bytes(std::span(steps)));
  EXPECT_EQ(steps, integers);
  EXPECT_EQ(file.find("V"), nullptr);
  const std::string where = (folder / "m").string();
  EXPECT_EQ(first_line_of<DataError>([&] { (void)file.at("V"); }),
            where + ": tensor \"V\" is missing");
  EXPECT_EQ(first_line_of<DataError>([&] { (void)file.read_float32("steps"); }),
            where + ": tensor \"steps\" is I64");
}

TEST(SafetensorsFileTest, ItsBytesAreFixed) {
  const ScratchFolder folder;
  const std::vector<float> floats{0, 0, 0, 0, 0, 0};
  const std::vector<std::int64_t> integers{0};
  write_safetensors(folder / "m", two_tensors(floats, integers), {{"b", "2"}, {"a", "1"}});
  const std::string header =
      R"({"__metadata__":{"a":"1","b":"2"},"W":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("steps":{"dtype":"I64","shape":[1],"data_offsets":[24,32]}}   )";
  ASSERT_EQ(header.size() % 8, 0U);
  EXPECT_EQ(read_text_file(folder / "m"),
            with_length(header.size(), header + std::string(32, '\0')));
  write_safetensors_atomically(folder / "n", two_tensors(floats, integers),
                               {{"a", "1"}, {"b", "2"}});
  EXPECT_EQ(read_text_file(folder / "n"), read_text_file(folder / "m"));
}

TEST(SafetensorsFileTest, WidensHalvesToFloat32) {
  const ScratchFolder folder;
  const std::vector<std::uint16_t> half{0x3C00, 0xC000};
  const std::vector<std::uint16_t> brain{0x3F80, 0xC000};
  const std::vector<SafetensorsTensor> tensors{
      {"half", "F16", {2}, std::as_bytes(std::span(half))},
      {"brain", "BF16", {2}, std::as_bytes(std::span(brain))}};
  write_safetensors(folder / "m", tensors);
  const SafetensorsFile file(folder / "m");
  EXPECT_EQ(file.read_float32("half"), (std::vector<float>{1, -2}));
  EXPECT_EQ(file.read_float32("brain"), (std::vector<float>{1, -2}));
}

TEST(SafetensorsFileTest, RefusesToWriteWhatItWouldNotRead) {
  const ScratchFolder folder;
  const std::vector<std::byte> bytes(8);
  const auto write = [&](const std::vector<SafetensorsTensor>& tensors) {
    write_safetensors_atomically(folder / "m", tensors);
  };
  EXPECT_THROW(write({{"a", "F32", {3}, bytes}}), InternalError);
  EXPECT_THROW(write({{"a", "F32", {-2}, bytes}}), InternalError);
  EXPECT_THROW(write({{"a", "F7", {2}, bytes}}), DataError);
  EXPECT_THROW(write({{"a", "F32", {2}, bytes}, {"a", "F32", {2}, bytes}}), DataError);
  EXPECT_TRUE(list_folder(folder.path()).empty());
}

TEST(SafetensorsFileTest, FilesOnDiskAreCheckedLikeHeaders) {
  const ScratchFolder folder;
  const std::string where = (folder / "m").string();
  write_file_atomically(folder / "m", std::string());
  EXPECT_EQ(first_line_of<DataError>([&] { SafetensorsFile(folder / "m"); }),
            where + ": at byte 0: the header's length needs 8 bytes, 0 are left");
  write_file_atomically(folder / "m", with_length(~0ULL, "{}"));
  EXPECT_EQ(first_line_of<DataError>([&] { SafetensorsFile(folder / "m"); }),
            where + ": at byte 8: the header claims 18446744073709551615 bytes");
  write_file_atomically(folder / "m", with_length(1000, "{}"));
  EXPECT_EQ(first_line_of<DataError>([&] { SafetensorsFile(folder / "m"); }),
            where + ": at byte 8: the header claims 1000 bytes, the file has 10");
  const SafetensorsFile moved = [&] {
    write_file_atomically(folder / "m", file_of("{" + tensor("a", "U8", "[2]", "[0,2]") + "}", 2));
    return SafetensorsFile(folder / "m");
  }();
  std::filesystem::resize_file(folder / "m", 60);
  std::vector<std::byte> out(2);
  EXPECT_THROW(moved.read(moved.at("a"), out), DataError);
}

}  // namespace
}  // namespace thresher
