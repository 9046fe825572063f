#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/feature_options.h"
#include "core/error.h"
#include "core/files.h"
#include "core/progress.h"
#include "core/visible_text.h"
#include "features/dashboard.h"

namespace thresher::cli {
namespace {

struct DashboardCommand : StoreOptions {
  std::string out;
  features::DashboardOptions page;
};

void run_dashboard(const DashboardCommand& options) {
  start(options);
  if (std::filesystem::is_directory(options.out)) {
    throw UsageError(fmt::format("dashboard: {} is a folder", display_path(options.out)),
                     "the name of the page's file");
  }
  const features::FeatureStore store = open_store(options);
  features::write_dashboard(store, options.page, options.out);
  const std::uint64_t bytes = thresher::file_size(options.out);
  if (options.json) {
    print_result(
        Json::object({{"path", options.out}, {"bytes", bytes}, {"n_latents", store.n_latents()}})
            .dump(2) +
        "\n");
    return;
  }
  print_result(fmt::format("{}: {} latents, {}\n", display_path(options.out), store.n_latents(),
                           format_bytes(bytes)));
}

}  // namespace

void add_dashboard(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("dashboard", "one HTML file to browse the latents of a feature store");
  command->footer("The file needs no network and asks for none. `thresher features build` first.");
  const auto options = std::make_shared<DashboardCommand>();
  add_store_options(*command, *options);
  command->add_option("OUT", options->out, "the HTML file to write")->required();
  command->add_option("--top", options->page.n_top, "strongest contexts a latent")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  command
      ->add_option("--per-quantile", options->page.n_per_quantile,
                   "contexts of each quantile group")
      ->capture_default_str()
      ->check(CLI::Range(0, 100));
  command->callback([&action, options] { action = [options] { run_dashboard(*options); }; });
}

}  // namespace thresher::cli
