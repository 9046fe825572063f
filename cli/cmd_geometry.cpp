#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "cli/commands.h"
#include "cli/subject.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "core/visible_text.h"
#include "evaluation/page.h"
#include "evaluation/text_table.h"
#include "features/geometry.h"
#include "features/probe_families.h"
#include "features/statistics.h"
#include "features/word_pairs.h"

namespace thresher::cli {
namespace {

using features::ConceptDirection;
using features::DirectionGeometry;

struct GeometryOptions : SubjectOptions {
  std::vector<std::string> word_pairs;
  std::string page;
  std::uint64_t seed = 0;
};

/// The decoder of one SAE, or random directions of its shape.
struct Row {
  std::string name;
  bool is_random = false;
  DirectionGeometry geometry;
};

double nearest_quantile(const DirectionGeometry& geometry, double q) {
  return features::quantile({geometry.nearest_cosine.begin(), geometry.nearest_cosine.end()}, q);
}

double share_above(const DirectionGeometry& geometry, float cosine) {
  const auto n = std::count_if(geometry.nearest_cosine.begin(), geometry.nearest_cosine.end(),
                               [cosine](float one) { return one > cosine; });
  return static_cast<double>(n) / static_cast<double>(geometry.n);
}

Json row_json(const Row& row) {
  const DirectionGeometry& geometry = row.geometry;
  return Json::object({{"name", row.name},
                       {"is_random", row.is_random},
                       {"directions", geometry.n},
                       {"width", geometry.width},
                       {"mean_absolute_cosine", geometry.mean_absolute_cosine},
                       {"mean_squared_cosine", geometry.mean_squared_cosine},
                       {"nearest_cosine", Json::object({{"median", nearest_quantile(geometry, 0.5)},
                                                        {"p95", nearest_quantile(geometry, 0.95)},
                                                        {"max", nearest_quantile(geometry, 1)}})},
                       {"share_with_neighbour_above_0.5", share_above(geometry, 0.5F)},
                       {"share_with_neighbour_above_0.9", share_above(geometry, 0.9F)},
                       {"cosine_counts", Json::array_of(geometry.counts)}});
}

evaluation::PageTable rows_table(const std::vector<Row>& rows) {
  evaluation::PageTable table;
  table.columns = {{"directions", {}, false},
                   {"number"},
                   {"width"},
                   {"mean |cos|"},
                   {"mean cos² × width"},
                   {"nearest", "median cos"},
                   {"nearest", "95th percentile"},
                   {"neighbour above 0.5", "%"},
                   {"above 0.9", "%"}};
  for (const Row& row : rows) {
    const DirectionGeometry& geometry = row.geometry;
    table.rows.push_back(
        {row.is_random ? evaluation::PageRow::Kind::kBaseline : evaluation::PageRow::Kind::kNormal,
         {{row.name},
          {fmt::format("{}", geometry.n)},
          {fmt::format("{}", geometry.width)},
          {fmt::format("{:.4f}", geometry.mean_absolute_cosine)},
          {fmt::format("{:.2f}",
                       geometry.mean_squared_cosine * static_cast<double>(geometry.width))},
          {fmt::format("{:.3f}", nearest_quantile(geometry, 0.5))},
          {fmt::format("{:.3f}", nearest_quantile(geometry, 0.95))},
          {fmt::format("{:.1f}", 100 * share_above(geometry, 0.5F))},
          {fmt::format("{:.1f}", 100 * share_above(geometry, 0.9F))}}});
  }
  return table;
}

evaluation::PageTable concepts_table(const std::vector<ConceptDirection>& concepts) {
  evaluation::PageTable table;
  table.columns = {{"word pairs", {}, false},
                   {"pairs"},
                   {"alignment", "mean cos with the others"},
                   {"random pairs", "95th percentile"}};
  for (const ConceptDirection& one : concepts) {
    table.rows.push_back({evaluation::PageRow::Kind::kNormal,
                          {{one.name},
                           {fmt::format("{}", one.n_pairs)},
                           {fmt::format("{:.3f}", one.alignment)},
                           {fmt::format("{:.3f}", one.random_alignment_p95)}}});
  }
  return table;
}

std::string as_text(const evaluation::PageTable& table) {
  std::vector<std::vector<std::string>> lines(1);
  for (const evaluation::PageColumn& column : table.columns) {
    lines[0].push_back(column.unit.empty() ? column.label
                                           : fmt::format("{} ({})", column.label, column.unit));
  }
  for (const evaluation::PageRow& row : table.rows) {
    lines.emplace_back();
    for (const evaluation::PageCell& cell : row.cells) lines.back().push_back(cell.text);
  }
  return evaluation::text_table(std::move(lines));
}

std::string page_of(const GeometryOptions& options, const std::vector<Row>& rows,
                    const std::vector<ConceptDirection>& concepts) {
  evaluation::Page page("Geometry", "", options.path);
  if (!rows.empty()) {
    page.add_text(
        "Cosines between the decoder directions of all pairs of latents, beside random directions "
        "of the same number and width (outline).");
    page.add_table(rows_table(rows));
  }
  std::vector<evaluation::HistogramChart> charts;
  for (std::size_t i = 0; i + 1 < rows.size(); i += 2) {
    evaluation::HistogramChart chart;
    chart.title = rows[i].name;
    chart.x_label = "cosine";
    chart.y_label = "pairs";
    for (std::int64_t bar = 0; bar <= features::kCosineBars; ++bar) {
      chart.edges.push_back(-1 + 2 * static_cast<double>(bar) / features::kCosineBars);
    }
    chart.counts = rows[i].geometry.counts;
    chart.reference = rows[i + 1].geometry.counts;
    chart.reference_name = "random";
    charts.push_back(std::move(chart));
  }
  page.add_charts(charts);
  if (!concepts.empty()) {
    page.add_heading("Concepts in the unembedding");
    page.add_table(concepts_table(concepts));
  }
  page.add_heading("Made with");
  page.add_pairs({{"seed", fmt::format("{}", options.seed)}, {"command", command_line()}});
  return page.html();
}

void run_geometry(const GeometryOptions& options) {
  start(options);
  if (std::filesystem::is_directory(options.page)) {
    throw UsageError(fmt::format("geometry: --page {} is a folder", display_path(options.page)),
                     "the name of a file");
  }
  const features::Subject subject =
      load_subject(options, options.word_pairs.empty() ? Needs::kSae : Needs::kModel).subject;
  std::vector<Row> rows;
  for (const features::NamedSae& one : subject.saes) {
    const at::Tensor& decoder = one.sae.W_dec;
    if (decoder.size(0) < 2) continue;
    rows.push_back({one.name, false, features::direction_geometry(decoder)});
    rows.push_back({"random", true,
                    features::direction_geometry(features::random_directions(
                        decoder.size(0), decoder.size(1), options.seed, "geometry.random"))});
  }
  std::vector<ConceptDirection> concepts;
  if (!options.word_pairs.empty()) {
    const at::Tensor unembedding = subject.model->unembedding();
    const features::CausalInnerProduct product(unembedding);
    for (const std::string& path : options.word_pairs) {
      concepts.push_back(features::concept_direction(
          features::read_word_pairs(path, *subject.tokenizer), product, options.seed));
    }
  }
  if (!options.page.empty()) {
    write_file_atomically(options.page, page_of(options, rows, concepts));
    log_info(fmt::format("geometry: {}", display_path(options.page)));
  }
  if (!options.json) {
    std::string out = rows.empty() ? "" : as_text(rows_table(rows));
    if (!concepts.empty()) out += (out.empty() ? "" : "\n") + as_text(concepts_table(concepts));
    print_result(out);
    return;
  }
  Json saes = Json::array(), words = Json::array();
  for (const Row& row : rows) saes.push_back(row_json(row));
  for (const ConceptDirection& one : concepts) {
    words.push_back(Json::object({{"name", one.name},
                                  {"pairs", one.n_pairs},
                                  {"alignment", one.alignment},
                                  {"random_alignment_p95", one.random_alignment_p95}}));
  }
  print_result(
      Json::object({{"subject", options.path}, {"decoders", saes}, {"word_pairs", words}}).dump(2) +
      "\n");
}

}  // namespace

void add_geometry(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "geometry", "how decoder directions lie to one another, beside random ones");
  const auto options = std::make_shared<GeometryOptions>();
  command->add_option("--word-pairs", options->word_pairs,
                      "two words a line that differ in one concept: how well their differences in "
                      "the unembedding agree; repeatable");
  command->add_option("--seed", options->seed)->capture_default_str();
  command->add_option("--page", options->page, "write the figures as one HTML page, too");
  add_subject_options(*command, *options);
  command->callback([&action, options] { action = [options] { run_geometry(*options); }; });
}

}  // namespace thresher::cli
