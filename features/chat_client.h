#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace thresher::features {

/// A server that speaks OpenAI's chat completions.
struct ChatEndpoint {
  std::string url = {};    // up to the version, "http://127.0.0.1:8000/v1"; http or https
  std::string model = {};  // as the server names it
  std::string key = {};    // sent as bearer token if not empty; never stored, never in a message
  double timeout_seconds = 120;     // of one request
  int attempts = 6;                 // of one question, the first included
  double requests_per_minute = 0;   // over all threads; 0: no limit of our own
  double first_wait_seconds = 0.5;  // doubles with each attempt, at most 60; Retry-After wins
};

struct ChatMessage {
  std::string role;  // "system", "user"
  std::string content;
};

struct ChatQuestion {
  std::vector<ChatMessage> messages;
  std::int64_t max_tokens = 256;
  double temperature = 0;
};

/// The body of the request, the same bytes for the same question: what an answer is remembered
/// under. Bytes that are not UTF-8 go out as U+FFFD.
std::string chat_request_body(const ChatEndpoint& endpoint, const ChatQuestion& question);

/// Asks questions, also from several threads at once. Redirects are not followed, so the key goes
/// nowhere else; answers are read up to 16 MiB.
class ChatClient {
 public:
  /// ConfigError for a URL that is none.
  explicit ChatClient(ChatEndpoint endpoint);
  ~ChatClient();
  const ChatEndpoint& endpoint() const { return endpoint_; }

  /// The text of the first choice. Waits and tries again after 408, 409, 425, 429, any 5xx, a
  /// time-out, a broken connection and an answer that is no chat completion. ConfigError with what
  /// the server says for any other status; IoError when the attempts are used up (DataError if the
  /// last answer was malformed); StoppedBySignal between attempts.
  std::string ask(const ChatQuestion& question);
  /// Requests sent so far, those sent again included.
  std::int64_t n_requests() const;

 private:
  struct State;
  ChatEndpoint endpoint_;
  std::unique_ptr<State> state_;
};

/// The text of a chat completion's first choice. DataError, starting with `where`, for anything
/// else.
std::string parse_chat_completion(std::string_view body, std::string_view where);

}  // namespace thresher::features
