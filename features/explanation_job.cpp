#include "features/explanation_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/progress.h"
#include "core/random.h"
#include "core/stop_signal.h"

namespace thresher::features {
namespace {

namespace fs = std::filesystem;

/// Answers on disk, in front of a client. Used by several threads.
class RememberedAnswers {
 public:
  RememberedAnswers(fs::path folder, ChatClient& client)
      : folder_(std::move(folder)), client_(&client) {}

  std::string ask(const ChatQuestion& question) const {
    const std::string body = chat_request_body(client_->endpoint(), question);
    const std::string name = sha256_hex(client_->endpoint().url + "\n" + body);
    const fs::path path = folder_ / name.substr(0, 2) / (name + ".json");
    if (fs::exists(path)) {
      return Json::parse(read_text_file(path, kLargest), path.string()).at("answer").as_string();
    }
    if (stop_requested()) {
      throw StoppedBySignal("stopped between two questions; answers so far are kept");
    }
    const std::string answer = client_->ask(question);
    fs::create_directories(path.parent_path());
    const Json both =
        Json::object({{"question", Json::parse(body, "question")}, {"answer", answer}});
    write_file_atomically(path, both.dump(2) + "\n");
    return answer;
  }

 private:
  static constexpr std::uint64_t kLargest = std::uint64_t{64} << 20U;
  fs::path folder_;
  ChatClient* client_;
};

/// Latents dealt to threads; the first error ends all of them.
class Workers {
 public:
  Workers(const ExplanationJob& job, ChatClient& client)
      : job_(job),
        answers_(job.answers, client),
        found_(job.latents.size()),
        progress_("explain", "latents", static_cast<std::int64_t>(job.latents.size())) {}

  std::vector<std::optional<Explanation>> run(std::exception_ptr& error) {
    {
      std::vector<std::jthread> threads;
      const auto count = std::min<std::size_t>(job_.latents.size(), std::max(1, job_.parallel));
      for (std::size_t i = 0; i < count; ++i) threads.emplace_back([this] { work(); });
    }
    error = error_;
    if (!error_) progress_.finish();
    return std::move(found_);
  }

 private:
  void work() {
    try {
      const FeatureStore store(job_.store);
      const Ask ask = [this](const ChatQuestion& question) { return answers_.ask(question); };
      for (std::size_t i = next_++; i < found_.size() && !has_failed_; i = next_++) {
        Explanation one = explain_latent(texts_of(store.feature(job_.latents[i])), job_.plan, ask);
        const std::lock_guard lock(mutex_);
        found_[i] = std::move(one);
        progress_.update(++n_done_);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      has_failed_ = true;
    }
  }

  const ExplanationJob& job_;
  const RememberedAnswers answers_;
  std::vector<std::optional<Explanation>> found_;
  Progress progress_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<bool> has_failed_ = false;
  std::mutex mutex_;
  std::int64_t n_done_ = 0;
  std::exception_ptr error_;
};

void save(const std::vector<std::optional<Explanation>>& found, const ExplanationJob& job,
          const std::string& model) {
  std::vector<StoredExplanation> explanations;
  for (const std::optional<Explanation>& one : found) {
    if (!one || !one->text) continue;
    explanations.push_back({one->latent, *one->text, "chat", model,
                            Json::object({{"detection", one->detection.to_json()},
                                          {"fuzzing", one->fuzzing.to_json()}})});
  }
  if (!explanations.empty()) add_explanations(job.store, explanations);
}

/// Mean over latents, and its interval from their spread.
Json mean_score(const std::vector<Explanation>& explanations,
                ExplanationScore Explanation::*score) {
  constexpr double kZ = 1.959963984540054;
  double sum = 0, squares = 0;
  std::int64_t n = 0;
  for (const Explanation& one : explanations) {
    if (!(one.*score).is_defined()) continue;
    const double value = (one.*score).balanced_accuracy();
    sum += value;
    squares += value * value;
    ++n;
  }
  Json out = Json::object({{"n_latents", n}, {"mean_balanced_accuracy", nullptr}});
  if (n == 0) return out;
  const auto count = static_cast<double>(n);
  const double mean = sum / count;
  out["mean_balanced_accuracy"] = mean;
  if (n < 2) return out;
  const double variance = std::max(0.0, (squares - count * mean * mean) / (count - 1));
  out["low"] = mean - kZ * std::sqrt(variance / count);
  out["high"] = mean + kZ * std::sqrt(variance / count);
  return out;
}

}  // namespace

LatentTexts texts_of(const StoredFeature& feature) {
  LatentTexts out;
  out.latent = feature.summary.latent;
  for (const StoredExample& example : feature.examples) {
    (example.kind == StoredExample::Kind::kSilent ? out.silent : out.activating).push_back(example);
  }
  return out;
}

std::vector<std::int64_t> firing_latents(const FeatureStore& store, std::int64_t limit,
                                         std::uint64_t seed) {
  std::vector<std::int64_t> latents;
  for (const LatentSummary& one : store.list(LatentOrder::kNumber, false, 0, store.n_latents())) {
    if (one.n_fired > 0) latents.push_back(one.latent);
  }
  const auto most = static_cast<std::size_t>(limit);
  if (limit <= 0 || latents.size() <= most) return latents;
  const Permutation order(latents.size(), seed, "features.explain.latents");
  std::vector<std::int64_t> drawn;
  for (std::size_t i = 0; i < most; ++i) drawn.push_back(latents[order(i)]);
  std::sort(drawn.begin(), drawn.end());
  return drawn;
}

std::vector<Explanation> explain_latents(const ExplanationJob& job, ChatClient& client) {
  std::exception_ptr error;
  std::vector<std::optional<Explanation>> found = Workers(job, client).run(error);
  save(found, job, client.endpoint().model);
  if (error) std::rethrow_exception(error);
  std::vector<Explanation> out;
  for (std::optional<Explanation>& one : found) out.push_back(std::move(one).value());
  return out;
}

Json summary_of(const std::vector<Explanation>& explanations) {
  std::int64_t n_explained = 0, n_unreadable = 0;
  for (const Explanation& one : explanations) {
    n_explained += one.text ? 1 : 0;
    n_unreadable += one.detection.n_unreadable + one.fuzzing.n_unreadable;
  }
  return Json::object({{"n_latents", static_cast<std::int64_t>(explanations.size())},
                       {"n_explained", n_explained},
                       {"n_unreadable_verdicts", n_unreadable},
                       {"detection", mean_score(explanations, &Explanation::detection)},
                       {"fuzzing", mean_score(explanations, &Explanation::fuzzing)}});
}

}  // namespace thresher::features
