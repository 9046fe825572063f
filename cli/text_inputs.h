#pragma once

#include <filesystem>

#include "cli/experiment.h"
#include "cli/stages.h"
#include "comm/communicator.h"
#include "corpus/corpus.h"

namespace thresher::cli {

/// Where an experiment that reads standard input keeps it: beside the cache, on the file system
/// that all ranks share.
std::filesystem::path kept_input(const Experiment& experiment);

/// The corpus section with "-" replaced by that file, after rank 0 has read standard input into it
/// (see corpus/standard_input.h). Collective.
corpus::CorpusConfig readable_corpus(const Experiment& experiment, comm::Communicator& comm);

/// For commands that look at a run that has been: takes the kept text without reading standard
/// input. ConfigError when it is gone.
void use_kept_input(Experiment& experiment);

/// Warns of bytes and lines that are seldom meant, if there are any.
void warn_about_text(const corpus::CorpusSummary& summary, const corpus::PackedContexts& contexts);

}  // namespace thresher::cli
