#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/subject.h"
#include "core/error.h"
#include "core/visible_text.h"
#include "features/prompts.h"
#include "host_model/generation.h"

namespace thresher::cli {
namespace {

using host_model::Generated;

struct GenerateOptions : SubjectOptions {
  std::vector<std::string> prompts;
  std::string file;
  bool special = false, no_stop = false;
  std::int64_t samples = 1;
  host_model::GenerationRequest request;
};

const char* end_name(Generated::End end) {
  switch (end) {
    case Generated::End::kStopToken:
      return "stop token";
    case Generated::End::kContextFull:
      return "context full";
    case Generated::End::kLength:
      break;
  }
  return "length";
}

void run_generate(GenerateOptions options) {
  start(options);
  if (!options.file.empty()) {
    const std::vector<std::string> lines = features::read_lines(options.file);
    options.prompts.insert(options.prompts.end(), lines.begin(), lines.end());
  }
  const features::Subject subject = load_subject(options, Needs::kModel).subject;
  host_model::GenerationRequest& request = options.request;
  for (const std::string& text : options.prompts) {
    const std::vector<std::int32_t> ids = features::prompt_tokens(subject, text, options.special);
    for (std::int64_t sample = 0; sample < options.samples; ++sample) {
      request.prompts.push_back({ids, sample});
    }
  }
  if (!options.no_stop) request.stop_ids = features::stop_tokens(*subject.tokenizer);
  const std::vector<Generated> results = host_model::generate(*subject.model, request);
  Json list = Json::array();
  std::string text;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const std::string& prompt = options.prompts[i / static_cast<std::size_t>(options.samples)];
    const std::string made = subject.tokenizer->decode(results[i].token_ids);
    text += fmt::format("{}{}│{}\n", i == 0 ? "" : "\n", visible_text(prompt), visible_text(made));
    list.push_back(Json::object({{"prompt", visible_text(prompt)},
                                 {"sample", request.prompts[i].sample},
                                 {"prompt_ids", Json::array_of(request.prompts[i].token_ids)},
                                 {"text", visible_text(made)},
                                 {"token_ids", Json::array_of(results[i].token_ids)},
                                 {"end", end_name(results[i].end)}}));
  }
  print_result(options.json ? Json::object({{"generated", list}}).dump(2) + "\n" : text);
}

}  // namespace

void add_generate(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("generate", "continues prompts with the host model");
  command->footer(
      "Shows each prompt, a bar, and what the model adds. Without --temperature the most probable "
      "token\n"
      "is taken each time. The same seed, prompt and sample give the same text, whatever else is "
      "asked.");
  const auto options = std::make_shared<GenerateOptions>();
  add_subject_options(*command, *options);
  CLI::Option* prompt = command->add_option("--prompt", options->prompts, "a prompt; repeatable")
                            ->allow_extra_args(false);
  CLI::Option* file = command->add_option("--file", options->file, "a file with one prompt a line");
  host_model::GenerationRequest& request = options->request;
  command->add_option("--max-tokens", request.max_new_tokens, "new tokens at most")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--temperature", request.temperature, "0: always the most probable token")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 100.0));
  command
      ->add_option("--top-p", request.top_p,
                   "draw from the fewest most probable tokens that hold this probability")
      ->capture_default_str()
      ->check(CLI::Range(1e-6, 1.0));
  command->add_option("--seed", request.seed, "of the draws")->capture_default_str();
  command->add_option("--samples", options->samples, "texts a prompt")
      ->capture_default_str()
      ->check(CLI::Range(1, 10000));
  command->add_option("--batch", request.batch_contexts, "texts that are made together")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  command->add_flag("--special", options->special,
                    "text such as <|im_start|> in a prompt stands for the special token");
  command->add_flag("--no-stop", options->no_stop, "go on past EOS and other special tokens");
  command->callback([&action, options, prompt, file] {
    if (prompt->count() + file->count() == 0) {
      throw UsageError("thresher generate: neither --prompt nor --file", "at least one of the two");
    }
    action = [options] { run_generate(*options); };
  });
}

}  // namespace thresher::cli
