#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

#include "cli/commands.h"
#include "cli/subject.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/visible_text.h"
#include "evaluation/page.h"
#include "features/ablation.h"
#include "features/ablation_report.h"
#include "features/latent_paths.h"
#include "features/path_patching.h"
#include "features/text_list.h"

namespace thresher::cli {
namespace {

using features::AblationMap;
using features::ContextRun;
using features::Method;
using features::Subject;

struct AblateOptions : SubjectOptions {
  std::string text, file, clean, corrupted, reference, answer, against, page;
  std::vector<std::string> at;
  std::string method = "zero";
  features::Change change;
  std::int64_t draws = 0, latent = -1, top = 10;
  bool edges = false, at_once = false, include_first = false;
};

bool is_given(const CLI::App& command, const char* option) { return command.count(option) > 0; }

void check_usage(const CLI::App& command, const AblateOptions& options) {
  const bool has_pair = is_given(command, "--clean") || is_given(command, "--corrupted");
  const int n_texts = static_cast<int>(is_given(command, "--text")) +
                      static_cast<int>(is_given(command, "--file")) + static_cast<int>(has_pair);
  if (n_texts != 1) {
    throw UsageError(
        fmt::format("thresher ablate: {}", n_texts == 0 ? "no text" : "more than one kind of text"),
        "--text, --file, or --clean with --corrupted");
  }
  if (has_pair && !(is_given(command, "--clean") && is_given(command, "--corrupted"))) {
    throw UsageError("thresher ablate: one prompt of a pair", "--clean and --corrupted");
  }
  const bool is_patch = options.method == "patch";
  if (is_given(command, "--method") && is_patch != has_pair) {
    throw UsageError(fmt::format("thresher ablate: --method {} {}", visible_text(options.method),
                                 has_pair ? "with a pair of prompts" : "without a pair of prompts"),
                     "--clean and --corrupted with patch, and with nothing else");
  }
  if (is_given(command, "--against") && !is_given(command, "--answer")) {
    throw UsageError("thresher ablate: --against without --answer", "the token it stands against");
  }
  if (options.edges && options.latent >= 0) {
    throw UsageError("thresher ablate: --edges with --latent-paths", "one of the two");
  }
}

features::Change change_of(const AblateOptions& options, bool is_pair) {
  features::Change change = options.change;
  change.method = is_pair ? Method::kPatch : features::parse_method(options.method);
  const bool is_drawn = change.method == Method::kResample || change.method == Method::kJitter;
  change.draws = is_drawn ? (options.draws > 0 ? options.draws : 8) : 1;
  return change;
}

/// The work on one text.
class Ablater {
 public:
  Ablater(const AblateOptions& options, Subject& subject)
      : options_(options), subject_(subject), is_pair_(!options.clean.empty()) {
    request_.change = change_of(options, is_pair_);
    request_.with_sinks = options.include_first;
    request_.only_at_once = options.at_once;
  }

  Json work(const features::ListedText& text, evaluation::Page& page, std::string& out) {
    request_.tokens = tokens_of(text);
    const features::OutputFigure& by = features::leading_figure(request_.tokens);
    const ContextRun run = run_of(text.text, text.what);
    const std::optional<ContextRun> other = source_for(run, text);
    const ContextRun& source = other ? *other : run;
    page.add_text(text.text);
    if (options_.latent >= 0) return latent_paths(run, page, out);
    request_.components = components(run);
    if (options_.edges) {
      Progress progress("path patching", "receivers", 2 * subject_.model->info().n_blocks + 1);
      const auto edges = features::patch_paths(
          request_, features::all_receivers(subject_.model->info().n_blocks), by.value, run, source,
          *subject_.model, [&](std::int64_t done, std::int64_t) { progress.update(done); });
      progress.finish();
      out += features::edges_text(edges, options_.top);
      features::add_edges(edges, by, options_.top, page);
      return Json::object({{"text", text.text}, {"edges", features::edges_json(edges)}});
    }
    Progress progress("ablate", "components",
                      static_cast<std::int64_t>(request_.components.size()));
    const AblationMap map =
        features::ablate(request_, run, source, *subject_.model,
                         [&](std::int64_t done, std::int64_t) { progress.update(done); });
    progress.finish();
    out += features::map_text(map, run, by, options_.top);
    features::add_map(map, run, by, options_.top, page);
    Json json = features::map_json(map, run);
    json["text"] = text.text;
    maps_.push_back(map);
    return json;
  }

