#include "features/chat_client.h"

#include <fmt/format.h>
#include <httplib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/stop_signal.h"
#include "core/visible_text.h"

namespace thresher::features {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr std::size_t kLargestAnswer = std::size_t{16} << 20U;
constexpr double kLongestWait = 60;
constexpr double kLongestRetryAfter = 300;
constexpr double kConnectSeconds = 10;

struct Address {
  std::string host;  // "https://name:port"
  std::string path;  // "/v1/chat/completions"
};

Address parse_address(const std::string& url) {
  const std::string expected = "http://HOST[:PORT]/v1 or https://HOST/v1";
  const std::size_t scheme = url.find("://");
  const std::string name = scheme == std::string::npos ? "" : url.substr(0, scheme);
  if (name != "http" && name != "https") {
    throw ConfigError(fmt::format("endpoint {}: not a URL", visible_text(url)), expected);
  }
  const std::size_t slash = url.find('/', scheme + 3);
  Address out{url.substr(0, slash), slash == std::string::npos ? "" : url.substr(slash)};
  const bool is_plain = std::all_of(url.begin(), url.end(), [](unsigned char c) {
    return c > 0x20 && c < 0x7f && c != '@' && c != '?' && c != '#';
  });
  if (!is_plain || out.host.size() == scheme + 3) {
    throw ConfigError(fmt::format("endpoint {}: not a URL", visible_text(url)), expected,
                      "keys come from the environment, never from the URL");
  }
  while (out.path.ends_with('/')) out.path.pop_back();
  out.path += "/chat/completions";
  return out;
}

std::string shortened(std::string_view text) {
  constexpr std::size_t kMost = 300;
  std::string out = visible_text(text.substr(0, kMost));
  return text.size() > kMost ? out + "..." : out;
}

bool is_worth_another_try(int status) {
  return status == 408 || status == 409 || status == 425 || status == 429 || status >= 500;
}

/// Sleeps in pieces, so that a signal is seen.
void wait_for(double seconds) {
  const auto end = Clock::now() + Seconds(seconds);
  while (Clock::now() < end) {
    if (stop_requested()) break;
    std::this_thread::sleep_for(
        std::min<Seconds>(end - Clock::now(), std::chrono::milliseconds(100)));
  }
  if (stop_requested()) {
    throw StoppedBySignal("stopped while waiting for the endpoint; answers so far are kept");
  }
}

/// What became of one request.
struct Outcome {
  std::optional<std::string> text;
  std::string problem;
  double retry_after = -1;
  bool is_malformed = false;
};

}  // namespace

struct ChatClient::State {
  Address address;
  std::mutex mutex;
  Clock::time_point next_start = Clock::now();
  std::atomic<std::int64_t> n_requests = 0;

  /// Waits for this request's turn.
  void take_turn(double requests_per_minute) {
    if (requests_per_minute <= 0) return;
    const Seconds gap(60 / requests_per_minute);
    Clock::time_point start;
    {
      const std::lock_guard lock(mutex);
      start = std::max(next_start, Clock::now());
      next_start = start + std::chrono::duration_cast<Clock::duration>(gap);
    }
    wait_for(Seconds(start - Clock::now()).count());
  }
};

std::string chat_request_body(const ChatEndpoint& endpoint, const ChatQuestion& question) {
  Json messages = Json::array();
  for (const ChatMessage& message : question.messages) {
    messages.push_back(Json::object({{"role", message.role}, {"content", message.content}}));
  }
  return Json::object({{"model", endpoint.model},
                       {"messages", messages},
                       {"max_tokens", question.max_tokens},
                       {"temperature", question.temperature},
                       {"stream", false}})
      .dump();
}

std::string parse_chat_completion(std::string_view body, std::string_view where) {
  const Json json = Json::parse(body, where);
  const Json* choices = json.is_object() ? json.find("choices") : nullptr;
  const Json* message = nullptr;
  if (choices != nullptr && choices->is_array() && !choices->as_array().empty()) {
    const Json& choice = choices->as_array().front();
    message = choice.is_object() ? choice.find("message") : nullptr;
  }
  const Json* content =
      message != nullptr && message->is_object() ? message->find("content") : nullptr;
  if (content == nullptr || !content->is_string()) {
    throw DataError(fmt::format("{}: not a chat completion: {}", where, shortened(body)),
                    R"({"choices": [{"message": {"content": "..."}}]})");
  }
  return content->as_string();
}

