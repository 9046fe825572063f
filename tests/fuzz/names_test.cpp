// Names that files give of other files: none may lead out of the folder, look like an option, or
// act on a terminal.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "activation_cache/manifest.h"
#include "core/error.h"
#include "core/files.h"
#include "core/inside_folder.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "core/safetensors_shards.h"
#include "tests/core/scratch_folder.h"
#include "tests/fuzz/sample_cache.h"
#include "trainer/checkpoint_format.h"

namespace thresher::fuzz {
namespace {

using testing::first_line_of;
using testing::ScratchFolder;

const std::vector<std::string>& hostile_names() {
  static const std::vector<std::string> names = {
      "/etc/passwd",
      "/m.safetensors",
      "a/m.safetensors",
      "../m.safetensors",
      "..",
      ".",
      "",
      "a/../../m.safetensors",
      "./m.safetensors",
      ".hidden.safetensors",
      "-m.safetensors",
      "--help.safetensors",
      std::string("m\0.safetensors", 14),
      "m\n.safetensors",
      "m\r.safetensors",
      "\x1B[2J.safetensors",
      "m\x7F.safetensors",
      "m .safetensors",
      "a\\m.safetensors",
      "~.safetensors",
      "$HOME.safetensors",
      "m*.safetensors",
      "m\xE2\x80\xAE.safetensors",
      "C:m.safetensors",
      std::string(129, 'm') + ".safetensors",
  };
  return names;
}

bool has_control(const std::string& text) {
  return text.find_first_of(std::string_view("\0\r\x1B\x7F", 4)) != std::string::npos;
}

TEST(HostileNamesTest, NoIndexMayNameThem) {
  for (const std::string& name : hostile_names()) {
    const Json index = Json::object({{"weight_map", Json::object({{"w", name}})}});
    const std::string line =
        first_line_of<DataError>([&] { parse_safetensors_index(index.dump(), "index"); });
    EXPECT_TRUE(line.starts_with("index: tensor \"w\" is said to be in ")) << line;
    EXPECT_FALSE(has_control(line)) << line;
  }
}

TEST(HostileNamesTest, NoCheckpointMayNameThem) {
  for (const std::string& name : hostile_names()) {
    const Json files = Json::array(
        {Json::object({{"name", name}, {"bytes", 1}, {"sha256", std::string(64, '0')}})});
    const Json commit =
        Json::object({{"format", 1}, {"files", files}, {"sha256", trainer::commit_hash(files)}});
    const std::string line =
        first_line_of<DataError>([&] { trainer::parse_commit(commit.dump(), "COMMIT"); });
    // What only ends badly for an index is checked by its name's characters here.
    EXPECT_EQ(line, "COMMIT: names an unsafe file") << name;
  }
}

TEST(HostileNamesTest, NoManifestMayNameThem) {
  const activation_cache::CacheIdentity identity = sample_identity();
  for (const std::string& name : hostile_names()) {
    const Json record = Json::object({{"unit", 0}, {"file", name}});
    const std::string line = first_line_of<DataError>(
        [&] { activation_cache::UnitRecord::from_json(record, identity, "MANIFEST.json"); });
    EXPECT_TRUE(line.starts_with("MANIFEST.json: unit 0 in file ")) << line;
    EXPECT_FALSE(has_control(line)) << line;
  }
}

void write_model(const std::filesystem::path& path) {
  const std::vector<float> values{1, 2};
  const std::vector<SafetensorsTensor> tensors{{"w", "F32", {2}, std::as_bytes(std::span(values))}};
  make_folders(path.parent_path());
  write_safetensors(path, tensors);
}

/// What opening FOLDER/model says, with FOLDER/model/m.safetensors linked to `target`.
std::string verdict(const ScratchFolder& folder, const std::string& model,
                    const std::filesystem::path& target) {
  make_folders(folder / model);
  const auto link = folder / model / "m.safetensors";
  std::filesystem::remove(link);
  std::filesystem::create_symlink(target, link);
  write_file_atomically(folder / model / "model.safetensors.index.json",
                        R"({"weight_map":{"w":"m.safetensors"}})");
  const std::string line =
      first_line_of<DataError>([&] { SafetensorsShards shards(folder / model); });
  const std::string start = link.string() + ": ";
  return line.starts_with(start) ? line.substr(start.size()) : line;
}

TEST(HostileNamesTest, LinksOutOfTheFolderAreRefused) {
  const ScratchFolder folder;
  write_model(folder / "outside/m.safetensors");
  write_model(folder / "model/inside/m.safetensors");
  write_model(folder / "hub/blobs/0123");
  write_model(folder / "model-2/m.safetensors");
  const std::string refused = "is a link that leads out of its folder";
  EXPECT_EQ(verdict(folder, "model", folder / "outside/m.safetensors"), refused);
  EXPECT_EQ(verdict(folder, "model", "../outside/m.safetensors"), refused);
  EXPECT_EQ(verdict(folder, "model", "/etc/passwd"), refused);
  EXPECT_EQ(verdict(folder, "model", "../model-2/m.safetensors"), refused);
  std::filesystem::create_symlink(folder / "outside/m.safetensors", folder / "model/step");
  EXPECT_EQ(verdict(folder, "model", "step"), refused);
  EXPECT_EQ(verdict(folder, "model", "inside/m.safetensors"), "no error");
  EXPECT_EQ(verdict(folder, "hub/snapshots/main", "../../blobs/0123"), "no error");
  EXPECT_EQ(verdict(folder, "hub/snapshots/main", "../../../outside/m.safetensors"), refused);
  EXPECT_EQ(verdict(folder, "hub/other/main", "../../blobs/0123"), refused);
}

TEST(HostileNamesTest, AFolderThatIsItselfALinkIsTheUsersOwn) {
  const ScratchFolder folder;
  write_model(folder / "real/m.safetensors");
  std::filesystem::create_directory_symlink(folder / "real", folder / "link");
  EXPECT_NO_THROW(require_inside_folder(folder / "link" / "m.safetensors"));
  std::filesystem::create_symlink("m.safetensors", folder / "real/same");
  EXPECT_NO_THROW(require_inside_folder(folder / "link" / "same"));
}

}  // namespace
}  // namespace thresher::fuzz
