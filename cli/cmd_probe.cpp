#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>

#include "cli/commands.h"
#include "cli/subject.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "core/visible_text.h"
#include "features/probe_report.h"
#include "features/probing.h"
#include "features/word_pairs.h"

namespace thresher::cli {
namespace {

namespace fs = std::filesystem;
using features::LabelledText;
using features::ProbeSet;

struct ProbeCommandOptions : SubjectOptions {
  std::vector<std::string> groups, tests, contrasts, word_pairs;
  std::string texts, page, pooling = "mean";
  features::LabelFields fields;
  double held_out = 0.3;
  std::int64_t tokens = 0;
  features::ProbeOptions probe;
};

/// "fr=texts" as its two parts.
std::pair<std::string, std::string> split_pair(const std::string& option, const std::string& text,
                                               char separator, const std::string& form) {
  const std::size_t at = text.find(separator);
  if (at == std::string::npos || at == 0 || at + 1 == text.size()) {
    throw UsageError(fmt::format("{} {}", option, visible_text(text)), form);
  }
  return {text.substr(0, at), text.substr(at + 1)};
}

std::vector<LabelledText> read_texts(const ProbeCommandOptions& options) {
  if (options.texts.empty() == options.groups.empty()) {
    throw UsageError("thresher probe: labelled texts come either by --texts or by --group",
                     "--texts FILE, or --group LABEL=PATH for each label");
  }
  if (!options.texts.empty()) return features::read_labelled_texts(options.texts, options.fields);
  std::vector<LabelledText> out;
  for (const std::string& group : options.groups) {
    const auto [label, path] = split_pair("--group", group, '=', "--group LABEL=PATH");
    std::vector<LabelledText> texts = features::read_group(label, path, options.fields);
    std::move(texts.begin(), texts.end(), std::back_inserter(out));
  }
  return out;
}

/// Training texts first, then what is tested on.
std::vector<ProbeSet> make_sets(const ProbeCommandOptions& options) {
  std::vector<ProbeSet> sets;
  sets.push_back({"training", read_texts(options), {}});
  for (const std::string& test : options.tests) {
    const auto [name, path] = split_pair("--test", test, '=', "--test NAME=PATH");
    sets.push_back({name, features::read_labelled_texts(path, options.fields), {}});
  }
  if (sets.size() > 1) return sets;
  sets.push_back({"held-out", {}, {}});
  std::vector<LabelledText> all = std::move(sets[0].texts);
  sets[0].texts.clear();
  for (LabelledText& text : all) {
    const bool is_out = features::is_held_out(text.key, options.held_out);
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

void pool(const ProbeCommandOptions& options, const features::Subject& subject,
          const features::NamedSae& sae, std::vector<ProbeSet>& sets) {
  const features::Pooling pooling =
      options.pooling == "max" ? features::Pooling::kMax : features::Pooling::kMean;
  const sae::InferenceSae untrained =
      features::make_untrained_sae(subject, sae, sets[0].texts, options.tokens, options.probe.seed);
  for (ProbeSet& set : sets) {
    set.pooled =
        features::pool_documents(subject, sae, untrained, set.texts, pooling, options.tokens);
    const std::size_t n_lost = set.texts.size() - set.pooled.documents.size();
    if (n_lost > 0) {
      log_warning(fmt::format("probe: {} of {} {} texts have no position that is kept", n_lost,
                              set.texts.size(), visible_text(set.name)));
    }
  }
}

/// The concepts of word pairs, as directions of the residual stream.
std::vector<features::ProbeDirection> word_pair_directions(const ProbeCommandOptions& options,
                                                           const features::Subject& subject) {
  std::vector<features::ProbeDirection> out;
  if (options.word_pairs.empty()) return out;
  const at::Tensor unembedding = subject.model->unembedding();
  const features::CausalInnerProduct product(unembedding);
  for (const std::string& path : options.word_pairs) {
    const features::WordPairs pairs = features::read_word_pairs(path, *subject.tokenizer);
    if (!pairs.left_out.empty()) {
      log_warning(fmt::format("probe: {}: {} pairs have a word that is not one token",
                              display_path(path), pairs.left_out.size()));
    }
    const features::ConceptDirection one =
        features::concept_direction(pairs, product, options.probe.seed);
    out.push_back({one.name + " (reading)", one.reading});
    out.push_back({one.name + " (inverse covariance)", one.writing});
  }
  return out;
}

void run_probe(ProbeCommandOptions options) {
  start(options);
  check_page(options.page);
  for (const std::string& contrast : options.contrasts) {
    options.probe.contrasts.push_back(
        split_pair("--contrast", contrast, ':', "--contrast LABEL:LABEL"));
  }
  std::sort(options.probe.sparse_ks.begin(), options.probe.sparse_ks.end());
  std::vector<ProbeSet> sets = make_sets(options);
  const features::Subject subject = load_subject(options, Needs::kSae).subject;
  const features::NamedSae& sae = subject.sae({});
  options.probe.directions = word_pair_directions(options, subject);
  pool(options, subject, sae, sets);
  const std::vector<features::TaskReport> tasks = features::probe(sets, options.probe);

  features::ProbeContext context;
  context.subject = options.path;
  context.sae_name = sae.name;
  context.hook_point = sae.hook_point;
  context.pooling = fmt::format(
      "latents: {} over {} of a document", options.pooling,
      options.tokens == 0 ? std::string("all tokens") : fmt::format("{} tokens", options.tokens));
  for (const ProbeSet& set : sets) context.sets.push_back(&set);
  context.notes = {{"seed", fmt::format("{}", options.probe.seed)},
                   {"resamples", fmt::format("{}", options.probe.n_resamples)}};
  context.command = command_line();
  if (!options.page.empty()) {
    write_file_atomically(options.page, probe_page(tasks, context, *subject.tokenizer));
    log_info(fmt::format("probe: {}", display_path(options.page)));
  }
  print_result(options.json ? probe_json(tasks, context).dump(2) + "\n"
                            : probe_text(tasks, context, *subject.tokenizer));
}

void add_text_options(CLI::App& command, ProbeCommandOptions& options) {
  command.add_option("--texts", options.texts,
                     "labelled texts: JSON lines, or a folder with a folder of *.txt a label");
  command.add_option("--group", options.groups,
                     "LABEL=PATH: texts of one label, a folder or a file; repeatable");
  command.add_option("--test", options.tests,
                     "NAME=PATH: test on these labelled texts, in the form of --texts; repeatable. "
                     "Without it, a share of the keys is held out");
  command.add_option("--held-out", options.held_out, "share of the keys that are tested on")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 0.9));
  command.add_option("--text-field", options.fields.text, "of a JSON line")->capture_default_str();
  command.add_option("--label-field", options.fields.label, "of a JSON line")
      ->capture_default_str();
  command.add_option("--key-field", options.fields.key,
                     "of a JSON line: texts of one key (a section in several languages) are split "
                     "and resampled together; of *.txt it is the file's name");
  command.add_option("--control-field", options.fields.control,
                     "of a JSON line: another attribute, which nothing should find");
}

}  // namespace

void add_probe(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "probe", "which latents and directions tell labelled texts apart, beside baselines");
  command->footer(
      "Everything is chosen and fitted on training texts and measured on others: AUROC and Cohen's "
      "d with\nintervals over documents. See docs/auditing.md.");
  const auto options = std::make_shared<ProbeCommandOptions>();
  add_text_options(*command, *options);
  command->add_option("--contrast", options->contrasts,
                      "LABEL:LABEL: tell these two apart as well; repeatable");
  command->add_option("--word-pairs", options->word_pairs,
                      "two words a line that differ in one concept: how well its direction in the "
                      "unembedding tells the labels apart; repeatable");
  command->add_option("--pool", options->pooling, "how a latent's activations become a document's")
      ->capture_default_str()
      ->check(CLI::IsMember({"mean", "max"}));
  command->add_option("--tokens", options->tokens, "kept tokens of a document, the first; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 24));
  command->add_option("--sparse", options->probe.sparse_ks, "latents of the sparse probes")
      ->delimiter(',')
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  command->add_option("--best", options->probe.n_best, "latents a label that are shown")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  command->add_option("--random", options->probe.n_random, "random directions")
      ->capture_default_str()
      ->check(CLI::Range(99, 100000));
  command->add_option("--shuffles", options->probe.n_shuffles, "of the labels")
      ->capture_default_str()
      ->check(CLI::Range(19, 100000));
  command->add_option("--resamples", options->probe.n_resamples, "for the intervals")
      ->capture_default_str()
      ->check(CLI::Range(100, 1000000));
  command->add_option("--seed", options->probe.seed)->capture_default_str();
  command->add_option("--page", options->page, "write the report as one HTML page, too");
  add_subject_options(*command, *options);
  command->callback([&action, options] { action = [options] { run_probe(*options); }; });
}

}  // namespace thresher::cli
