#include "features/intervention.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "activation_cache/harvest/harvest.h"
#include "core/config.h"
#include "core/error.h"
#include "core/visible_text.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;
using host_model::PassRows;
using Kind = Intervention::Kind;

constexpr double kMostMedians = 10;

constexpr std::array<std::pair<std::string_view, Kind>, 5> kKinds = {
    {{"add", Kind::kAdd},
     {"clamp", Kind::kClamp},
     {"scale", Kind::kScale},
     {"project", Kind::kProjectOut},
     {"splice", Kind::kReconstruct}}};

bool parse_count(std::string_view digits, std::int64_t& out) {
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
  return error == std::errc() && end == digits.data() + digits.size() && out >= 0;
}

/// [rows] bool: positions that the range asks for.
at::Tensor in_range(const PositionRange& range, const PassRows& rows) {
  const at::Tensor& positions = rows.batch.positions;
  const at::Tensor last = rows.prompt_tokens.unsqueeze(1) - 1;
  at::Tensor chosen = rows.batch.documents.ge(0);
  switch (range.kind) {
    case PositionRange::Kind::kAll:
      break;
    case PositionRange::Kind::kFromPromptEnd:
      chosen = chosen.logical_and(positions.ge(last));
      break;
    case PositionRange::Kind::kLastPromptToken:
      chosen = chosen.logical_and(positions.eq(last));
      break;
    case PositionRange::Kind::kSpan:
      chosen = chosen.logical_and(positions.ge(range.first)).logical_and(positions.lt(range.end));
      break;
  }
  return chosen.reshape({-1});
}

/// What an intervention gives a row's prompt: [rows, 1], or a scalar for all.
at::Tensor values_of(const std::vector<double>& values, const at::Tensor& prompts) {
  const at::Tensor all = at::tensor(values, at::kFloat);
  return values.size() == 1 ? all : all.index_select(0, prompts).unsqueeze(1);
}

at::Tensor edit_along_direction(const Intervention& one, const at::Tensor& x,
                                const at::Tensor& prompts) {
  const at::Tensor given = one.direction.dim() == 1 ? one.direction.unsqueeze(0)
                                                    : one.direction.index_select(0, prompts);
  const at::Tensor value = values_of(one.values, prompts);
  if (one.kind == Kind::kAdd) return x + value * given;
  // A zero direction has no component: it stays zero, and so does the edit.
  const at::Tensor norms = given.norm(2, 1, /*keepdim=*/true);
  const at::Tensor unit = given / norms.clamp_min(1e-30);
  const at::Tensor component = (x * unit).sum(1, /*keepdim=*/true);
  if (one.kind == Kind::kClamp) return x + (value - component) * unit;
  if (one.kind == Kind::kScale) return x + (value - 1) * component * unit;
  return x - component * unit;
}

at::Tensor edit_latent(const Intervention& one, const at::Tensor& x, const at::Tensor& prompts) {
  const at::Tensor before = one.sae->encode_dense(x).narrow(1, one.latent, 1);
  const at::Tensor value = values_of(one.values, prompts);
  at::Tensor change;
  if (one.kind == Kind::kAdd) {
    change = at::zeros_like(before) + value;
  } else if (one.kind == Kind::kClamp) {
    change = value - before;
  } else {
    change = (one.kind == Kind::kScale ? value - 1 : at::full({1}, -1.0F)) * before;
  }
  return x + change * one.sae->W_dec[one.latent];
}

void check(const Intervention& one, const host_model::HostModelInfo& info) {
  if (one.point.block >= info.n_blocks) {
    throw ConfigError(fmt::format("an intervention at {}: the model has {} blocks",
                                  one.point.name(), info.n_blocks),
                      fmt::format("blocks.0 to blocks.{}", info.n_blocks - 1));
  }
  const bool needs_sae = one.kind == Kind::kReconstruct || one.latent >= 0;
  THRESHER_CHECK(needs_sae ? one.sae != nullptr : one.direction.defined(),
                 "an intervention takes a direction, or an SAE");
  THRESHER_CHECK(!one.values.empty(), "an intervention without a value");
  if (needs_sae && one.kind != Kind::kReconstruct && one.latent >= one.sae->n_latents()) {
    throw ConfigError(fmt::format("there is no latent {}", one.latent),
                      fmt::format("0 to {}", one.sae->n_latents() - 1));
  }
  const std::int64_t width = needs_sae ? one.sae->d_in() : one.direction.size(-1);
  if (width != info.width(one.point)) {
    throw ConfigError(fmt::format("a direction of {} values at {}", width, one.point.name()),
                      fmt::format("{}, the width there", info.width(one.point)));
  }
}

}  // namespace

PositionRange PositionRange::parse(std::string_view text) {
  if (text == "all") return {Kind::kAll};
  if (text == "end") return {Kind::kFromPromptEnd};
  if (text == "last") return {Kind::kLastPromptToken};
  const std::size_t colon = text.find(':');
  PositionRange span{Kind::kSpan};
  if (colon != std::string_view::npos && parse_count(text.substr(0, colon), span.first) &&
      parse_count(text.substr(colon + 1), span.end) && span.first < span.end) {
    return span;
  }
  throw UsageError(fmt::format("positions {}", visible_text(std::string(text))),
                   "all, end (the last token of the prompt and what follows), last (that token "
                   "alone), or FIRST:END");
}

