#include "evaluation/comparison.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"
#include "evaluation/report.h"
#include "tests/core/scratch_folder.h"

namespace thresher::evaluation {
namespace {

using testing::first_line_of;
using testing::ScratchFolder;

Json figures(double fvu, double l0, const std::string& contexts = "c1") {
  return Json::object({{"fvu", fvu},
                       {"l0", l0},
                       {"ce_recovered_mean", 1 - fvu},
                       {"n_tokens", 100},
                       {"n_dropped", 3},
                       {"contexts_sha256", contexts}});
}

/// A run directory as `thresher run` leaves it, with one SAE.
std::filesystem::path make_run(const ScratchFolder& folder, const std::string& name, int k,
                               const Json& evaluation) {
  const std::filesystem::path run = folder / name;
  std::filesystem::create_directories(run);
  std::ofstream(run / "config.resolved.yaml")
      << "schema: 1\nrun:\n  name: " << name
      << "\n  seed: 42\ncorpus:\n  paths:\n    - a\n    - b\n"
      << "sae:\n  - name: topk\n    hook_point: blocks.2.hook_resid_post\n    type: topk\n    k: "
      << k << "\ntrain:\n  learning_rate: 1.0e-03\n";
  std::ofstream(run / "metrics.jsonl")
      << R"({"sae":"topk","step":1,"tokens":64,"loss":0.9,"l0":8.0})"
      << "\n"
      << R"({"sae":"topk","step":2,"tokens":128,"loss":0.8,"l0":8.0})"
      << "\n"
      << R"({"sae":"topk","step":3,"tok)";
  std::ofstream(run / "timing.jsonl") << R"({"event":"start","host":"node1","ranks":2})"
                                      << "\n"
                                      << R"({"step":2,"tokens":128,"tokens_per_second":100.5})"
                                      << "\n";
  std::ofstream(run / "status.json") << R"({"state":"done","tokens":128,"message":""})";
  if (!evaluation.is_null()) {
    std::ofstream(run / "evaluation.json") << Json::object({{"topk", evaluation}}).dump();
  }
  return run;
}

TEST(RunRecordTest, ReadsEveryPartAndLeavesOutALineThatIsBeingWritten) {
  const ScratchFolder folder;
  const RunRecord run = read_run(make_run(folder, "a", 8, figures(0.25, 8)));
  EXPECT_EQ(run.name, "a");
  ASSERT_EQ(run.saes.size(), 1U);
  EXPECT_EQ(run.saes[0].config.at("k"), Json(8));
  EXPECT_EQ(run.config.at("train").at("learning_rate"), Json(0.001));
  ASSERT_EQ(run.saes[0].curves.figures.size(), 2U);
  EXPECT_EQ(run.saes[0].curves.find("loss")->points(),
            (std::vector<std::pair<double, double>>{{64, 0.9}, {128, 0.8}}));
  EXPECT_EQ(run.events.size(), 1U);
  EXPECT_EQ(run.speed, (std::vector<std::pair<double, double>>{{128, 100.5}}));
  EXPECT_TRUE(run.is_evaluated());
  EXPECT_TRUE(run.identity.is_null());
}

TEST(RunRecordTest, NamesTheLineThatIsDamaged) {
  const ScratchFolder folder;
  const auto run = make_run(folder, "a", 8, Json());
  std::ofstream(run / "metrics.jsonl") << "{\"sae\":\"topk\",\"step\":1,\"tokens\":64}\nnot json\n";
  EXPECT_EQ(first_line_of<DataError>([&] {
              read_run(run);
            }).rfind((run / "metrics.jsonl").string() + ":2", 0),
            0U);
  EXPECT_EQ(first_line_of<ConfigError>([&] { read_run(folder / "nowhere"); }),
            (folder / "nowhere").string() + ": there is no run here");
}

TEST(RunRecordTest, RefusesFiguresOfAnotherType) {
  const ScratchFolder folder;
  int n_runs = 0;
  const auto message = [&](const std::string& key, Json value) {
    Json evaluation = figures(0.25, 8);
    evaluation[key] = std::move(value);
    const auto run = make_run(folder, fmt::format("run{}", n_runs++), 8, evaluation);
    return first_line_of<DataError>([&] { read_run(run); }).substr(run.string().size() + 1);
  };
  EXPECT_EQ(message("fvu", "x"), "evaluation.json: topk: fvu is \"x\"");
  EXPECT_EQ(message("l0", Json::array({1})), "evaluation.json: topk: l0 is [1]");
  EXPECT_EQ(message("n_tokens", true), "evaluation.json: topk: n_tokens is true");
  EXPECT_EQ(message("contexts_sha256", 7), "evaluation.json: topk: contexts_sha256 is 7");
  Json missing = figures(0.25, 8);
  missing["ce_spliced"] = nullptr;
  EXPECT_TRUE(read_run(make_run(folder, "missing", 8, missing)).is_evaluated());
}

TEST(CompareTest, MarksWhatIsNotBeatenAndNamesWhatDiffers) {
  const ScratchFolder folder;
  const Json comparison = compare_runs({read_run(make_run(folder, "a", 8, figures(0.25, 8))),
                                        read_run(make_run(folder, "b", 16, figures(0.20, 16)))});
  const auto& saes = comparison.at("saes").as_array();
  ASSERT_EQ(saes.size(), 2U);
  EXPECT_EQ(saes[0].at("label").as_string(), "a");
  EXPECT_EQ(saes[0].at("best").dump(), R"(["l0"])");
  EXPECT_EQ(saes[1].at("best").dump(), R"(["fvu","ce_recovered_mean"])");
  EXPECT_EQ(saes[0].at("group"), saes[1].at("group"));
  EXPECT_TRUE(comparison.at("warnings").as_array().empty());
  EXPECT_TRUE(comparison.at("differing_run_fields").as_array().empty());
  EXPECT_EQ(comparison.at("differing_sae_fields").dump(),
            R"([{"field":"k","values":{"a":8,"b":16}}])");
}

TEST(CompareTest, ShowsDifferencesTheWayThatTakesFewerColumns) {
  const auto field = [](const char* name) {
    return Json::object({{"field", name}, {"values", Json::object({{"a", 8}, {"b", Json()}})}});
  };
  using Grid = std::vector<std::vector<std::string>>;
  EXPECT_EQ(differences_grid(Json::array({field("k")})),
            (Grid{{"differs", "k"}, {"a", "8"}, {"b", "–"}}));
  EXPECT_EQ(differences_grid(Json::array({field("k"), field("n")})),
            (Grid{{"differs", "a", "b"}, {"k", "8", "–"}, {"n", "8", "–"}}));
  EXPECT_TRUE(differences_grid(Json::array()).empty());
}

TEST(CompareTest, DoesNotCompareRunsOnDifferentHeldOutText) {
  const ScratchFolder folder;
  const Json comparison =
      compare_runs({read_run(make_run(folder, "a", 8, figures(0.25, 8, "c1"))),
                    read_run(make_run(folder, "b", 8, figures(0.20, 8, "c2")))});
  ASSERT_EQ(comparison.at("warnings").as_array().size(), 1U);
  EXPECT_EQ(
      comparison.at("warnings").as_array()[0].as_string(),
      "evaluated on different held-out text, so their metrics cannot be compared (a: c1; b: c2)");
  for (const Json& sae : comparison.at("saes").as_array()) {
    EXPECT_TRUE(sae.at("best").as_array().empty());
  }
}

TEST(CompareTest, PlotsGroupsOfTwoAndNamesTheOthers) {
  const ScratchFolder folder;
  const std::vector<RunRecord> runs = {read_run(make_run(folder, "a", 8, figures(0.25, 8))),
                                       read_run(make_run(folder, "b", 16, figures(0.2, 16))),
                                       read_run(make_run(folder, "c", 16, figures(0.2, 16, "c2")))};
  const std::string both = comparison_page(runs, compare_runs(runs));
  EXPECT_NE(both.find("The dashed line joins"), std::string::npos);
  EXPECT_NE(both.find("Not drawn, because no other SAE was measured alike: c."), std::string::npos);
  const std::vector<RunRecord> apart = {runs[0], runs[2]};
  const std::string none = comparison_page(apart, compare_runs(apart));
  EXPECT_EQ(none.find("The dashed line joins"), std::string::npos);
  EXPECT_NE(none.find("Not drawn, because no other SAE was measured alike: a, c."),
            std::string::npos);
  const std::vector<RunRecord> alike = {runs[0], runs[1]};
  EXPECT_EQ(comparison_page(alike, compare_runs(alike)).find("Not drawn"), std::string::npos);
}

TEST(CompareTest, SaysWhatWasNotEvaluated) {
  const ScratchFolder folder;
  const auto b = make_run(folder, "b", 8, Json());
  const Json comparison =
      compare_runs({read_run(make_run(folder, "a", 8, figures(0.25, 8))), read_run(b)});
  EXPECT_EQ(comparison.at("warnings").as_array().at(0).as_string(),
            "b has not been evaluated: `thresher eval " + b.string() + "` measures it");
  EXPECT_EQ(comparison.at("saes").as_array().at(1).at("reason").as_string(), "not evaluated");
  const std::string text = comparison_text(comparison);
  EXPECT_NE(text.find("– b: not evaluated\n"), std::string::npos);
  EXPECT_NE(text.find("warning: b has not been evaluated"), std::string::npos);
}

TEST(CompareTest, RunsOfOneNameAreToldApartByTheirPaths) {
  const ScratchFolder folder;
  std::filesystem::create_directories(folder / "x");
  std::filesystem::create_directories(folder / "y");
  const auto a = make_run(folder, "x/run", 8, Json()), b = make_run(folder, "y/run", 8, Json());
  const Json comparison = compare_runs({read_run(a), read_run(b), read_run(b)});
  std::vector<std::string> labels;
  for (const Json& sae : comparison.at("saes").as_array())
    labels.push_back(sae.at("label").as_string());
  EXPECT_EQ(labels, (std::vector<std::string>{a.string(), b.string(), b.string() + " (2)"}));
}

TEST(ReportTest, ShowsARunThatHasOnlyJustBegun) {
  const ScratchFolder folder;
  std::filesystem::create_directories(folder / "new");
  std::ofstream(folder / "new/config.resolved.yaml") << "schema: 1\nrun: {name: new}\n";
  const std::string page = report_page(read_run(folder / "new"));
  EXPECT_NE(page.find("This run has not been evaluated"), std::string::npos);
  EXPECT_NE(page.find("metrics.jsonl holds no curve yet"), std::string::npos);
}

TEST(ReportTest, ShowsFiguresAndTheReasonForMissingOnes) {
  const ScratchFolder folder;
  Json evaluation = figures(0.25, 8);
  evaluation["ce_recovered_mean"] = Json();
  evaluation["ce_not_measured"] = "there is no host model";
  const std::string page = report_page(read_run(make_run(folder, "a", 8, evaluation)));
  EXPECT_NE(page.find("<td class=\"n\">0.2500</td>"), std::string::npos);
  EXPECT_NE(page.find("title=\"there is no host model\">–</td>"), std::string::npos);
  EXPECT_NE(page.find("No cross-entropy: there is no host model."), std::string::npos);
}

}  // namespace
}  // namespace thresher::evaluation