  /// Of all texts so far, where each was changed at the same components.
  std::optional<features::MeanMap> mean() const {
    if (maps_.size() < 2) return std::nullopt;
    for (const AblationMap& map : maps_) {
      if (map.components != maps_.front().components) return std::nullopt;
    }
    return features::mean_over_texts(maps_);
  }
  const features::OutputFigure& ranked_by() const {
    return features::leading_figure(request_.tokens);
  }

 private:
  ContextRun run_of(const std::string& text, const std::string& what) {
    return features::run_context(features::context_ids(text, what, subject_), subject_);
  }

  features::AnswerTokens tokens_of(const features::ListedText& text) const {
    const auto token = [&](const std::string& own, const std::string& option,
                           const char* name) -> std::optional<std::int32_t> {
      if (!own.empty()) {
        return features::single_token(own, fmt::format("{}: {}", text.what, name + 2),
                                      *subject_.tokenizer);
      }
      if (option.empty()) return std::nullopt;
      return features::single_token(option, name, *subject_.tokenizer);
    };
    return {token(text.answer, options_.answer, "--answer"),
            token(text.against, options_.against, "--against")};
  }

  std::optional<ContextRun> source_for(const ContextRun& run, const features::ListedText& text) {
    if (is_pair_) {
      ContextRun clean = run_of(options_.clean, "--clean");
      if (clean.n_tokens() != run.n_tokens()) {
        throw ConfigError(
            fmt::format("--clean has {} tokens, --corrupted {}", clean.n_tokens(), run.n_tokens()),
            "prompts of the same number of tokens",
            fmt::format("{} against {}", features::tokens_text(clean.tokens),
                        features::tokens_text(run.tokens)));
      }
      return clean;
    }
    const bool is_used =
        request_.change.method == Method::kMean || request_.change.method == Method::kResample;
    if (options_.reference.empty() || !is_used || options_.reference == text.text) {
      return std::nullopt;
    }
    return run_of(options_.reference, "--reference");
  }

  std::vector<features::Component> components(const ContextRun& run) const {
    std::vector<std::string> names = options_.at;
    if (names.empty() && options_.edges) names = {"embed", "attn_out", "mlp_out"};
    if (names.empty()) names = {"resid_post", "attn_out", "mlp_out"};
    return features::parse_components(names, options_.sae, subject_, run);
  }

  Json latent_paths(const ContextRun& run, evaluation::Page& page, std::string& out) {
    const features::NamedSae& sae = subject_.sae(options_.sae);
    const features::Component latent =
        features::parse_components({fmt::format("latent:{}", options_.latent)}, options_.sae,
                                   subject_, run)
            .front();
    const features::LatentPaths paths = features::latent_paths(run, sae, options_.latent);
    if (!unembedding_.defined()) unembedding_ = subject_.model->unembedding();
    const features::LogitEffect logits =
        features::logit_effect(sae.sae.W_dec[options_.latent], unembedding_, options_.top);
    const features::LatentPathsView view{latent.name(), &paths, &run, &logits,
                                         subject_.tokenizer.get()};
    out += features::latent_paths_text(view, options_.top);
    features::add_latent_paths(view, options_.top, page);
    return features::latent_paths_json(view);
  }

