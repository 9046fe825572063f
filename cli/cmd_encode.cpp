#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "cli/commands.h"
#include "cli/subject.h"
#include "core/error.h"
#include "core/files.h"
#include "core/log.h"
#include "core/visible_text.h"
#include "corpus/document_reader.h"
#include "corpus/standard_input.h"
#include "evaluation/encode_text.h"
#include "evaluation/text_table.h"

namespace thresher::cli {
namespace {

using activation_cache::DropReason;

constexpr std::size_t kLargestText = std::size_t{16} << 20U;

struct EncodeOptions : SubjectOptions {
  std::string text, file;
  std::int64_t top = 5;
};

const char* reason_text(DropReason reason) {
  switch (reason) {
    case DropReason::kFirst:
      return "first position";
    case DropReason::kSpecial:
      return "special token";
    case DropReason::kNorm:
      return "outlier norm";
    case DropReason::kHeldOut:  // of own activations only
    case DropReason::kKept:
      break;
  }
  return "";
}

Json token_json(const evaluation::EncodedToken& token,
                const std::vector<features::NamedSae>& saes) {
  Json by_sae = Json::object();
  for (std::size_t i = 0; i < saes.size(); ++i) {
    Json latents = Json::array();
    for (const auto& [latent, activation] : token.latents[i]) {
      latents.push_back(
          Json::object({{"latent", latent}, {"activation", static_cast<double>(activation)}}));
    }
    by_sae[saes[i].name] = Json::object({{"n_active", token.n_active[i]}, {"latents", latents}});
  }
  const bool is_kept = token.dropped == DropReason::kKept;
  return Json::object({{"id", static_cast<std::int64_t>(token.id)},
                       {"text", visible_text(token.bytes)},
                       {"context", token.context},
                       {"position", token.position},
                       {"dropped", is_kept ? Json() : Json(reason_text(token.dropped))},
                       {"saes", is_kept ? by_sae : Json()}});
}

std::string tokens_text(const std::vector<evaluation::EncodedToken>& tokens,
                        const std::vector<features::NamedSae>& saes) {
  std::string out;
  for (std::size_t i = 0; i < saes.size(); ++i) {
    std::vector<std::vector<std::string>> lines = {{"token", "latent:activation"}};
    for (const evaluation::EncodedToken& token : tokens) {
      std::string latents;
      for (const auto& [latent, activation] : token.latents[i]) {
        latents += fmt::format("{}{}:{:.3g}", latents.empty() ? "" : "  ", latent, activation);
      }
      if (token.dropped != DropReason::kKept) {
        latents = fmt::format("(dropped: {})", reason_text(token.dropped));
      }
      lines.push_back({token.bytes, latents});
    }
    out += fmt::format("{}{} at {}\n\n{}", i == 0 ? "" : "\n", saes[i].name, saes[i].hook_point,
                       evaluation::text_table(std::move(lines), 2));
  }
  return out;
}

/// The text that is asked about; a file is read with the checks of a corpus.
std::string text_of(const EncodeOptions& options, const corpus::CorpusConfig& corpus) {
  if (options.file.empty()) return options.text;
  corpus::DocumentFormat format;
  format.max_expansion = corpus.max_expansion;
  format.max_document_bytes = kLargestText;
  std::filesystem::path path = options.file;
  FileDescriptor held;
  if (options.file == "-") {
    held = corpus::hold_standard_input(STDIN_FILENO, kLargestText);
    path = corpus::held_path(held);
    format.shown_name = "standard input";
  }
  std::string text;
  const corpus::FileReport report = corpus::read_documents(
      path, format, [&](std::string_view whole, std::int64_t) { text = whole; });
  if (report.n_nul_bytes + report.n_invalid_utf8_bytes > 0) {
    log_warning(fmt::format("encode: the text has {} NUL bytes and {} bytes that are not UTF-8",
                            report.n_nul_bytes, report.n_invalid_utf8_bytes));
  }
  return text;
}

void run_encode(const EncodeOptions& options) {
  start(options);
  const features::Subject subject = load_subject(options, Needs::kSae).subject;
  const std::string text = text_of(options, subject.rules.corpus);
  std::vector<evaluation::EncodingSae> entries;
  std::vector<std::string> names;
  for (const features::NamedSae& one : subject.saes) {
    entries.push_back({one.hook_point, &one.sae});
    names.push_back(one.name);
  }
  const std::vector<evaluation::EncodedToken> tokens = evaluation::encode_text(
      text, subject.rules, entries, options.top, *subject.tokenizer, *subject.model);
  if (!options.json) {
    print_result(tokens_text(tokens, subject.saes));
    return;
  }
  Json list = Json::array();
  for (const evaluation::EncodedToken& token : tokens)
    list.push_back(token_json(token, subject.saes));
  print_result(
      Json::object({{"run", options.path}, {"saes", Json::array_of(names)}, {"tokens", list}})
          .dump(2) +
      "\n");
}

}  // namespace

void add_encode(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("encode", "the latents that each token of a text activates");
  command->footer(
      "Runs the text through the host model as in the SAE's training: contexts of the same length, "
      "the\n"
      "same positions left out (they are marked). Bytes that cannot be shown stand as \\xNN.");
  const auto options = std::make_shared<EncodeOptions>();
  CLI::Option* text = command->add_option("--text", options->text, "the text");
  CLI::Option* file = command->add_option(
      "--file", options->file,
      "a file with the text in UTF-8, packed or not, at most 16 MiB; -: standard input");
  text->excludes(file);
  command->add_option("--top", options->top, "latents a token, those of largest activation")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000000));
  add_subject_options(*command, *options);
  command->callback([&action, options, text, file] {
    if (text->count() + file->count() == 0) {
      throw UsageError("thresher encode: neither --text nor --file", "one of the two");
    }
    action = [options] { run_encode(*options); };
  });
}

}  // namespace thresher::cli
