#include "features/steering.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>

#include "core/error.h"
#include "core/log.h"
#include "core/random.h"

namespace thresher::features {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr std::size_t kTextsInAPass = 32;
constexpr std::int64_t kDirectionsInAPass = 8;

/// The plain model's loss on what follows each prompt: its sum, and the number of tokens.
std::pair<double, std::int64_t> loss_of_texts(host_model::HostModel& model,
                                              std::span<const Ids> prompts,
                                              std::span<const host_model::Generated> made) {
  double sum = 0;
  std::int64_t count = 0;
  for (std::size_t first = 0; first < prompts.size(); first += kTextsInAPass) {
    const std::size_t end = std::min(first + kTextsInAPass, prompts.size());
    std::vector<Ids> contexts;
    std::vector<std::int64_t> rows, targets;
    std::size_t width = 0;
    for (std::size_t i = first; i < end; ++i) {
      contexts.push_back(prompts[i]);
      contexts.back().insert(contexts.back().end(), made[i].token_ids.begin(),
                             made[i].token_ids.end());
      width = std::max(width, contexts.back().size());
    }
    for (std::size_t c = 0; c < contexts.size(); ++c) {
      const std::size_t padding = width - contexts[c].size();
      for (std::size_t t = prompts[first + c].size(); t < contexts[c].size(); ++t) {
        rows.push_back(static_cast<std::int64_t>(c * width + padding + t - 1));
        targets.push_back(contexts[c][t]);
      }
    }
    if (rows.empty()) continue;
    host_model::ForwardRequest request;
    request.want_final = true;
    const at::Tensor final_rows =
        model.forward(host_model::align_contexts(contexts).batch, request);
    const at::Tensor chosen = at::tensor(rows, at::kLong).to(final_rows.device());
    sum += host_model::next_token_losses(model, final_rows.index_select(0, chosen),
                                         at::tensor(targets, at::kLong))
               .sum()
               .item<double>();
    count += static_cast<std::int64_t>(rows.size());
  }
  return {sum, count};
}

std::vector<double> plain_vector(const at::Tensor& values) {
  const at::Tensor held = values.to(at::kDouble).contiguous();
  const double* first = held.const_data_ptr<double>();
  return {first, first + held.numel()};
}

}  // namespace

SteeringBench::SteeringBench(const Subject& subject, SteeringTask task)
    : subject_(subject),
      task_(std::move(task)),
      scorer_(subject, task_.prompts, task_.attributes) {}

std::vector<host_model::Generated> SteeringBench::generate(const std::vector<Ids>& prompts,
                                                           const SteeredSettings* settings,
                                                           std::size_t n_rows) {
  host_model::GenerationRequest request = task_.generation;
  request.prompts.clear();
  for (std::size_t row = 0; row < n_rows; ++row) {
    for (const Ids& prompt : prompts) request.prompts.push_back({prompt, 0});
  }
  if (settings == nullptr) return host_model::generate(*subject_.model, request);
  const auto n = static_cast<std::int64_t>(prompts.size());
  Intervention one = settings->base;
  if (settings->directions.defined()) one.direction = settings->directions.repeat_interleave(n, 0);
  one.values.clear();
  for (const double value : settings->values)
    one.values.insert(one.values.end(), prompts.size(), value);
  Interventions interventions({one}, subject_.rules, *subject_.tokenizer, subject_.model->info());
  request.hooks = interventions.hooks();
  return host_model::generate(*subject_.model, request);
}

double SteeringBench::mean_share(std::span<const host_model::Generated> texts) const {
  double sum = 0;
  for (const host_model::Generated& text : texts)
    sum += task_.words->share(subject_.tokenizer->decode(text.token_ids));
  return sum / static_cast<double>(texts.size());
}

void SteeringBench::add_texts(const std::vector<Ids>& prompts, const SteeredSettings* settings,
                              std::vector<SteeringRow>& rows) {
  const std::vector<host_model::Generated> made = generate(prompts, settings, rows.size());
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const std::span<const host_model::Generated> of_row =
        std::span(made).subspan(row * prompts.size(), prompts.size());
    const auto [sum, count] = loss_of_texts(*subject_.model, prompts, of_row);
    rows[row].perplexity = count == 0 ? std::numeric_limits<double>::quiet_NaN()
                                      : std::exp(sum / static_cast<double>(count));
    if (task_.words) rows[row].share = mean_share(of_row);
    for (const host_model::Generated& text : of_row)
      rows[row].texts.push_back(subject_.tokenizer->decode(text.token_ids));
  }
}

SteeringRow SteeringBench::plain() {
  std::vector<SteeringRow> rows(1);
  rows[0].name = "plain";
  rows[0].log_odds = plain_vector(scorer_.plain_log_odds().mean(0));
  add_texts(task_.prompts, nullptr, rows);
  return rows[0];
}

SteeringRow SteeringBench::prompting(const Ids& prefix) {
  std::vector<Ids> prompts;
  const auto bos = subject_.tokenizer->bos_id();
  for (const Ids& prompt : task_.prompts) {
    Ids ids = prompt;
    const bool has_bos = bos && ids.front() == *bos;
    ids.insert(ids.begin() + (has_bos ? 1 : 0), prefix.begin(), prefix.end());
    prompts.push_back(std::move(ids));
  }
  std::vector<SteeringRow> rows(1);
  rows[0].name = "prompting";
  const ContinuationScorer behind(subject_, prompts, task_.attributes);
  rows[0].log_odds = plain_vector(behind.plain_log_odds().mean(0));
  rows[0].kl = scorer_.divergence(behind).mean().item<double>();
  add_texts(prompts, nullptr, rows);
  return rows[0];
}

