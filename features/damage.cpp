#include "features/damage.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "core/error.h"
#include "core/random.h"
#include "evaluation/clean_pass.h"
#include "evaluation/output_losses.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;

constexpr std::int64_t kTokensPerBatch = 1024;

struct Sums {
  std::int64_t n_tokens = 0, n_predictions = 0;
  double loss = 0, error = 0, spread = 0;

  void add_token(double squared_error, double squared_distance) {
    ++n_tokens;
    error += squared_error;
    spread += squared_distance;
  }
  void add_loss(double change) {
    ++n_predictions;
    loss += change;
  }
  double fvu() const { return spread > 0 ? error / spread : 0; }
  double mean_loss() const {
    return n_predictions > 0 ? loss / static_cast<double>(n_predictions) : 0;
  }
};

std::vector<GroupDamage> groups_of(const std::map<std::int64_t, Sums>& sums) {
  std::vector<GroupDamage> out;
  for (const auto& [key, one] : sums) {
    out.push_back({key, one.n_tokens, one.n_predictions, one.mean_loss(), one.fvu()});
  }
  return out;
}

/// Rows of Gaussian direction with the norms of `errors`.
at::Tensor random_errors(const at::Tensor& errors, const RandomStream& random,
                         std::int64_t first_row) {
  const std::int64_t rows = errors.size(0), width = errors.size(1);
  at::Tensor noise = at::empty({rows, width}, at::kDouble);
  auto* value = noise.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < rows * width; ++i) {
    value[i] = random.normal(static_cast<std::uint64_t>(first_row * width + i));
  }
  const at::Tensor length = at::sqrt(noise.square().sum(1, /*keepdim=*/true));
  const at::Tensor wanted = at::sqrt(errors.to(at::kDouble).square().sum(1, /*keepdim=*/true));
  return (noise / length * wanted).to(at::kFloat);
}

/// All sums over the batches so far.
class DamageSums {
 public:
  DamageSums(const DamageRequest& request, const NamedSae& sae,
             const evaluation::EvaluationContext& context, const corpus::Tokenizer& tokenizer,
             host_model::HostModel& model)
      : sae_(sae),
        context_(context),
        tokenizer_(tokenizer),
        model_(model),
        point_(HookPoint::parse(sae.hook_point)),
        random_kl_(static_cast<std::size_t>(request.draws)) {
    for (std::int64_t draw = 0; draw < request.draws; ++draw) {
      random_.emplace_back(request.seed, fmt::format("diagnose.error.{}", draw));
    }
    const auto& points = context.cache.hook_points;
    const auto index = static_cast<std::size_t>(
        std::find(points.begin(), points.end(), sae.hook_point) - points.begin());
    THRESHER_CHECK(index < points.size(), "the SAE's hook point is one of the cache's");
    mean_ = at::tensor(context.training_means[index], at::kDouble);
  }

  void add(const host_model::TokenBatch& batch) {
    const evaluation::CleanPass clean =
        evaluation::run_clean(batch, {point_}, context_, tokenizer_, model_);
    if (clean.kept_rows.numel() == 0) return;
    const at::Tensor x = clean.activations.at(point_).to(at::kCPU).index_select(0, clean.kept_rows);
    const at::Tensor recon = sae_.sae.reconstruct(x);
    std::vector<at::Tensor> runs = {evaluation::run_spliced(clean, point_, recon, model_)};
    for (const RandomStream& random : random_) {
      runs.push_back(evaluation::run_spliced(
          clean, point_, x + random_errors(x - recon, random, total_.n_tokens), model_));
    }
    add_tokens(clean, x, recon);
    add_losses(clean, evaluation::output_losses(clean.final_normalized, runs, clean.prediction_rows,
                                                clean.targets, model_));
  }

  Damage result() const {
    Damage out;
    out.n_tokens = total_.n_tokens;
    out.n_predictions = total_.n_predictions;
    out.loss = total_.mean_loss();
    out.fvu = total_.fvu();
    const double n = static_cast<double>(total_.n_predictions);
    out.kl = kl_ / n;
    for (const double kl : random_kl_) out.random_kl.push_back(kl / n);
    out.by_token = groups_of(by_token_);
    out.by_position = groups_of(by_position_);
    out.by_document = groups_of(by_document_);
    return out;
  }

 private:
  /// The three groups of a row, and the total.
  std::array<Sums*, 4> groups(const host_model::TokenBatch& batch, std::int64_t row) {
    const auto value = [row](const at::Tensor& table) {
      return table.const_data_ptr<std::int64_t>()[row];
    };
    return {&total_, &by_token_[value(batch.token_ids)], &by_position_[value(batch.positions)],
            &by_document_[value(batch.documents)]};
  }

