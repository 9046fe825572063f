#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <optional>

#include "cli/commands.h"
#include "cli/feature_options.h"
#include "cli/subject.h"
#include "core/error.h"
#include "core/log.h"
#include "features/dashboard.h"
#include "features/feature_server.h"
#include "features/feature_store.h"

namespace thresher::cli {
namespace {

struct ServeOptions : StoreOptions {
  features::ServerOptions server;
  bool no_model = false;
};

/// The host model and the SAE that the store is of.
struct Live {
  explicit Live(const ServeOptions& options, const std::string& sae) {
    SubjectOptions of_run;
    of_run.path = options.path;
    of_run.sae = sae;
    loaded = load_subject(of_run, Needs::kSae);
    steering.emplace(loaded.subject, loaded.subject.sae(sae));
  }
  LoadedSubject loaded;
  std::optional<features::LiveSteering> steering;
};

void run_serve(ServeOptions options) {
  start(options);
  const std::filesystem::path path = find_store(options);
  const std::string sae = features::FeatureStore(path).facts().at("sae").as_string();
  if (std::filesystem::is_directory(options.path)) {
    const Experiment experiment = load_run(options.path, {});
    options.server.model = std::filesystem::path(experiment.host_model.weights).stem().string();
  }
  std::unique_ptr<Live> live;
  if (!options.no_model) {
    if (!std::filesystem::is_directory(options.path)) {
      throw UsageError("serve: a store alone holds no host model to steer", "a run directory",
                       "--no-model serves the pages without it");
    }
    live = std::make_unique<Live>(options, sae);
  }
  const std::string page = features::dashboard_html(features::FeatureStore(path), {});
  features::FeatureServer server(path, page, live ? &*live->steering : nullptr, options.server);
  server.run([&](const std::string& url) {
    log_info(fmt::format("serve: {} (interrupt to end)", url));
    print_result(options.json ? Json::object({{"url", url}}).dump() + "\n" : url + "\n");
  });
}

}  // namespace

void add_serve(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "serve", "the dashboard, an API and a page that steers the live model, on this machine");
  command->footer(
      "Prints its URL and serves until it is interrupted. It listens on 127.0.0.1 unless --host "
      "says\n"
      "otherwise; there is no log-in, so whoever reaches it can read the store and use the model.");
  const auto options = std::make_shared<ServeOptions>();
  add_store_options(*command, *options);
  command->add_option("--host", options->server.host, "address to listen on")
      ->capture_default_str();
  command->add_option("--port", options->server.port, "0: any free one")
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  command->add_flag("--no-model", options->no_model, "pages and search alone, without steering");
  command->callback([&action, options] { action = [options] { run_serve(*options); }; });
}

}  // namespace thresher::cli