std::vector<SteeringRow> SteeringBench::steered(const SteeredSettings& settings) {
  const SettingScores scores = scorer_.score(settings);
  const at::Tensor odds = scores.log_odds.mean(1), kl = scores.kl.mean(1);
  std::vector<SteeringRow> rows(settings.values.size());
  for (std::size_t s = 0; s < rows.size(); ++s) {
    const auto index = static_cast<std::int64_t>(s);
    const auto n = static_cast<std::int64_t>(rows.size());
    rows[s].name = "steered";
    rows[s].point = settings.base.point.name();
    rows[s].positions = settings.base.positions.name();
    rows[s].value = settings.values[s];
    rows[s].log_odds = plain_vector(odds[index]);
    rows[s].kl = kl[index].item<double>();
    rows[s].n_edited = scores.n_edited / n;
    rows[s].n_left_alone = scores.n_left_alone / n;
  }
  add_texts(task_.prompts, &settings, rows);
  return rows;
}

at::Tensor SteeringBench::effects(const SteeredSettings& settings) {
  return (scorer_.score(settings).log_odds - scorer_.plain_log_odds().unsqueeze(0)).mean(1);
}

std::vector<double> SteeringBench::effects_on_success(const SteeredSettings& settings) {
  if (!task_.words) return plain_vector(effects(settings).select(1, 0));
  if (!plain_share_) plain_share_ = mean_share(generate(task_.prompts, nullptr, 1));
  const auto n = static_cast<std::int64_t>(settings.values.size());
  std::vector<double> out;
  for (std::int64_t first = 0; first < n; first += kDirectionsInAPass) {
    const std::int64_t count = std::min(kDirectionsInAPass, n - first);
    SteeredSettings some = settings;
    some.directions = settings.directions.narrow(0, first, count);
    some.values.assign(settings.values.begin() + first, settings.values.begin() + first + count);
    const auto made = generate(task_.prompts, &some, static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      out.push_back(mean_share(std::span(made).subspan(
                        static_cast<std::size_t>(i) * task_.prompts.size(), task_.prompts.size())) -
                    *plain_share_);
    }
    log_info(fmt::format("steer: texts along {} of {} directions", first + count, n));
  }
  return out;
}

double SteeringRow::success() const {
  if (!std::isnan(share)) return share;
  return log_odds.empty() ? std::numeric_limits<double>::quiet_NaN() : log_odds[0];
}

std::int64_t best_row(const std::vector<SteeringRow>& rows, double most_perplexity) {
  std::int64_t best = -1;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (!(rows[i].perplexity <= most_perplexity) || std::isnan(rows[i].success())) continue;
    if (best < 0 || rows[i].success() > rows[static_cast<std::size_t>(best)].success())
      best = static_cast<std::int64_t>(i);
  }
  return best;
}

SteeringControl control(SteeringBench& bench, const Subject& subject,
                        const SteeredSettings& settings, const ControlCounts& counts,
                        std::uint64_t seed, const PairReading& reading) {
  const std::int64_t count = counts.random_pairs;
  const host_model::HookPoint& point = settings.base.point;
  const at::Tensor direction = settings.directions[0];
  // Some words are sinks behind some prefixes, so more are drawn than are needed.
  const auto pairs = random_word_pairs(*subject.tokenizer, 2 * count, seed);
  at::Tensor differences =
      pair_differences(subject, pairs, {point}, reading, Unreadable::kLeaveOut).at(point);
  if (differences.size(0) < count) {
    throw ConfigError(
        fmt::format("the control: {} of {} random pairs can be read at {}, the others are "
                    "sinks",
                    differences.size(0), pairs.size(), point.name()),
        fmt::format("{} of them", count), "--prefix TEXT, such as \"I \"");
  }
  differences = differences.narrow(0, 0, count);
  const RandomStream noise(seed, "features.isotropic_control");
  at::Tensor isotropic = at::empty({counts.isotropic, direction.numel()}, at::kFloat);
  float* values = isotropic.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < isotropic.numel(); ++i)
    values[i] = static_cast<float>(noise.normal(static_cast<std::uint64_t>(i)));
  SteeredSettings all = settings;
  all.directions = at::cat({direction.unsqueeze(0), norm_matched(differences, direction),
                            norm_matched(isotropic, direction)});
  all.values.assign(static_cast<std::size_t>(all.directions.size(0)), settings.values.front());
  const std::vector<double> effects = bench.effects_on_success(all);
  SteeringControl out;
  out.effect = effects.front();
  const auto middle = effects.begin() + 1 + static_cast<std::ptrdiff_t>(count);
  out.random_pairs.assign(effects.begin() + 1, middle);
  out.isotropic.assign(middle, effects.end());
  const auto count_below = [&](std::vector<double>& of) {
    std::sort(of.begin(), of.end());
    return std::count_if(of.begin(), of.end(), [&](double e) { return e < out.effect; });
  };
  out.n_pairs_below = count_below(out.random_pairs);
  out.n_isotropic_below = count_below(out.isotropic);
  return out;
}

at::Tensor norm_matched(const at::Tensor& vectors, const at::Tensor& direction) {
  const at::Tensor norms = vectors.norm(2, 1, /*keepdim=*/true);
  THRESHER_CHECK(norms.numel() == 0 || norms.min().item<double>() > 0,
                 "a control direction is zero");
  return vectors / norms * direction.norm();
}

at::Tensor projected_out(const at::Tensor& direction, const at::Tensor& confounder) {
  const at::Tensor unit = confounder / confounder.norm();
  return direction - at::dot(direction, unit) * unit;
}

}  // namespace thresher::features
