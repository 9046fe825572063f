#include "activation_cache/own_activations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "tests/core/scratch_folder.h"

namespace thresher::activation_cache {
namespace {

using thresher::testing::first_line_of;
using thresher::testing::ScratchFolder;

/// Row i of tensor "x" is {i, i + 0.5} from `first` on; "doc" is i / 10.
void write_part(const std::filesystem::path& path, std::int64_t first, std::int64_t rows) {
  std::vector<float> x;
  std::vector<std::int64_t> documents;
  for (std::int64_t i = first; i < first + rows; ++i) {
    x.push_back(static_cast<float>(i));
    x.push_back(static_cast<float>(i) + 0.5F);
    documents.push_back(i / 10);
  }
  const std::vector<SafetensorsTensor> tensors = {
      {"x", "F32", {rows, 2}, std::as_bytes(std::span(x))},
      {"doc", "I64", {rows}, std::as_bytes(std::span(documents))}};
  write_safetensors(path, tensors);
}

OwnActivationsConfig config_of(const ScratchFolder& folder) {
  OwnActivationsConfig config;
  config.paths = {folder.path().string()};
  config.document_ids = "doc";
  config.held_out_fraction = 0.2;
  return config;
}

TEST(OwnActivationsTest, LaysFilesEndToEnd) {
  const ScratchFolder folder;
  write_part(folder / "b.safetensors", 30, 70);
  write_part(folder / "a.safetensors", 0, 30);
  const OwnActivations own(config_of(folder), {"h"});
  EXPECT_EQ(own.n_rows(), 100);
  EXPECT_EQ(own.hook_points()[0].d_in, 2);
  EXPECT_EQ(own.dtype(), Dtype::kFloat32);
  std::vector<float> rows(6);
  own.read(0, 29, rows);
  EXPECT_EQ(rows, (std::vector<float>{29, 29.5, 30, 30.5, 31, 31.5}));
  std::vector<std::int32_t> documents(3), tokens(3);
  own.read_documents(29, documents);
  EXPECT_EQ(documents, (std::vector<std::int32_t>{2, 3, 3}));
  own.read_token_ids(29, tokens);
  EXPECT_EQ(tokens, (std::vector<std::int32_t>{-1, -1, -1}));
  EXPECT_EQ(own.place(0, 29), (folder / "a.safetensors").string() + ": \"x\": row 29");
  EXPECT_EQ(own.place(0, 30), (folder / "b.safetensors").string() + ": \"x\": row 0");
}

TEST(OwnActivationsTest, HoldsOutWholeDocumentsWhereverTheyLie) {
  const ScratchFolder one, two;
  write_part(one / "a.safetensors", 0, 1000);
  write_part(two / "a.safetensors", 0, 333);
  write_part(two / "b.safetensors", 333, 667);
  const OwnActivations whole(config_of(one), {"h"}), cut(config_of(two), {"h"});
  const std::vector<std::int64_t> rows = whole.held_out_rows(1000);
  EXPECT_EQ(rows, cut.held_out_rows(1000));
  EXPECT_EQ(static_cast<std::int64_t>(rows.size()), whole.n_held_out());
  EXPECT_GT(rows.size(), 100U);
  EXPECT_LT(rows.size(), 300U);
  for (const std::int64_t row : rows) {
    EXPECT_TRUE(whole.is_held_out(static_cast<std::int32_t>(row / 10)));
    EXPECT_TRUE(std::binary_search(rows.begin(), rows.end(), row / 10 * 10 + 9));
  }
}

TEST(OwnActivationsTest, TakesMoreHeldOutRowsByAddingToTheFewer) {
  const ScratchFolder folder;
  write_part(folder / "a.safetensors", 0, 1000);
  const OwnActivations own(config_of(folder), {"h"});
  const std::vector<std::int64_t> few = own.held_out_rows(25), more = own.held_out_rows(60);
  EXPECT_EQ(few.size(), 25U);
  EXPECT_EQ(more.size(), 60U);
  EXPECT_TRUE(std::is_sorted(few.begin(), few.end()));
  EXPECT_TRUE(std::includes(more.begin(), more.end(), few.begin(), few.end()));
  std::set<std::int64_t> documents;
  for (const std::int64_t row : few) documents.insert(row / 10);
  EXPECT_EQ(documents.size(), 3U) << "whole documents, the last one cut";
}

TEST(OwnActivationsTest, KeepsOneDocumentForMeasuringAndRefusesToKeepAll) {
  const ScratchFolder folder;
  write_part(folder / "a.safetensors", 0, 40);
  OwnActivationsConfig config = config_of(folder);
  config.held_out_fraction = 1e-9;
  EXPECT_EQ(OwnActivations(config, {"h"}).n_held_out(), 10);
  config.document_ids.clear();
  EXPECT_EQ(first_line_of<ConfigError>([&] { OwnActivations(config, {"h"}); }),
            "activations.held_out_fraction: 1e-09 leaves no rows for training: all 40 stand in "
            "held-out blocks");
  config.held_out_fraction = 0;
  EXPECT_EQ(OwnActivations(config, {"h"}).n_held_out(), 0);
}

TEST(OwnActivationsTest, NamesHookPointsAfterDatasetsWhereThereAreSeveral) {
  OwnActivationsConfig config;
  EXPECT_EQ(default_hook_points(config), std::vector<std::string>{"activations"});
  config.datasets = {"layer/8", "a b"};
  EXPECT_EQ(default_hook_points(config), (std::vector<std::string>{"layer.8", "a.b"}));
}

}  // namespace
}  // namespace thresher::activation_cache
