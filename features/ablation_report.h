#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"
#include "evaluation/page.h"
#include "features/ablation.h"
#include "features/latent_paths.h"
#include "features/path_patching.h"

namespace thresher::features {

std::string figure_text(double value);
/// Lines of cells, header first, as a table of a page; the first `n_left` columns are texts.
evaluation::PageTable page_table(const std::vector<std::vector<std::string>>& lines,
                                 std::size_t n_left);

/// The figure by which effects are ranked: the logit difference if two tokens were given, else the
/// answer's probability, else the divergence over the text.
const OutputFigure& leading_figure(const AnswerTokens& tokens);

/// Names of the columns of a map: "3 of", "7  the", "all"; token texts as they are.
std::vector<std::string> position_names(const AblationMap& map, const ContextRun& run);

Json outputs_json(const Outputs& outputs);
/// {"tokens": [{"position", "id", "text", "left_out"}], "unchanged", "source", "components": [...],
///  "positions": [..., "all"], "effects": {FIGURE: [[component][position]]},
///  "spread": {FIGURE: ...} with several draws}: effects are differences from `unchanged`.
Json map_json(const AblationMap& map, const ContextRun& run);
/// The strongest components (all positions at once) and the strongest single cells, `top` of each.
std::string map_text(const AblationMap& map, const ContextRun& run, const OutputFigure& by,
                     std::int64_t top);
/// A heat map a figure that was measured, component by position, and the same two tables.
void add_map(const AblationMap& map, const ContextRun& run, const OutputFigure& by,
             std::int64_t top, evaluation::Page& page);

/// The effect of each component, all positions at once, over texts: mean and standard deviation.
struct MeanMap {
  std::vector<std::string> components;
  std::vector<Effect> effects;
};
/// `maps` have the same components.
MeanMap mean_over_texts(const std::vector<AblationMap>& maps);
Json mean_json(const MeanMap& mean);
std::string mean_text(const MeanMap& mean, const OutputFigure& by, std::int64_t top);

/// [{"sender", "receiver", "effect"}], strongest first.
Json edges_json(const std::vector<Edge>& edges);
std::string edges_text(const std::vector<Edge>& edges, std::int64_t top);
/// The strongest edges as a table, and all as a heat map sender by receiver.
void add_edges(const std::vector<Edge>& edges, const OutputFigure& by, std::int64_t top,
               evaluation::Page& page);

/// Everything that is to be said of a latent's paths at the positions of a run.
struct LatentPathsView {
  std::string latent;  // "topk latent 17"
  const LatentPaths* paths = nullptr;
  const ContextRun* run = nullptr;
  const LogitEffect* logits = nullptr;
  const corpus::Tokenizer* tokenizer = nullptr;
};
Json latent_paths_json(const LatentPathsView& view);
std::string latent_paths_text(const LatentPathsView& view, std::int64_t top);
void add_latent_paths(const LatentPathsView& view, std::int64_t top, evaluation::Page& page);

}  // namespace thresher::features