ChatClient::ChatClient(ChatEndpoint endpoint)
    : endpoint_(std::move(endpoint)), state_(std::make_unique<State>()) {
  state_->address = parse_address(endpoint_.url);
}

ChatClient::~ChatClient() = default;

std::int64_t ChatClient::n_requests() const { return state_->n_requests; }

namespace {

/// One request. ConfigError for an answer that another try would not change.
Outcome send(const ChatEndpoint& endpoint, const Address& address, const std::string& body) {
  httplib::Client client(address.host);
  client.set_connection_timeout(Seconds(std::min(kConnectSeconds, endpoint.timeout_seconds)));
  client.set_read_timeout(Seconds(endpoint.timeout_seconds));
  client.set_write_timeout(Seconds(endpoint.timeout_seconds));
  client.set_follow_location(false);
  httplib::Request request;
  request.method = "POST";
  request.path = address.path;
  request.headers = {{"Content-Type", "application/json"}, {"Accept", "application/json"}};
  if (!endpoint.key.empty()) request.headers.emplace("Authorization", "Bearer " + endpoint.key);
  request.body = body;
  std::string answer;
  const auto deadline = Clock::now() + Seconds(endpoint.timeout_seconds);
  request.content_receiver = [&](const char* data, std::size_t size, std::uint64_t, std::uint64_t) {
    if (answer.size() + size > kLargestAnswer || Clock::now() > deadline) return false;
    answer.append(data, size);
    return true;
  };
  const httplib::Result result = client.send(request);
  Outcome out;
  if (!result) {
    out.problem = httplib::to_string(result.error());
    if (result.error() == httplib::Error::Read || Clock::now() > deadline) {
      out.problem =
          fmt::format("no whole answer within {}", format_duration(endpoint.timeout_seconds));
    }
    return out;
  }
  if (result->status != 200) {
    out.problem = fmt::format("status {}: {}", result->status, shortened(answer));
    if (!is_worth_another_try(result->status)) {
      throw ConfigError(fmt::format("endpoint {}: {}", endpoint.url, out.problem),
                        "an OpenAI-compatible server that knows the model",
                        "check --endpoint, --model and the key in the environment");
    }
    const std::string after = result->get_header_value("Retry-After");
    if (!after.empty()) out.retry_after = std::strtod(after.c_str(), nullptr);
    return out;
  }
  try {
    out.text = parse_chat_completion(answer, fmt::format("endpoint {}", endpoint.url));
  } catch (const DataError& error) {
    out.problem = error.what();
    out.is_malformed = true;
  }
  return out;
}

}  // namespace

std::string ChatClient::ask(const ChatQuestion& question) {
  const std::string body = chat_request_body(endpoint_, question);
  double wait = endpoint_.first_wait_seconds;
  Outcome outcome;
  for (int attempt = 0; attempt < endpoint_.attempts; ++attempt) {
    if (attempt > 0) {
      const double pause = outcome.retry_after >= 0 && std::isfinite(outcome.retry_after)
                               ? std::min(outcome.retry_after, kLongestRetryAfter)
                               : std::min(wait, kLongestWait);
      log_debug(fmt::format("endpoint {}: {}; again in {}", endpoint_.url, outcome.problem,
                            format_duration(pause)));
      wait_for(pause);
      wait *= 2;
    }
    state_->take_turn(endpoint_.requests_per_minute);
    wait_for(0);
    ++state_->n_requests;
    outcome = send(endpoint_, state_->address, body);
    if (outcome.text) return *outcome.text;
  }
  const std::string problem = outcome.is_malformed
                                  ? outcome.problem
                                  : fmt::format("endpoint {}: {} (after {} attempts)",
                                                endpoint_.url, outcome.problem, endpoint_.attempts);
  const std::string hint = "run the same command again: answers so far are kept";
  if (outcome.is_malformed) throw DataError(problem, {}, hint);
  throw IoError(problem, "a server that answers", hint);
}

}  // namespace thresher::features
