#include "trainer/event_file.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/files.h"
#include "trainer/tensorboard_log.h"
#include "training_testing.h"

namespace thresher::trainer {
namespace {

std::string hex(const std::string& bytes) {
  std::string out;
  for (const char c : bytes) {
    constexpr const char* kDigits = "0123456789abcdef";
    out += kDigits[static_cast<unsigned char>(c) >> 4U];
    out += kDigits[static_cast<unsigned char>(c) & 15U];
  }
  return out;
}

/// Names of the event files of an SAE that hold something.
std::vector<std::string> files_of(const TemporaryFolder& run, const std::string& sae) {
  std::vector<std::string> names;
  for (const auto& path : list_folder(run / "tensorboard" / sae)) {
    if (thresher::file_size(path) > 0) names.push_back(path.filename().string());
  }
  return names;
}

std::map<std::int64_t, double> times_of(const TemporaryFolder& run, const std::string& sae,
                                        const std::string& file) {
  return event_times(read_text_file(run / "tensorboard" / sae / file));
}

Json line(const std::string& sae, std::int64_t step, double loss) {
  return Json::object({{"sae", sae}, {"step", step}, {"tokens", step * 64}, {"loss", loss}});
}

void write_metrics(const std::filesystem::path& path, const Json::Array& lines) {
  std::ofstream file(path);
  for (const Json& one : lines) file << one.dump() << "\n";
}

TEST(EventFileTest, AScalarIsTheBytesThatTensorBoardWrites) {
  // tensorboard 2.21 on Event(wall_time=1.5, step=300, summary={"a": 0.25}).
  const EventScalar scalar{"a", 0.25F};
  EXPECT_EQ(hex(scalars_record(1.5, 300, {&scalar, 1})),
            "1800000000000000"
            "a37f4b22"
            "09000000000000f83f"
            "10ac02"
            "2a0a"
            "0a08"
            "0a0161"
            "150000803e"
            "b4fa9511");
}

TEST(EventFileTest, TheTimesOfWholeRecordsAreReadAndTheTornEndIsLeftOut) {
  const EventScalar scalar{"a", 1};
  const std::string two = version_record(1) + scalars_record(10.5, 7, {&scalar, 1}) +
                          scalars_record(11.5, 1LL << 40, {&scalar, 1});
  const std::map<std::int64_t, double> both = {{7, 10.5}, {1LL << 40, 11.5}};
  EXPECT_EQ(event_times(two), both);
  const std::map<std::int64_t, double> one = {{7, 10.5}};
  for (const std::size_t cut : {1U, 4U, 20U}) {
    EXPECT_EQ(event_times(std::string_view(two).substr(0, two.size() - cut)), one);
  }
  std::string damaged = two;
  damaged[two.size() - 6] ^= 1;
  EXPECT_EQ(event_times(damaged), one);
  EXPECT_TRUE(event_times(std::string(64, '\xff')).empty());
}

TEST(TensorBoardLogTest, StartsOverFromTheMetricsAndKeepsTheTimesOfKeptSteps) {
  const TemporaryFolder run;
  write_metrics(run / "metrics.jsonl", {});
  {
    TensorBoardLog log(run.path(), run / "metrics.jsonl", {"a", "b"});
    log.append({line("a", 1, 0.5), line("b", 1, 0.6)});
    log.append({line("a", 2, 0.4), line("b", 2, 0.5)});
  }
  EXPECT_EQ(files_of(run, "a"), std::vector<std::string>{"events.out.tfevents.0000000001"});
  const auto first = times_of(run, "a", "events.out.tfevents.0000000001");

  // Killed after step 2, continued from the checkpoint of step 1.
  write_metrics(run / "metrics.jsonl", {line("a", 1, 0.5), line("b", 1, 0.6)});
  TensorBoardLog log(run.path(), run / "metrics.jsonl", {"a", "b"});
  log.append({line("a", 2, 0.4), line("b", 2, 0.5)});
  EXPECT_EQ(files_of(run, "a"), std::vector<std::string>{"events.out.tfevents.0000000002"});
  const auto second = times_of(run, "a", "events.out.tfevents.0000000002");
  EXPECT_EQ(second.size(), 3U);  // the session's start at 0, and two steps
  EXPECT_EQ(second.at(1), first.at(1));
  EXPECT_GE(second.at(2), first.at(2));
}

TEST(TensorBoardLogTest, LeavesOutWhatIsNoNumber) {
  const TemporaryFolder run;
  write_metrics(run / "metrics.jsonl", {});
  const auto size_after = [&](const Json& figures) {
    TensorBoardLog log(run.path(), run / "metrics.jsonl", {"a"});
    log.append({figures});
    return thresher::file_size(list_folder(run / "tensorboard/a").back());
  };
  Json with_more = line("a", 1, 0.5);
  const auto plain = size_after(with_more);
  with_more["note"] = "words";
  with_more["fvu"] = std::nan("");
  with_more["huge"] = 1e300;
  EXPECT_EQ(size_after(with_more), plain);
}

TEST(TensorBoardLogTest, AnEvaluationReplacesTheOneBefore) {
  const TemporaryFolder run;
  const Json figures = Json::object({{"fvu", 0.25}, {"hook_point", "blocks.2.hook_resid_post"}});
  for (int i = 0; i < 5; ++i) write_evaluation_events(run.path(), "a", 300, figures);
  EXPECT_EQ(files_of(run, "a"),
            std::vector<std::string>{"events.out.tfevents.0000000005.evaluation"});
  EXPECT_EQ(list_folder(run / "tensorboard/a").size(), 2U);  // and the one before, emptied
  EXPECT_TRUE(times_of(run, "a", "events.out.tfevents.0000000005.evaluation").contains(300));
}

}  // namespace
}  // namespace thresher::trainer
