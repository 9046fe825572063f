// Each parser of untrusted bytes gets 20,000 damaged inputs (HDF5 tables 4,000: each starts child
// processes), the same on every machine. It must accept or refuse them: parsers.h says what else is
// a fault. A hang is caught by CTest's limit.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "core/files.h"
#include "tests/core/allocation_meter.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/parsers.h"

namespace thresher::fuzz {

void PrintTo(const Parser& parser, std::ostream* out) { *out << parser.name; }

namespace {

std::uint64_t inputs_of(const Parser& parser) {
  if (parser.name != "hdf5") return 20'000;
#if defined(__SANITIZE_ADDRESS__)
  return 400;  // a fork of so many mapped bytes takes long, and libhdf5 is not instrumented
#else
  return 4'000;
#endif
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::map<std::string, std::string> seeds_of(const Parser& parser) {
  std::map<std::string, std::string> seeds;
  const auto folder = std::filesystem::path(THRESHER_FUZZ_CORPUS) / parser.name;
  for (const auto& path : list_folder(folder)) {
    seeds.emplace(path.filename().string(), read_text_file(path));
  }
  return seeds;
}

class ParserTest : public ::testing::TestWithParam<Parser> {};

TEST_P(ParserTest, AcceptsItsGoodSeeds) {
  std::size_t n_good = 0;
  for (const auto& [name, bytes] : seeds_of(GetParam())) {
    if (!name.starts_with("good")) continue;
    ++n_good;
    EXPECT_NO_THROW(GetParam().parse(bytes_of(bytes))) << name;
  }
  EXPECT_GE(n_good, 1U);
}

TEST_P(ParserTest, DamagedInputsAreReadOrRefused) {
  std::vector<std::string> seeds;
  for (auto& [name, bytes] : seeds_of(GetParam())) seeds.push_back(bytes);
  ASSERT_FALSE(seeds.empty());
  std::uint64_t n_accepted = 0;
  for (std::uint64_t i = 0; i < inputs_of(GetParam()); ++i) {
    const std::string input = mutated(seeds, std::string(GetParam().name), i);
    testing::reset_largest_allocation();
    try {
      n_accepted += accepts(GetParam(), bytes_of(input)) ? 1 : 0;
    } catch (const std::exception& error) {
      FAIL() << "input " << i << ": " << error.what();
    }
    ASSERT_LE(testing::largest_allocation(), 2 * input.size() + (64U << 20)) << "input " << i;
  }
  RecordProperty("accepted", static_cast<int>(n_accepted));
  EXPECT_LT(n_accepted, inputs_of(GetParam()) * 9 / 10) << "the damage is not noticed";
}

std::string case_name(const ::testing::TestParamInfo<Parser>& test) {
  return std::string(test.param.name);
}

INSTANTIATE_TEST_SUITE_P(Mutations, ParserTest, ::testing::ValuesIn(parsers()), case_name);

TEST(MutateTest, InputsDependOnNothingButTheirNumber) {
  const std::vector<std::string> seeds{"{\"a\": [1, 22, 333]}", ""};
  EXPECT_EQ(mutated(seeds, "x", 40), mutated(seeds, "x", 40));
  EXPECT_NE(mutated(seeds, "x", 40), mutated(seeds, "x", 42));
  EXPECT_NE(mutated(seeds, "x", 40), mutated(seeds, "y", 40));
}

}  // namespace
}  // namespace thresher::fuzz
