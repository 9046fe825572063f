#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "features/live_steering.h"

namespace thresher::features {

struct ServerOptions {
  std::string model = "model";  // {modelId} in paths: a name for the host model
  std::string host = "127.0.0.1";
  int port = 8080;  // 0: any that is free
  int threads = 4;
};

/// Shows a feature store to browsers and programs.
///
///     GET  /                                       the dashboard
///     GET  /steer                                  a page that steers the live model
///     GET  /api/feature/{modelId}/{layer}/{index}  as Neuronpedia's (features/neuronpedia.h)
///     POST /api/explanation/search                 {"query", "modelId"?, "layers"?, "offset"?}
///     POST /api/steer                              {"prompt", "features": [{"index", "strength"}],
///                                                   "temperature"?, "n_tokens"?, "seed"?,
///                                                   "strength_multiplier"?}
///     GET  /api/facts                              what the store was made from, and its names
///     here
///
/// Everything else is 404: no path of a request ever becomes a path of a file. Bodies are JSON of
/// at most 1 MiB. Requests whose Host header names neither the host it listens on nor localhost are
/// refused (403), and so are POSTs without Content-Type: application/json (415), so that no page of
/// another site can speak to it. Errors are {"error": "..."}.
class FeatureServer {
 public:
  /// `dashboard` is the page at "/"; empty: "/" leads to /steer. `steering` may be null: /api/steer
  /// then says so (503).
  FeatureServer(const std::filesystem::path& store, std::string dashboard, LiveSteering* steering,
                ServerOptions options);
  ~FeatureServer();

  /// Serves until a stop is requested (core/stop_signal.h). `on_ready` gets the URL. IoError where
  /// the address cannot be had.
  void run(const std::function<void(const std::string& url)>& on_ready);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace thresher::features