  void add_tokens(const evaluation::CleanPass& clean, const at::Tensor& x,
                  const at::Tensor& recon) {
    const at::Tensor wide = x.to(at::kDouble);
    const at::Tensor errors = (wide - recon).square().sum(1);
    const at::Tensor distances = (wide - mean_).square().sum(1);
    for (std::int64_t i = 0; i < clean.kept_rows.numel(); ++i) {
      const std::int64_t row = clean.kept_rows.const_data_ptr<std::int64_t>()[i];
      for (Sums* sums : groups(clean.batch, row)) {
        sums->add_token(errors.const_data_ptr<double>()[i], distances.const_data_ptr<double>()[i]);
      }
    }
  }

  void add_losses(const evaluation::CleanPass& clean,
                  const std::vector<evaluation::OutputLosses>& losses) {
    const at::Tensor change = losses[1].cross_entropy - losses[0].cross_entropy;
    for (std::int64_t i = 0; i < clean.prediction_rows.numel(); ++i) {
      const std::int64_t row = clean.prediction_rows.const_data_ptr<std::int64_t>()[i];
      for (Sums* sums : groups(clean.batch, row)) {
        sums->add_loss(change.const_data_ptr<double>()[i]);
      }
    }
    kl_ += losses[1].kl_divergence.sum().item<double>();
    for (std::size_t draw = 0; draw < random_kl_.size(); ++draw) {
      random_kl_[draw] += losses[2 + draw].kl_divergence.sum().item<double>();
    }
  }

  const NamedSae& sae_;
  const evaluation::EvaluationContext& context_;
  const corpus::Tokenizer& tokenizer_;
  host_model::HostModel& model_;
  HookPoint point_;
  at::Tensor mean_;
  std::vector<RandomStream> random_;
  Sums total_;
  double kl_ = 0;
  std::vector<double> random_kl_;
  std::map<std::int64_t, Sums> by_token_, by_position_, by_document_;
};

}  // namespace

Damage measure_damage(const DamageRequest& request, const NamedSae& sae,
                      const evaluation::EvaluationContext& context,
                      const corpus::PackedContexts& held_out, const corpus::Tokenizer& tokenizer,
                      host_model::HostModel& model) {
  const std::int64_t width = held_out.context_tokens;
  const std::int64_t n_contexts =
      std::min(held_out.n_contexts, (request.tokens + width - 1) / width);
  const std::int64_t per_batch = std::max<std::int64_t>(1, kTokensPerBatch / width);
  DamageSums sums(request, sae, context, tokenizer, model);
  for (std::int64_t first = 0; first < n_contexts; first += per_batch) {
    const std::int64_t count = std::min(per_batch, n_contexts - first);
    sums.add(evaluation::make_batch(held_out, first, count));
  }
  Damage out = sums.result();
  if (out.n_predictions == 0) {
    throw ConfigError("diagnose: no held-out position is left to measure on",
                      "more held-out text: corpus.held_out_fraction");
  }
  return out;
}

std::vector<GroupDamage> most_hurt(const std::vector<GroupDamage>& groups, std::size_t top,
                                   std::int64_t least_predictions) {
  std::vector<GroupDamage> out;
  for (const GroupDamage& one : groups) {
    if (one.n_predictions >= least_predictions) out.push_back(one);
  }
  const auto total = [](const GroupDamage& one) {
    return one.loss * static_cast<double>(one.n_predictions);
  };
  std::stable_sort(out.begin(), out.end(),
                   [&](const GroupDamage& a, const GroupDamage& b) { return total(a) > total(b); });
  out.resize(std::min(out.size(), top));
  return out;
}

Stability decoder_stability(const NamedSae& one, const NamedSae& two) {
  if (one.sae.d_in() != two.sae.d_in()) {
    throw ConfigError(fmt::format("the SAEs {} and {} read {} and {} values a token", one.name,
                                  two.name, one.sae.d_in(), two.sae.d_in()),
                      "SAEs of the same hook point");
  }
  constexpr std::int64_t kRows = 1024;  // so that [latents, latents] never exists at once
  const auto rows_of = [](const NamedSae& sae) {
    return sae.sae.W_dec / sae.sae.W_dec.norm(2, {1}, /*keepdim=*/true).clamp_min(1e-12);
  };
  const at::Tensor a = rows_of(one), b = rows_of(two).t().contiguous();
  Stability out;
  for (std::int64_t first = 0; first < a.size(0); first += kRows) {
    const auto [best, latent] =
        at::mm(a.narrow(0, first, std::min(kRows, a.size(0) - first)), b).max(1);
    for (std::int64_t i = 0; i < best.numel(); ++i) {
      out.best_cosine.push_back(static_cast<double>(best.const_data_ptr<float>()[i]));
      out.best_latent.push_back(latent.const_data_ptr<std::int64_t>()[i]);
    }
  }
  const auto n = static_cast<double>(out.best_cosine.size());
  for (const double cosine : out.best_cosine) {
    out.mean += cosine / n;
    out.above += (cosine > kStable ? 1 : 0) / n;
  }
  return out;
}

}  // namespace thresher::features