std::string PositionRange::name() const {
  switch (kind) {
    case Kind::kAll:
      return "all";
    case Kind::kFromPromptEnd:
      return "end";
    case Kind::kLastPromptToken:
      return "last";
    case Kind::kSpan:
      break;
  }
  return fmt::format("{}:{}", first, end);
}

Kind parse_intervention_kind(std::string_view word) {
  std::vector<std::string> known;
  for (const auto& [name, kind] : kKinds) {
    if (name == word) return kind;
    known.emplace_back(name);
  }
  const std::string nearest = nearest_name(word, known);
  throw UsageError(fmt::format("{} is no intervention", visible_text(std::string(word))),
                   "add, clamp, scale, project or splice",
                   nearest.empty() ? std::string() : fmt::format("did you mean {}?", nearest));
}

SinkGuard::SinkGuard(const evaluation::EncodingRules& rules, const corpus::Tokenizer& tokenizer)
    : cache_(rules.cache),
      norm_limits_(rules.cache.drop_norm_above > 0 ? rules.norm_limits : std::vector<double>{}),
      tokenizer_(&tokenizer) {}

double SinkGuard::fixed_limit(const HookPoint& point) const {
  for (std::size_t i = 0; i < norm_limits_.size(); ++i) {
    if (HookPoint::parse(cache_.hook_points[i]) == point) return norm_limits_[i];
  }
  return 0;
}

at::Tensor SinkGuard::usable_rows(const HookPoint& point, const at::Tensor& activation,
                                  const PassRows& rows) {
  const at::Tensor is_token = rows.batch.documents.ge(0).reshape({-1});
  activation_cache::CacheConfig rules = cache_;
  const double fixed = fixed_limit(point);
  rules.drop_norm_above = fixed;  // above 0 where there is one
  const std::vector<std::uint8_t> kept = activation_cache::kept_positions(
      rules, *tokenizer_, rows.batch.token_ids, rows.batch.positions, {activation},
      fixed > 0 ? std::vector<double>{fixed} : std::vector<double>{});
  at::Tensor usable = at::empty({is_token.numel()}, at::kBool);
  std::copy(kept.begin(), kept.end(), usable.mutable_data_ptr<bool>());
  usable.logical_and_(is_token);
  if (fixed > 0) return usable;

  const std::int64_t n = rows.prompts.numel();
  const at::Tensor norms = activation.to(at::kCPU, at::kDouble).norm(2, 1).view({n, -1});
  const at::Tensor by_context = usable.view({n, -1});
  const at::Tensor of_prompt =
      rows.batch.positions.lt(rows.prompt_tokens.unsqueeze(1)).logical_and(by_context);
  std::map<std::int64_t, double>& limits = limits_[point];
  for (std::int64_t c = 0; c < n; ++c) {
    const std::int64_t prompt = rows.prompts[c].item<std::int64_t>();
    if (rows.is_first) {
      const at::Tensor of_this = norms[c].masked_select(of_prompt[c]);
      // NaN compares false below: such rows are no sinks, and generation reports them.
      limits[prompt] = of_this.numel() == 0 ? 0 : kMostMedians * of_this.median().item<double>();
    }
    const auto limit = limits.find(prompt);
    THRESHER_CHECK(limit != limits.end(), "a pass that continues prompts nobody has read");
    if (limit->second > 0) by_context[c].logical_and_(norms[c].gt(limit->second).logical_not());
  }
  return usable;
}

Interventions::Interventions(std::vector<Intervention> interventions,
                             const evaluation::EncodingRules& rules,
                             const corpus::Tokenizer& tokenizer,
                             const host_model::HostModelInfo& info)
    : interventions_(std::move(interventions)), guard_(rules, tokenizer) {
  for (const Intervention& one : interventions_) check(one, info);
}

std::map<HookPoint, host_model::RowHook> Interventions::hooks() {
  std::map<HookPoint, host_model::RowHook> out;
  for (const Intervention& one : interventions_) {
    out[one.point] = [this, point = one.point](const at::Tensor& activation, const PassRows& rows) {
      return edit(point, activation, rows);
    };
  }
  return out;
}

at::Tensor Interventions::edit(const HookPoint& point, const at::Tensor& activation,
                               const PassRows& rows) {
  at::Tensor edited;
  const at::Tensor usable = guard_.usable_rows(point, activation, rows);
  const std::int64_t tokens = rows.batch.token_ids.size(1);
  for (const Intervention& one : interventions_) {
    if (one.point != point) continue;
    const at::Tensor asked = in_range(one.positions, rows);
    const at::Tensor places = asked.logical_and(usable).nonzero().squeeze(1);
    n_edited_ += places.numel();
    n_left_alone_ += asked.sum().item<std::int64_t>() - places.numel();
    if (places.numel() == 0) continue;
    if (!edited.defined()) edited = activation.to(at::kCPU).clone();
    const at::Tensor x = edited.index_select(0, places);
    const at::Tensor prompts =
        rows.prompts.index_select(0, at::floor_divide(places, at::Scalar(tokens)));
    at::Tensor replacement;
    if (one.kind == Kind::kReconstruct) {
      replacement = one.sae->reconstruct(x);
    } else if (one.latent >= 0) {
      replacement = edit_latent(one, x, prompts);
    } else {
      replacement = edit_along_direction(one, x, prompts);
    }
    edited.index_copy_(0, places, replacement);
  }
  return edited;
}

}  // namespace thresher::features
