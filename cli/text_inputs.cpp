#include "cli/text_inputs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "activation_cache/cache_format.h"
#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "corpus/standard_input.h"

namespace thresher::cli {

std::filesystem::path kept_input(const Experiment& experiment) {
  std::filesystem::path folder = experiment.cache.dir;
  if (!folder.has_filename()) folder = folder.parent_path();  // "caches/mine/"
  return folder.concat(".stdin");
}

corpus::CorpusConfig readable_corpus(const Experiment& experiment, comm::Communicator& comm) {
  corpus::CorpusConfig config = experiment.corpus;
  if (!corpus::wants_standard_input(config.paths)) return config;
  const std::filesystem::path kept = kept_input(experiment);
  if (comm.is_root()) {
    log_info(fmt::format("corpus: reading standard input; it is kept in {}", kept.string()));
  }
  work_together(comm, "read standard input", [&] {
    if (!comm.is_root()) return;
    const bool is_in_use = std::filesystem::exists(std::filesystem::path(experiment.cache.dir) /
                                                   activation_cache::kIdentityFile);
    corpus::keep_standard_input(
        STDIN_FILENO, kept,
        is_in_use ? corpus::KeptInput::kInUse : corpus::KeptInput::kReplaceable);
  });
  config.paths = corpus::with_kept_input(config.paths, kept);
  return config;
}

void use_kept_input(Experiment& experiment) {
  if (!corpus::wants_standard_input(experiment.corpus.paths)) return;
  const std::filesystem::path kept = kept_input(experiment);
  if (!std::filesystem::exists(kept)) {
    throw ConfigError(
        fmt::format("corpus.paths: '{}', which keeps the run's standard input, is not there",
                    kept.string()),
        "the file that the run made", "--set corpus.paths=[...] names the text elsewhere");
  }
  experiment.corpus.paths = corpus::with_kept_input(experiment.corpus.paths, kept);
}

void warn_about_text(const corpus::CorpusSummary& summary, const corpus::PackedContexts& contexts) {
  std::vector<std::string> oddities;
  const auto add = [&](std::int64_t count, const char* what) {
    if (count > 0) oddities.push_back(fmt::format("{} {}", count, what));
  };
  add(summary.n_nul_bytes, "NUL bytes");
  add(summary.n_invalid_utf8_bytes, "bytes that are not UTF-8");
  add(contexts.n_lost_bytes, "bytes for which the tokenizer has no token");
  if (!oddities.empty()) {
    log_warning(fmt::format("corpus: the text has {}", fmt::join(oddities, ", ")));
  }
  if (summary.n_bad_lines > 0) {
    log_warning(fmt::format("corpus: {} bad lines were left out, the first is {}",
                            summary.n_bad_lines, Json(summary.first_bad_line).dump()));
  }
}

}  // namespace thresher::cli
