#include "cli/feature_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "core/visible_text.h"

namespace thresher::cli {

namespace fs = std::filesystem;

void add_store_options(CLI::App& command, StoreOptions& options) {
  command.add_option("RUN", options.path, "a run directory with a store, or the store's file")
      ->required();
  command.add_option("--sae", options.sae, "one SAE of the run, where several have a store");
  add_output_options(command, options);
}

fs::path find_store(const StoreOptions& options) {
  const fs::path path = options.path;
  if (fs::is_regular_file(path)) {
    if (!options.sae.empty()) {
      throw UsageError("--sae with the file of a store, which holds one SAE", "a run directory");
    }
    return path;
  }
  if (!options.sae.empty()) {
    if (options.sae.find('/') != std::string::npos) {
      throw UsageError(fmt::format("--sae {} is no name of an SAE", visible_text(options.sae)));
    }
    return features::store_path(path, options.sae);
  }
  std::vector<fs::path> stores;
  std::vector<std::string> names;
  if (fs::is_directory(path / "features")) {
    for (const fs::path& file : list_folder(path / "features")) {
      if (file.extension() != ".sqlite" || file.filename().string().starts_with(".")) continue;
      stores.push_back(file);
      names.push_back(file.stem().string());
    }
  }
  if (stores.empty()) {
    throw ConfigError(fmt::format("{}: there is no feature store", display_path(path)),
                      "features/NAME.sqlite in the run directory",
                      fmt::format("`thresher features build {}` makes it", display_path(path)));
  }
  if (stores.size() > 1) {
    throw ConfigError(fmt::format("{}: {} SAEs have a feature store, and none was chosen",
                                  display_path(path), stores.size()),
                      fmt::format("one of {}", fmt::join(names, ", ")), "--sae NAME");
  }
  return stores.front();
}

features::FeatureStore open_store(const StoreOptions& options) {
  return features::FeatureStore(find_store(options));
}

}  // namespace thresher::cli
