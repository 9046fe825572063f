#include "features/feature_server.h"

#include <fmt/format.h>
#include <httplib.h>
#include <sys/socket.h>

#include <chrono>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/stop_signal.h"
#include "core/visible_text.h"
#include "features/feature_store.h"
#include "features/neuronpedia.h"
#include "features/steer_page.h"

namespace thresher::features {
namespace {

constexpr std::size_t kLargestBody = std::size_t{1} << 20U;
constexpr std::int64_t kMostResults = 20, kMostNewTokens = 256, kMostFeatures = 64;
constexpr std::size_t kLongestPrompt = 16384;

/// A request that is answered with a status other than 200.
struct Refusal {
  int status;
  std::string reason;
};

void answer_json(httplib::Response& response, const Json& json, int status = 200) {
  response.status = status;
  response.set_content(json.dump(), "application/json");
}

void answer_error(httplib::Response& response, int status, std::string_view reason) {
  answer_json(response, Json::object({{"error", harmless_text(reason)}}), status);
}

/// Runs a handler; what it throws becomes an answer.
void guarded(httplib::Response& response, const std::function<void()>& work) {
  try {
    work();
  } catch (const Refusal& refusal) {
    answer_error(response, refusal.status, refusal.reason);
  } catch (const UsageError& error) {
    answer_error(response, 400, error.what());
  } catch (const ConfigError& error) {
    answer_error(response, 400, error.what());
  } catch (const std::exception& error) {
    log_error(fmt::format("serve: {}", error.what()));
    answer_error(response, 500, error.what());
  }
}

Json body_of(const httplib::Request& request) {
  const std::string type = request.get_header_value("Content-Type");
  if (type.substr(0, type.find(';')) != "application/json") {
    throw Refusal{415, "the body must be application/json"};
  }
  Json body;
  try {
    body = Json::parse(request.body, "body", 16);
  } catch (const DataError& error) {
    throw Refusal{400, error.what()};
  }
  if (!body.is_object()) throw Refusal{400, "the body must be a JSON object"};
  return body;
}

/// A number of the body in its range, or the default where it is absent.
double number(const Json& body, std::string_view key, double low, double high, double otherwise) {
  const Json* value = body.find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_number() || !(value->as_double() >= low) || !(value->as_double() <= high)) {
    throw Refusal{400, fmt::format("{} must be a number from {} to {}", key, low, high)};
  }
  return value->as_double();
}

std::int64_t integer(const Json& body, std::string_view key, std::int64_t low, std::int64_t high,
                     std::int64_t otherwise) {
  const double value = number(body, key, static_cast<double>(low), static_cast<double>(high),
                              static_cast<double>(otherwise));
  if (value != static_cast<double>(static_cast<std::int64_t>(value))) {
    throw Refusal{400, fmt::format("{} must be an integer", key)};
  }
  return static_cast<std::int64_t>(value);
}

const std::string& text(const Json& body, std::string_view key, std::size_t most) {
  const Json* value = body.find(key);
  if (value == nullptr || !value->is_string() || value->as_string().empty() ||
      value->as_string().size() > most) {
    throw Refusal{400, fmt::format("{} must be a text of 1 to {} bytes", key, most)};
  }
  return value->as_string();
}

LiveSteering::Question question_of(const Json& body) {
  LiveSteering::Question question;
  question.prompt = text(body, "prompt", kLongestPrompt);
  question.multiplier = number(body, "strength_multiplier", 0, 1000, 1);
  question.temperature = number(body, "temperature", 0, 100, 0);
  question.max_new_tokens = integer(body, "n_tokens", 1, kMostNewTokens, 48);
  question.seed = static_cast<std::uint64_t>(integer(body, "seed", -100000000, 100000000, 0));
  if (number(body, "freq_penalty", -2, 2, 0) != 0) {
    throw Refusal{400, "freq_penalty is not known here: leave it out, or 0"};
  }
  const Json* features = body.find("features");
  if (features == nullptr || !features->is_array() || features->as_array().size() > kMostFeatures) {
    throw Refusal{400, fmt::format("features must be a list of at most {}", kMostFeatures)};
  }
  for (const Json& one : features->as_array()) {
    if (!one.is_object() || one.find("index") == nullptr) {
      throw Refusal{400, R"(a feature must be {"index": ..., "strength": ...})"};
    }
    question.features.push_back({integer(one, "index", 0, std::int64_t{1} << 40U, 0),
                                 number(one, "strength", -1e6, 1e6, 0)});
  }
  return question;
}

std::string without_port(const std::string& host) {
  const std::size_t colon = host.rfind(':');
  const bool is_bare_ipv6 =
      host.find(':') != colon && !host.ends_with(']') && (host.empty() || host.front() != '[');
  if (colon == std::string::npos || is_bare_ipv6 || host.ends_with(']')) return host;
  return host.substr(0, colon);
}

}  // namespace

