#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/json.h"
#include "evaluation/page.h"
#include "features/steering.h"

namespace thresher::features {

/// What `thresher steer` is asked: directions, where and how strongly they act, and how success is
/// told. A YAML file of this shape is a plan.
struct SteeringPlan {
  std::string direction;            // features/direction.h
  std::string sae;                  // whose latents are meant
  std::string kind = "add";         // add, clamp, scale, project
  std::vector<std::string> points;  // hook points; "10" is blocks.10.hook_resid_post
  std::vector<std::string> positions = {"all"};
  std::vector<std::string> coefficients = {"1"};
  std::vector<std::string> prompts, test_prompts;
  std::vector<Attribute> attributes;      // the first is what success is, unless there are words
  std::string words;                      // a file of words: success is their share in the texts
  std::string prompting;                  // baseline: a text before every prompt
  std::vector<std::string> others;        // directions for the matrix, at the chosen setting
  std::string confounder;                 // a direction that is projected out
  std::string prefix, read = "mean";      // how pairs are read
  std::int64_t controls = 99;             // random pairs; 0: no control at all
  std::optional<std::int64_t> isotropic;  // draws; without a number as many as random pairs
  double most_perplexity = 2;  // times the plain model's, of a setting that may be chosen
  std::int64_t max_tokens = 32;
  double temperature = 0, top_p = 1;
  std::int64_t seed = 42;

  void declare(FieldVisitor& fields);
};

/// ConfigError with file, line and column for keys that are unknown or ill-typed.
SteeringPlan read_steering_plan(const std::string& path);

/// A row of the attribute x direction matrix.
struct SpecificityRow {
  std::string direction;
  std::vector<double> effects;  // by attribute, nats
};

struct SteeringStudy {
  SteeringPlan plan;
  std::vector<std::pair<std::string, double>> norms;  // of the direction by hook point
  std::vector<SteeringRow> rows;  // on the prompts: plain, prompting, embedding, steered
  /// The chosen row; none where no text stayed below the limit of perplexity, or no attribute tells
  /// success.
  std::optional<std::size_t> chosen;
  std::vector<SteeringRow> test_rows;  // the same on the test prompts: plain, prompting, embedding,
                                       // the chosen setting
  std::optional<SteeringControl> control;  // on the test prompts, or the prompts where none are
  std::vector<SpecificityRow> matrix;      // there too
};

/// Sweeps points x positions x coefficients on the prompts, chooses the setting of largest success
/// (SteeringRow::success) whose texts' perplexity is at most `most_perplexity` times the plain
/// model's, and looks at that setting once more on the test prompts, beside random
/// directions. Baselines have the same sweep: embedding vectors of the direction's texts added at
/// hook_embed (for directions made of texts alone), of which the best is chosen by the same rule.
/// UsageError or ConfigError for a plan that cannot be run.
SteeringStudy run_steering_study(const Subject& subject, const SteeringPlan& plan,
                                 const LatentSearch& search = {});

std::string study_table(const SteeringStudy& study);
Json study_json(const SteeringStudy& study);
evaluation::Page study_page(const SteeringStudy& study, const std::string& subject);

}  // namespace thresher::features
