#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>

#include "cli/commands.h"
#include "cli/plan_options.h"
#include "cli/subject.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "core/visible_text.h"
#include "features/probe_plan.h"
#include "features/probe_report.h"
#include "features/probing.h"
#include "features/word_pairs.h"

namespace thresher::cli {
namespace {

namespace fs = std::filesystem;
using features::LabelledText;
using features::ProbePlan;
using features::ProbeSet;

struct ProbeCommandOptions : SubjectOptions {
  std::string plan_file, page;
};

std::vector<LabelledText> read_texts(const ProbePlan& plan) {
  if (plan.texts.empty() == plan.groups.empty()) {
    throw UsageError("thresher probe: labelled texts come either by --texts or by --group",
                     "--texts FILE, or --group LABEL=PATH for each label");
  }
  if (!plan.texts.empty()) return features::read_labelled_texts(plan.texts, plan.fields());
  std::vector<LabelledText> out;
  for (const std::string& group : plan.groups) {
    const auto [label, path] = features::split_at("--group", group, '=', "--group LABEL=PATH");
    std::vector<LabelledText> texts = features::read_group(label, path, plan.fields());
    std::move(texts.begin(), texts.end(), std::back_inserter(out));
  }
  return out;
}

/// Training texts first, then what is tested on.
std::vector<ProbeSet> make_sets(const ProbePlan& plan) {
  std::vector<ProbeSet> sets;
  sets.push_back({"training", read_texts(plan), {}});
  for (const std::string& test : plan.tests) {
    const auto [name, path] = features::split_at("--test", test, '=', "--test NAME=PATH");
    sets.push_back({name, features::read_labelled_texts(path, plan.fields()), {}});
  }
  if (sets.size() > 1) return sets;
  sets.push_back({"held-out", {}, {}});
  std::vector<LabelledText> all = std::move(sets[0].texts);
  sets[0].texts.clear();
  for (LabelledText& text : all) {
    const bool is_out = features::is_held_out(text.key, plan.held_out);
    sets[is_out ? 1 : 0].texts.push_back(std::move(text));
  }
  for (const ProbeSet& set : sets) {
    if (!set.texts.empty()) continue;
    throw ConfigError(fmt::format("probe: no {} texts, of {}", set.name, all.size()),
                      "keys on both sides of the split", "another --held-out, or --test NAME=PATH");
  }
  return sets;
}

void check_page(const std::string& page) {
  if (!fs::is_directory(page)) return;
  throw UsageError(fmt::format("probe: --page {} is a folder", display_path(page)),
                   "the name of a file");
}

void pool(const ProbePlan& plan, const features::Subject& subject, const features::NamedSae& sae,
          std::vector<ProbeSet>& sets) {
  const features::Pooling pooling =
      plan.pooling == "max" ? features::Pooling::kMax : features::Pooling::kMean;
  const sae::InferenceSae untrained = features::make_untrained_sae(
      subject, sae, sets[0].texts, plan.tokens, static_cast<std::uint64_t>(plan.seed));
  for (ProbeSet& set : sets) {
    set.pooled = features::pool_documents(subject, sae, untrained, set.texts, pooling, plan.tokens);
    const std::size_t n_lost = set.texts.size() - set.pooled.documents.size();
    if (n_lost > 0) {
      log_warning(fmt::format("probe: {} of {} {} texts have no position that is kept", n_lost,
                              set.texts.size(), visible_text(set.name)));
    }
  }
}

/// The concepts of word pairs, as directions of the residual stream.
std::vector<features::ProbeDirection> word_pair_directions(const ProbePlan& plan,
                                                           const features::Subject& subject) {
  std::vector<features::ProbeDirection> out;
  if (plan.word_pairs.empty()) return out;
  const at::Tensor unembedding = subject.model->unembedding();
  const features::CausalInnerProduct product(unembedding);
  for (const std::string& path : plan.word_pairs) {
    const features::WordPairs pairs = features::read_word_pairs(path, *subject.tokenizer);
    if (!pairs.left_out.empty()) {
      log_warning(fmt::format("probe: {}: {} pairs have a word that is not one token",
                              display_path(path), pairs.left_out.size()));
    }
    const features::ConceptDirection one =
        features::concept_direction(pairs, product, static_cast<std::uint64_t>(plan.seed));
    out.push_back({one.name + " (reading)", one.reading});
    out.push_back({one.name + " (inverse covariance)", one.writing});
  }
  return out;
}

void run_probe(const ProbeCommandOptions& options, const PlanOptions<ProbePlan, CLI::App>& given) {
  start(options);
  check_page(options.page);
  ProbePlan plan;
  if (!options.plan_file.empty()) plan = features::read_probe_plan(options.plan_file);
  given.put_over(plan);
  features::ProbeOptions asked = plan.options();
  std::vector<ProbeSet> sets = make_sets(plan);
  const features::Subject subject = load_subject(options, Needs::kSae).subject;
  const features::NamedSae& sae = subject.sae({});
  asked.directions = word_pair_directions(plan, subject);
  for (features::ProbeDirection& one : features::probe_directions(plan, subject, sae))
    asked.directions.push_back(std::move(one));
  pool(plan, subject, sae, sets);
  const std::vector<features::TaskReport> tasks = features::probe(sets, asked);

  features::ProbeContext context;
  context.subject = options.path;
  context.sae_name = sae.name;
  context.hook_point = sae.hook_point;
  context.pooling = fmt::format(
      "latents: {} over {} of a document", plan.pooling,
      plan.tokens == 0 ? std::string("all tokens") : fmt::format("{} tokens", plan.tokens));
  for (const ProbeSet& set : sets) context.sets.push_back(&set);
  context.notes = {{"seed", fmt::format("{}", asked.seed)},
                   {"resamples", fmt::format("{}", asked.n_resamples)}};
  context.command = command_line();
  if (!options.page.empty()) {
    write_file_atomically(options.page, probe_page(tasks, context, *subject.tokenizer));
    log_info(fmt::format("probe: {}", display_path(options.page)));
  }
  print_result(options.json ? probe_json(tasks, context).dump(2) + "\n"
                            : probe_text(tasks, context, *subject.tokenizer));
}

void add_text_options(PlanOptions<ProbePlan, CLI::App>& given) {
  given.add("--texts", &ProbePlan::texts,
            "labelled texts: JSON lines, or a folder with a folder of *.txt a label");
  given.add("--group", &ProbePlan::groups,
            "LABEL=PATH: texts of one label, a folder or a file; repeatable");
  given.add("--test", &ProbePlan::tests,
            "NAME=PATH: test on these labelled texts, in the form of --texts; repeatable. Without "
            "it, a share of the keys is held out");
  given.add("--held-out", &ProbePlan::held_out, "share of the keys that are tested on")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 0.9));
  given.add("--text-field", &ProbePlan::text_field, "of a JSON line")->capture_default_str();
  given.add("--label-field", &ProbePlan::label_field, "of a JSON line")->capture_default_str();
  given.add("--key-field", &ProbePlan::key_field,
            "of a JSON line: texts of one key (a section in several languages) are split and "
            "resampled together; of *.txt it is the file's name");
  given.add("--control-field", &ProbePlan::control_field,
            "of a JSON line: another attribute, which nothing should find");
}