struct FeatureServer::State {
  State(const std::filesystem::path& path, std::string page, LiveSteering* live,
        ServerOptions given)
      : store(path),
        names(neuronpedia_names(given.model, store.facts())),
        dashboard(std::move(page)),
        steer_page(make_steer_page(names, live != nullptr)),
        steering(live),
        options(std::move(given)),
        known_hosts{"localhost", "127.0.0.1", "[::1]", options.host} {}

  void add_rules();
  void add_pages();
  void add_api();

  std::mutex mutex;  // of the store, which belongs to one thread at a time
  FeatureStore store;
  NeuronpediaNames names;
  std::string dashboard;
  SteerPage steer_page;
  LiveSteering* steering;
  ServerOptions options;
  std::set<std::string> known_hosts;
  httplib::Server server;

 private:
  void send_feature(const httplib::Request& request, httplib::Response& response);
  void search(const httplib::Request& request, httplib::Response& response);
  void steer(const httplib::Request& request, httplib::Response& response);
};

void FeatureServer::State::add_rules() {
  server.new_task_queue = [threads = options.threads] {
    return new httplib::ThreadPool(static_cast<std::size_t>(threads));
  };
  // The library's default lets two servers share a port.
  server.set_socket_options([](auto socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  server.set_payload_max_length(kLargestBody);
  server.set_read_timeout(std::chrono::seconds(10));
  server.set_keep_alive_timeout(5);
  // Listening to the whole network was asked for; then any name may lead here.
  const bool is_open = options.host == "0.0.0.0" || options.host == "::";
  server.set_pre_routing_handler(
      [this, is_open](const httplib::Request& request, httplib::Response& response) {
        const std::string host = without_port(request.get_header_value("Host"));
        if (is_open || known_hosts.count(host) != 0)
          return httplib::Server::HandlerResponse::Unhandled;
        answer_error(response, 403, "this server does not go by that name");
        return httplib::Server::HandlerResponse::Handled;
      });
  server.set_post_routing_handler([](const httplib::Request&, httplib::Response& response) {
    response.set_header("X-Content-Type-Options", "nosniff");
    response.set_header("Referrer-Policy", "no-referrer");
    response.set_header("Cache-Control", "no-store");
    response.set_header("X-Frame-Options", "DENY");
    response.set_header("Cross-Origin-Resource-Policy", "same-origin");
  });
  server.set_error_handler([](const httplib::Request&, httplib::Response& response) {
    if (!response.body.empty()) return;
    answer_error(response, response.status,
                 response.status == 404   ? "there is nothing here"
                 : response.status == 413 ? "the body is larger than 1 MiB"
                                          : "the request makes no sense");
  });
  server.set_exception_handler(
      [](const httplib::Request&, httplib::Response& response, std::exception_ptr) {
        answer_error(response, 500, "internal error");
      });
}

void FeatureServer::State::add_pages() {
  server.Get("/", [this](const httplib::Request&, httplib::Response& response) {
    if (dashboard.empty()) return response.set_redirect("/steer");
    response.set_content(dashboard, "text/html; charset=utf-8");
  });
  server.Get("/steer", [this](const httplib::Request&, httplib::Response& response) {
    response.set_header("Content-Security-Policy", steer_page.policy);
    response.set_content(steer_page.html, "text/html; charset=utf-8");
  });
}

void FeatureServer::State::add_api() {
  server.Get("/api/facts", [this](const httplib::Request&, httplib::Response& response) {
    guarded(response, [&] {
      answer_json(response, Json::object({{"modelId", names.model},
                                          {"layer", names.layer},
                                          {"n_latents", store.n_latents()},
                                          {"steers", steering != nullptr},
                                          {"facts", store.facts()}}));
    });
  });
  server.Get(R"(/api/feature/([^/]+)/([^/]+)/(\d{1,12}))",
             [this](const httplib::Request& request, httplib::Response& response) {
               guarded(response, [&] { send_feature(request, response); });
             });
  server.Post("/api/explanation/search",
              [this](const httplib::Request& request, httplib::Response& response) {
                guarded(response, [&] { search(request, response); });
              });
  server.Post("/api/steer", [this](const httplib::Request& request, httplib::Response& response) {
    guarded(response, [&] { steer(request, response); });
  });
}

void FeatureServer::State::send_feature(const httplib::Request& request,
                                        httplib::Response& response) {
  const std::int64_t latent = std::stoll(request.matches[3].str());
  if (request.matches[1].str() != names.model || request.matches[2].str() != names.layer ||
      latent >= store.n_latents()) {
    throw Refusal{404, fmt::format("here are /api/feature/{}/{}/0 to {}", names.model, names.layer,
                                   store.n_latents() - 1)};
  }
  const std::lock_guard lock(mutex);
  answer_json(response, neuronpedia_feature(store.feature(latent), names));
}

void FeatureServer::State::search(const httplib::Request& request, httplib::Response& response) {
  const Json body = body_of(request);
  const std::string& query = text(body, "query", 1000);
  const std::int64_t offset = integer(body, "offset", 0, 1000000, 0);
  std::vector<LatentSummary> found;
  {
    const std::lock_guard lock(mutex);
    found = store.search(query, offset + kMostResults + 1);
  }
  Json results = Json::array();
  const auto first = static_cast<std::size_t>(offset);
  const std::size_t end = std::min(found.size(), first + static_cast<std::size_t>(kMostResults));
  for (std::size_t i = first; i < end; ++i) {
    results.push_back(neuronpedia_search_result(found[i], names));
  }
  const auto count = static_cast<std::int64_t>(results.as_array().size());
  answer_json(response, Json::object({{"request", body},
                                      {"results", results},
                                      {"resultsCount", count},
                                      {"hasMore", found.size() > end},
                                      {"nextOffset", offset + count}}));
}

void FeatureServer::State::steer(const httplib::Request& request, httplib::Response& response) {
  if (steering == nullptr) throw Refusal{503, "the server was started without the host model"};
  const LiveSteering::Answer answer = steering->ask(question_of(body_of(request)));
  answer_json(response, Json::object({{"STEERED", harmless_text(answer.steered)},
                                      {"DEFAULT", harmless_text(answer.plain)},
                                      {"steeredLogProbs", nullptr},
                                      {"defaultLogProbs", nullptr},
                                      {"id", nullptr},
                                      {"shareUrl", nullptr},
                                      {"limit", nullptr}}));
}

FeatureServer::FeatureServer(const std::filesystem::path& store, std::string dashboard,
                             LiveSteering* steering, ServerOptions options)
    : state_(std::make_unique<State>(store, std::move(dashboard), steering, std::move(options))) {
  state_->add_rules();
  state_->add_pages();
  state_->add_api();
}

FeatureServer::~FeatureServer() = default;

void FeatureServer::run(const std::function<void(const std::string& url)>& on_ready) {
  const ServerOptions& options = state_->options;
  const int port =
      options.port == 0
          ? state_->server.bind_to_any_port(options.host)
          : (state_->server.bind_to_port(options.host, options.port) ? options.port : -1);
  if (port <= 0) {
    throw IoError(fmt::format("serve: {}:{} cannot be listened on", options.host, options.port),
                  "an address of this machine and a port that is free",
                  "--port 0 takes any free port");
  }
  on_ready(fmt::format("http://{}:{}/", options.host, port));
  std::jthread watcher([this](const std::stop_token& done) {
    while (!done.stop_requested()) {
      if (stop_requested()) state_->server.stop();  // without effect before it listens
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  });
  state_->server.listen_after_bind();
}

}  // namespace thresher::features
