#include "trainer/run_directory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "training_testing.h"

namespace thresher::trainer {
namespace {

void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path) << text;
}

TEST(RunDirectoryTest, CreatesItsFolders) {
  const TemporaryFolder folder;
  const RunDirectory run(folder / "runs/a", false);
  EXPECT_TRUE(std::filesystem::exists(folder / "runs/a/metrics.jsonl"));
}

TEST(RunDirectoryTest, RefusesASecondTrainingInTheSameFolder) {
  const TemporaryFolder folder;
  const RunDirectory run(folder / "a", false);
  const std::string line = first_line_of([&] { RunDirectory(folder / "a", false); });
  EXPECT_EQ(line.substr(0, line.find(" on host")),
            (folder / "a").string() + ": train cannot start, the folder is locked by train");
}

TEST(RunDirectoryTest, FreshKeepsTheOldFolderUnderTheLowestFreeNumber) {
  const TemporaryFolder folder;
  for (const char* text : {"first", "second", "third"}) {
    const RunDirectory run(folder / "a", true);
    write_text(run.path() / "note", text);
  }
  EXPECT_EQ(read_text_file(folder / "a.old-1/note"), "first");
  EXPECT_EQ(read_text_file(folder / "a.old-2/note"), "second");
  EXPECT_EQ(read_text_file(folder / "a/note"), "third");
}

TEST(RunDirectoryTest, FreshUnderstandsATrailingSlash) {
  const TemporaryFolder folder;
  { const RunDirectory run(folder / "a", false); }
  const RunDirectory run(folder.path() / "a/", true);
  EXPECT_TRUE(std::filesystem::exists(folder / "a.old-1/metrics.jsonl"));
}

TEST(RunDirectoryTest, FreshRefusesToMoveARunningTraining) {
  const TemporaryFolder folder;
  const RunDirectory run(folder / "a", false);
  const std::string line = first_line_of([&] { RunDirectory(folder / "a", true); });
  EXPECT_EQ(
      line.substr(0, line.find(" on host")),
      (folder / "a").string() + ": train --fresh cannot start, the folder is locked by train");
  EXPECT_FALSE(std::filesystem::exists(folder / "a.old-1"));
}

TEST(RunDirectoryTest, StatusSaysTheVerdictInWords) {
  const TemporaryFolder folder;
  RunStatus status;
  status.state = "stopped";
  status.exit_code = ExitCode::kStopped;
  status.message = "stopped by a signal";
  status.step = 3;
  status.steps = 10;
  status.tokens = 192;
  write_status(folder.path(), status);
  const Json json = Json::parse(read_text_file(folder / "status.json"), "status.json");
  EXPECT_EQ(json.at("state").as_string(), "stopped");
  EXPECT_EQ(json.at("exit_code").as_int(), 75);
  EXPECT_EQ(json.at("step").as_int(), 3);
  EXPECT_EQ(json.at("message").as_string(), "stopped by a signal");
  EXPECT_EQ(json.at("pid").as_int(), getpid());
}

TEST(JsonLinesTest, CutsBackToAnEarlierLineAndGoesOn) {
  const TemporaryFolder folder;
  JsonLines lines(folder / "m.jsonl");
  lines.append({Json::object({{"step", 1}})});
  const std::int64_t bytes = lines.bytes();
  lines.append({Json::object({{"step", 2}}), Json::object({{"step", 3}})});
  lines.truncate(bytes);
  lines.append({Json::object({{"step", 4}})});
  EXPECT_EQ(read_text_file(folder / "m.jsonl"), "{\"step\":1}\n{\"step\":4}\n");
}

TEST(JsonLinesTest, RefusesAFileShorterThanTheCheckpointSays) {
  const TemporaryFolder folder;
  JsonLines lines(folder / "m.jsonl");
  lines.append({Json::object({{"step", 1}})});
  EXPECT_EQ(first_line_of([&] { lines.truncate(100); }),
            (folder / "m.jsonl").string() + ": 11 bytes, the checkpoint was written after 100");
}

TEST(JsonLinesTest, RefusesToCutInsideALine) {
  const TemporaryFolder folder;
  JsonLines lines(folder / "m.jsonl");
  lines.append({Json::object({{"step", 1}})});
  EXPECT_EQ(
      first_line_of([&] { lines.truncate(5); }),
      (folder / "m.jsonl").string() + ": no line ends at byte 5, where the checkpoint was written");
}

}  // namespace
}  // namespace thresher::trainer