  const AblateOptions& options_;
  Subject& subject_;
  bool is_pair_;
  features::AblationRequest request_;
  std::vector<AblationMap> maps_;
  at::Tensor unembedding_;
};

std::vector<features::ListedText> texts_of(const AblateOptions& options) {
  if (!options.file.empty()) return features::read_text_list(options.file);
  if (!options.clean.empty()) return {{options.corrupted, "--corrupted", "", ""}};
  return {{options.text, "--text", "", ""}};
}

void run_ablate(const AblateOptions& options) {
  start(options);
  const std::vector<features::ListedText> texts = texts_of(options);
  Subject subject =
      load_subject(options, options.latent >= 0 ? Needs::kSae : Needs::kModel).subject;
  Ablater ablater(options, subject);
  evaluation::Page page("Ablation", options.clean.empty() ? options.method : "patch",
                        fmt::format("{} in {}", command_line(), options.path));
  Json results = Json::array();
  std::string out;
  for (const features::ListedText& text : texts) {
    if (texts.size() > 1) {
      out += fmt::format("{}{}\n\n", out.empty() ? "" : "\n", visible_text(text.text));
      page.add_heading(text.what);
    }
    results.push_back(ablater.work(text, page, out));
  }
  const std::optional<features::MeanMap> mean = ablater.mean();
  if (mean) {
    out += fmt::format("\nover {} texts, all positions at once:\n\n{}", texts.size(),
                       features::mean_text(*mean, ablater.ranked_by(), options.top));
  }
  if (!options.page.empty()) {
    write_file_atomically(options.page, page.html());
    log_info(fmt::format("ablate: wrote {}", display_path(options.page)));
  }
  if (!options.json) {
    print_result(out);
    return;
  }
  const bool is_pair = !options.clean.empty();
  print_result(Json::object({{"subject", options.path},
                             {"method", is_pair ? "patch" : options.method},
                             {"seed", static_cast<std::int64_t>(options.change.seed)},
                             {"texts", results},
                             {"mean", mean ? features::mean_json(*mean) : Json()}})
                   .dump(2) +
               "\n");
}

void add_text_options(CLI::App& command, AblateOptions& options) {
  command.add_option("--text", options.text, "the text or prompt");
  command.add_option("--file", options.file,
                     "several: a text a line, or JSON lines with text and, if wanted, answer and "
                     "against");
  command.add_option("--clean", options.clean,
                     "patching: the prompt whose values are put into --corrupted");
  command.add_option("--corrupted", options.corrupted,
                     "patching: the prompt that is run, as many tokens as --clean");
  command.add_option("--reference", options.reference,
                     "mean, resample: the text that values come from; the text itself without it");
  command.add_option("--answer", options.answer,
                     "a token whose probability at the last position is measured");
  command.add_option("--against", options.against,
                     "a token whose logit is subtracted from the answer's");
}

}  // namespace

void add_ablate(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "ablate", "takes parts of the model's computation away and shows what changes");
  command->footer(
      "Components: embed; resid_pre, attn_out, resid_mid, mlp_out, resid_post (in every block); a "
      "hook\npoint; latent:NUMBER; latents (all that fire); sae_error. First positions, special "
      "tokens and\noutlier norms, as in the SAE's training, are not changed.");
  const auto options = std::make_shared<AblateOptions>();
  add_text_options(*command, *options);
  command
      ->add_option("--at", options->at, "components; resid_post, attn_out and mlp_out without it")
      ->delimiter(',');
  command->add_option("--method", options->method, "zero, mean, resample or jitter")
      ->capture_default_str();
  command->add_option("--seed", options->change.seed, "of resample and jitter")
      ->capture_default_str();
  command->add_option("--draws", options->draws, "of resample and jitter; 8 without it")
      ->check(CLI::Range(1, 10000));
  command
      ->add_option("--norm", options->change.norm, "of jitter's noise, in units of the activation")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--fraction", options->change.fraction,
                   "of jitter's noise, as a part of the activation's norm")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_flag("--edges", options->edges,
                    "path patching: the effect of each direct path from sender to receiver");
  command
      ->add_option("--latent-paths", options->latent,
                   "which components write along the latent's encoder, and what it promotes")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--at-once", options->at_once,
                    "change all positions at once only, not each alone");
  command->add_flag("--include-first", options->include_first,
                    "change positions that the SAE never saw, too");
  command->add_option("--top", options->top, "lines of each table")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000000));
  command->add_option("--page", options->page, "write an HTML page with heat maps");
  add_subject_options(*command, *options);
  command->callback([&action, options, command] {
    check_usage(*command, *options);
    action = [options] { run_ablate(*options); };
  });
}

}  // namespace thresher::cli
