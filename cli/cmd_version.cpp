#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/versions.h"
#include "core/config.h"

namespace thresher::cli {

void add_version(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("version", "print versions");
  const auto options = std::make_shared<Options>();
  add_output_options(*command, *options);
  command->callback([&action, options] {
    action = [=] {
      start(*options);
      const Json versions = versions_json();
      print_result(options->json ? versions.dump(2) + "\n" : to_yaml(versions));
    };
  });
}

}  // namespace thresher::cli
