#include "core/safetensors_shards.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/files.h"
#include "tests/core/scratch_folder.h"

namespace thresher {
namespace {

using testing::first_line_of;
using testing::ScratchFolder;

constexpr const char* kIndex = "model.safetensors.index.json";

void write_shard(const std::filesystem::path& path, const std::vector<std::string>& names) {
  const std::vector<float> values{1, 2, 3};
  std::vector<SafetensorsTensor> tensors;
  for (const std::string& name : names) {
    tensors.push_back({name, "F32", {3}, std::as_bytes(std::span(values))});
  }
  write_safetensors(path, tensors);
}

/// Shards one.safetensors (a, b) and two.safetensors (c) with an index of the given weight_map.
struct TwoShards {
  explicit TwoShards(const std::string& weight_map) {
    write_shard(folder / "one.safetensors", {"a", "b"});
    write_shard(folder / "two.safetensors", {"c"});
    write_file_atomically(folder / kIndex, "{\"metadata\":{},\"weight_map\":" + weight_map + "}");
  }
  /// The first line of the error on opening, after the folder's name.
  template <class Expected>
  std::string problem() const {
    const std::string line =
        first_line_of<Expected>([&] { SafetensorsShards shards(folder.path()); });
    const std::string start = folder.path().string() + "/";
    return line.starts_with(start) ? line.substr(start.size()) : line;
  }
  ScratchFolder folder;
};

TEST(SafetensorsShards, FindsEveryTensorInItsShard) {
  const TwoShards files(R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"})");
  const SafetensorsShards shards(files.folder.path());
  EXPECT_EQ(shards.names(), (std::vector<std::string>{"a", "b", "c"}));
  ASSERT_NE(shards.find("c").entry, nullptr);
  EXPECT_EQ(shards.find("c").file->path(), files.folder / "two.safetensors");
  std::vector<float> values(2);
  shards.find("c").file->read_part(*shards.find("c").entry, 4,
                                   std::as_writable_bytes(std::span(values)));
  EXPECT_EQ(values, (std::vector<float>{2, 3}));
  EXPECT_EQ(shards.find("d").entry, nullptr);
  EXPECT_EQ(shards.files(), (std::vector<std::filesystem::path>{files.folder / kIndex,
                                                                files.folder / "one.safetensors",
                                                                files.folder / "two.safetensors"}));
}

TEST(SafetensorsShards, TakesASingleFileBeforeAnIndex) {
  const TwoShards files(R"({"a":"gone.safetensors"})");
  write_shard(files.folder / "model.safetensors", {"x"});
  const SafetensorsShards shards(files.folder.path());
  EXPECT_EQ(shards.names(), std::vector<std::string>{"x"});
  EXPECT_EQ(shards.files().size(), 1U);
}

TEST(SafetensorsShards, RefusesShardsThatAreNoPlainFileNames) {
  EXPECT_EQ(TwoShards(R"({"a":"../one.safetensors"})").problem<DataError>(),
            "model.safetensors.index.json: tensor \"a\" is said to be in \"../one.safetensors\"");
  EXPECT_EQ(TwoShards(R"({"a":"/etc/one.safetensors"})").problem<DataError>(),
            "model.safetensors.index.json: tensor \"a\" is said to be in \"/etc/one.safetensors\"");
  EXPECT_EQ(TwoShards(R"({"a":"sub/one.safetensors"})").problem<DataError>(),
            "model.safetensors.index.json: tensor \"a\" is said to be in \"sub/one.safetensors\"");
  EXPECT_EQ(TwoShards(R"({"a":"config.json"})").problem<DataError>(),
            "model.safetensors.index.json: tensor \"a\" is said to be in \"config.json\"");
  EXPECT_EQ(TwoShards(R"({"a":"one\u0000.safetensors"})").problem<DataError>(),
            "model.safetensors.index.json: tensor \"a\" is said to be in "
            "\"one\\u0000.safetensors\"");
  EXPECT_EQ(TwoShards(R"({"\u001b[31m":7})").problem<DataError>(),
            "model.safetensors.index.json: tensor \"\\u001b[31m\" is said to be in something else "
            "than a file");
}

TEST(SafetensorsShards, RefusesAnIndexThatDoesNotFitItsShards) {
  EXPECT_EQ(TwoShards(R"({"a":"one.safetensors","b":"one.safetensors","c":"three.safetensors"})")
                .problem<DataError>(),
            "model.safetensors.index.json: shard \"three.safetensors\" is missing");
  EXPECT_EQ(TwoShards(R"({"a":"one.safetensors","b":"one.safetensors","d":"two.safetensors"})")
                .problem<DataError>(),
            "two.safetensors: tensor \"c\" is not placed here by model.safetensors.index.json");
  EXPECT_EQ(TwoShards(R"({"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors",)"
                      R"("d":"two.safetensors"})")
                .problem<DataError>(),
            "model.safetensors.index.json: tensor \"d\" is not in \"two.safetensors\"");
  EXPECT_EQ(TwoShards(R"({"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"})")
                .problem<DataError>(),
            "one.safetensors: tensor \"b\" is not placed here by model.safetensors.index.json");
  EXPECT_EQ(TwoShards(R"({"a":"one.safetensors","a":"two.safetensors"})").problem<DataError>(),
            "model.safetensors.index.json: duplicate key \"a\"");
}

TEST(SafetensorsShards, RefusesAnIndexWithoutAWeightMap) {
  const TwoShards files("[]");
  EXPECT_EQ(files.problem<DataError>(), "model.safetensors.index.json: weight_map is missing");
  write_file_atomically(files.folder / kIndex, std::string("[]"));
  EXPECT_EQ(files.problem<DataError>(), "model.safetensors.index.json: weight_map is missing");
}

TEST(SafetensorsShards, SaysWhatAFolderWithoutWeightsLacks) {
  const ScratchFolder folder;
  EXPECT_EQ(first_line_of<ConfigError>([&] { SafetensorsShards shards(folder.path()); }),
            folder.path().string() +
                ": there is neither model.safetensors nor model.safetensors.index.json");
}

}  // namespace
}  // namespace thresher
