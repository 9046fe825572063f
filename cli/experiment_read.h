#pragma once

#include <functional>
#include <string>

#include "cli/experiment.h"
#include "core/config.h"

namespace thresher::cli {

// Parts of read_experiment (cli/experiment.h), for its two files alone.

/// The section's map, or an empty one that stands for the whole file in messages.
ConfigNode section_or_empty(const ConfigNode& root, const std::string& name);

template <class Section>
void read_section(const ConfigNode& root, const std::string& name, Section& section) {
  const ConfigNode node = section_or_empty(root, name);
  ConfigReader reader(&node, name);
  section.declare(reader);
  reader.finish();
}

/// Runs a check that knows nothing of places and puts the place of `node` before what it throws.
void check_at(const ConfigNode& node, const std::function<void()>& check);

/// Where activations come from: a text and a host model, or somebody's own files.
void read_source(const ConfigNode& root, Experiment& experiment);
/// Section `cache` with the defaults that follow from the source, and its hook points checked.
void read_cache(const ConfigNode& root, Experiment& experiment);

}  // namespace thresher::cli