void add_question_options(PlanOptions<ProbePlan, CLI::App>& given) {
  given.add("--contrast", &ProbePlan::contrasts,
            "LABEL:LABEL: tell these two apart as well; repeatable");
  given.add(
      "--word-pairs", &ProbePlan::word_pairs,
      "two words a line that differ in one concept: how well its direction in the unembedding "
      "tells the labels apart; repeatable");
  given.add("--direction", &ProbePlan::directions,
            "how well the projection on it tells the labels apart: FILE.npy, FILE.safetensors, or "
            "what `thresher steer` takes, such as means:FILE; repeatable");
  given.add("--prefix", &ProbePlan::prefix,
            "what pairs of a direction are read behind; else BOS or a line break");
  given.add("--pool", &ProbePlan::pooling, "how a latent's activations become a document's")
      ->capture_default_str()
      ->check(CLI::IsMember({"mean", "max"}));
  given.add("--tokens", &ProbePlan::tokens, "kept tokens of a document, the first; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 24));
}

void add_number_options(PlanOptions<ProbePlan, CLI::App>& given) {
  given.add("--sparse", &ProbePlan::sparse, "latents of the sparse probes")
      ->delimiter(',')
      ->capture_default_str();
  given.add("--best", &ProbePlan::n_best, "latents a label that are shown")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  given.add("--random", &ProbePlan::n_random, "random directions")
      ->capture_default_str()
      ->check(CLI::Range(99, 100000));
  given.add("--shuffles", &ProbePlan::n_shuffles, "of the labels")
      ->capture_default_str()
      ->check(CLI::Range(19, 100000));
  given.add("--resamples", &ProbePlan::n_resamples, "for the intervals")
      ->capture_default_str()
      ->check(CLI::Range(100, 1000000));
  given.add("--seed", &ProbePlan::seed, "of everything that is drawn")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
}

}  // namespace

void add_probe(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "probe", "which latents and directions tell labelled texts apart, beside baselines");
  command->footer(
      "Everything is chosen and fitted on training texts and measured on others: AUROC and Cohen's "
      "d with\nintervals over documents. What a plan file says, options override. See "
      "docs/auditing.md.");
  const auto options = std::make_shared<ProbeCommandOptions>();
  const auto given = std::make_shared<PlanOptions<ProbePlan, CLI::App>>(*command);
  command->add_option("--plan", options->plan_file, "a YAML file with what the options below say");
  add_text_options(*given);
  add_question_options(*given);
  add_number_options(*given);
  command->add_option("--page", options->page, "write the report as one HTML page, too");
  add_subject_options(*command, *options);
  command->callback(
      [&action, options, given] { action = [options, given] { run_probe(*options, *given); }; });
}

}  // namespace thresher::cli
