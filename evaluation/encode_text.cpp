#include "evaluation/encode_text.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "core/error.h"

namespace thresher::evaluation {
namespace {

using activation_cache::DropReason;
using host_model::HookPoint;

/// The activations of one context, [tokens, width] by hook point.
std::map<HookPoint, at::Tensor> run_context(const std::vector<std::int32_t>& ids,
                                            const std::vector<HookPoint>& points,
                                            host_model::HostModel& model) {
  const auto n = static_cast<std::int64_t>(ids.size());
  host_model::TokenBatch batch;
  batch.token_ids = at::empty({1, n}, at::kLong);
  std::copy(ids.begin(), ids.end(), batch.token_ids.data_ptr<std::int64_t>());
  batch.positions = at::arange(n, at::kLong).unsqueeze(0);
  batch.documents = at::zeros({1, n}, at::kLong);
  std::map<HookPoint, at::Tensor> activations;
  host_model::ForwardRequest request;
  for (const HookPoint& point : points) {
    // The model may go on to work in the tensor that it shows.
    request.hooks[point] = [&activations, point](const at::Tensor& activation) {
      activations[point] = activation.to(at::kCPU, at::kFloat).clone().contiguous();
      return at::Tensor();
    };
  }
  model.forward(batch, request);
  return activations;
}

/// The latents of each row that fire, all of them, largest first; equal ones by number.
std::vector<std::vector<std::pair<std::int64_t, float>>> firing_latents(
    const sae::InferenceSae& sae, const at::Tensor& x) {
  const sae::SparseLatents sparse = sae.encode_sparse(x);
  const at::Tensor indices = sparse.indices.contiguous(), values = sparse.values.contiguous();
  const std::int64_t width = indices.size(1);
  std::vector<std::vector<std::pair<std::int64_t, float>>> rows(
      static_cast<std::size_t>(x.size(0)));
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const auto begin = static_cast<std::int64_t>(row) * width;
    for (std::int64_t i = begin; i < begin + width; ++i) {
      const float value = values.const_data_ptr<float>()[i];
      if (value > 0) rows[row].emplace_back(indices.const_data_ptr<std::int32_t>()[i], value);
    }
    std::sort(rows[row].begin(), rows[row].end(), [](const auto& a, const auto& b) {
      return a.second != b.second ? a.second > b.second : a.first < b.first;
    });
  }
  return rows;
}

}  // namespace

std::vector<EncodedToken> encode_text(std::string_view text, const EncodingRules& rules,
                                      const std::vector<EncodingSae>& saes, std::int64_t top,
                                      const corpus::Tokenizer& tokenizer,
                                      host_model::HostModel& model) {
  std::vector<std::int32_t> ids;
  if (rules.corpus.prepend_bos == "document") ids.push_back(tokenizer.bos_id().value());
  const std::vector<std::int32_t> text_ids = tokenizer.encode(text);
  ids.insert(ids.end(), text_ids.begin(), text_ids.end());
  if (text_ids.empty()) {
    throw ConfigError("encode: the text has no tokens",
                      "at least one character that the vocabulary knows");
  }
  std::vector<HookPoint> points;
  for (const std::string& name : rules.cache.hook_points) points.push_back(HookPoint::parse(name));
  const activation_cache::DropRules drop_rules(
      rules.cache.drop_first_positions, rules.cache.drop_special_tokens,
      rules.cache.drop_norm_above > 0 ? rules.norm_limits : std::vector<double>{}, tokenizer);

  std::vector<EncodedToken> tokens;
  const auto width = static_cast<std::size_t>(rules.corpus.context_tokens);
  for (std::size_t first = 0; first < ids.size(); first += width) {
    const std::vector<std::int32_t> context(
        ids.begin() + static_cast<std::ptrdiff_t>(first),
        ids.begin() + static_cast<std::ptrdiff_t>(std::min(first + width, ids.size())));
    const std::map<HookPoint, at::Tensor> activations = run_context(context, points, model);
    std::vector<std::vector<std::vector<std::pair<std::int64_t, float>>>> by_sae;
    for (const EncodingSae& one : saes) {
      by_sae.push_back(firing_latents(*one.sae, activations.at(HookPoint::parse(one.hook_point))));
    }
    for (std::size_t place = 0; place < context.size(); ++place) {
      EncodedToken token;
      token.id = context[place];
      token.bytes = tokenizer.decode({&token.id, 1});
      token.context = static_cast<std::int64_t>(first / width);
      token.position = static_cast<std::int64_t>(place);
      token.dropped = drop_rules.reason(token.id, token.position, [&](std::size_t hook) {
        const at::Tensor& rows = activations.at(points[hook]);
        const auto row_width = static_cast<std::size_t>(rows.size(1));
        return activation_cache::row_norm(
            {rows.const_data_ptr<float>() + place * row_width, row_width});
      });
      for (auto& rows : by_sae) {
        std::vector<std::pair<std::int64_t, float>> latents = std::move(rows[place]);
        if (token.dropped != DropReason::kKept) latents.clear();
        token.n_active.push_back(static_cast<std::int64_t>(latents.size()));
        latents.resize(std::min(latents.size(), static_cast<std::size_t>(top)));
        token.latents.push_back(std::move(latents));
      }
      tokens.push_back(std::move(token));
    }
  }
  return tokens;
}

}  // namespace thresher::evaluation
