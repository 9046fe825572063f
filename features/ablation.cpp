#include "features/ablation.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/config.h"
#include "core/error.h"
#include "core/random.h"
#include "core/visible_text.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;

constexpr std::array kMethodNames = {"zero", "mean", "resample", "jitter", "patch"};

/// Rows of kept positions that values are taken from.
std::vector<std::int64_t> source_rows(const ContextRun& source) {
  std::vector<std::int64_t> rows = source.positions(/*with_sinks=*/false);
  if (rows.empty()) {
    throw ConfigError("the text that values are taken from has no position to take from",
                      "a longer text: first positions, special tokens and outlier norms are left "
                      "out");
  }
  return rows;
}

at::Tensor resampled(const at::Tensor& table, const std::vector<std::int64_t>& rows,
                     const ContextRun& run, bool is_same_text, const RandomStream& random,
                     std::int64_t draw) {
  std::vector<std::int64_t> chosen;
  for (std::int64_t position = 0; position < run.n_tokens(); ++position) {
    std::vector<std::int64_t> candidates = rows;
    if (is_same_text) std::erase(candidates, position);
    if (candidates.empty()) {
      throw ConfigError("the text has no other position to draw values from",
                        "a longer text, or --reference TEXT");
    }
    const auto index = static_cast<std::uint64_t>(draw * run.n_tokens() + position);
    chosen.push_back(candidates[random.below(index, candidates.size())]);
  }
  return table.index_select(0, at::tensor(chosen, at::kLong));
}

at::Tensor jittered(const at::Tensor& values, const Change& change, const RandomStream& random,
                    std::int64_t draw) {
  const std::int64_t rows = values.size(0), width = values.size(1);
  at::Tensor noise = at::empty({rows, width}, at::kDouble);
  auto* value = noise.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < rows * width; ++i) {
    value[i] = random.normal(static_cast<std::uint64_t>(draw * rows * width + i));
  }
  const at::Tensor length = at::sqrt(noise.square().sum(1, /*keepdim=*/true));
  const at::Tensor wanted =
      change.norm > 0
          ? at::full({rows, 1}, change.norm, at::kDouble)
          : at::sqrt(values.to(at::kDouble).square().sum(1, /*keepdim=*/true)) * change.fraction;
  return values + (noise / length * wanted).to(at::kFloat);
}

/// What one run changes and where its result goes.
struct Job {
  std::int64_t first_changed = 0;
  Outputs* out = nullptr;
};

/// Collects changed runs and computes them together.
class Batch {
 public:
  Batch(const ContextRun& run, const OutputReader& reader, host_model::HostModel& model)
      : run_(run), reader_(reader), model_(model), most_(runs_per_batch(run)) {}

  void add(const HookPoint& point, at::Tensor replaced, const Job& job) {
    replacements_.push_back({point, std::move(replaced)});
    jobs_.push_back(job);
    if (static_cast<std::int64_t>(jobs_.size()) == most_) flush();
  }

  void flush() {
    if (jobs_.empty()) return;
    std::vector<std::int64_t> first_changed;
    for (const Job& job : jobs_) first_changed.push_back(job.first_changed);
    const std::vector<Outputs> outputs =
        reader_.measure(run_replaced(run_, replacements_, model_), first_changed);
    for (std::size_t i = 0; i < jobs_.size(); ++i) {
      *jobs_[i].out = difference(outputs[i], reader_.unchanged());
    }
    replacements_.clear();
    jobs_.clear();
  }

 private:
  const ContextRun& run_;
  const OutputReader& reader_;
  host_model::HostModel& model_;
  std::int64_t most_;
  std::vector<Replacement> replacements_;
  std::vector<Job> jobs_;
};

/// The runs of one component over draws and columns, until their outputs are there.
struct ComponentRuns {
  std::vector<std::vector<Outputs>> by_column;  // [columns][draws]
};

void add_component(const AblationRequest& request, const Component& component,
                   const std::vector<std::int64_t>& positions, const ContextRun& run,
                   const ContextRun& source, const std::vector<std::int64_t>& columns, Batch& batch,
                   ComponentRuns& runs) {
  const at::Tensor& x = run.at(component.point());
  for (std::int64_t draw = 0; draw < request.change.draws; ++draw) {
    const Exchange values = exchange(component, request.change, run, source, draw);
    const at::Tensor replaced = component.replace(x, values.values, values.changed);
    const at::Tensor differs = values.values.ne(values.changed).any(1);
    for (std::size_t column = 0; column < columns.size(); ++column) {
      std::vector<std::int64_t> rows;
      for (const std::int64_t position : positions) {
        const bool is_asked = columns[column] == kAllPositions || columns[column] == position;
        if (is_asked && differs.const_data_ptr<bool>()[position]) rows.push_back(position);
      }
      if (rows.empty()) continue;
      const at::Tensor index = at::tensor(rows, at::kLong);
      at::Tensor changed = x.clone();
      changed.index_copy_(0, index, replaced.index_select(0, index));
      batch.add(component.point(), changed,
                {rows.front(), &runs.by_column[column][static_cast<std::size_t>(draw)]});
    }
  }
}

}  // namespace

Method parse_method(std::string_view name) {
  for (std::size_t i = 0; i < kMethodNames.size(); ++i) {
    if (name == kMethodNames[i]) return static_cast<Method>(i);
  }
  const std::string nearest =
      nearest_name(std::string(name), {kMethodNames.begin(), kMethodNames.end()});
  throw ConfigError(fmt::format("there is no method {}", visible_text(std::string(name))),
                    "zero, mean, resample, jitter or patch",
                    nearest.empty() ? "" : fmt::format("did you mean {}?", nearest));
}

const char* method_name(Method method) { return kMethodNames[static_cast<std::size_t>(method)]; }

Effect effect_of(const std::vector<Outputs>& draws) {
  Effect effect;
  const auto n = static_cast<double>(draws.size());
  for (const OutputFigure& figure : output_figures()) {
    double sum = 0, squares = 0;
    for (const Outputs& one : draws) sum += one.*figure.value;
    for (const Outputs& one : draws) squares += std::pow(one.*figure.value - sum / n, 2);
    effect.mean.*figure.value = sum / n;
    effect.spread.*figure.value =
        draws.size() > 1 ? std::sqrt(squares / (n - 1)) : std::numeric_limits<double>::quiet_NaN();
  }
  return effect;
}

Outputs difference(const Outputs& a, const Outputs& b) {
  Outputs out;
  for (const OutputFigure& figure : output_figures()) {
    out.*figure.value = a.*figure.value - b.*figure.value;
  }
  return out;
}

Exchange exchange(const Component& component, const Change& change, const ContextRun& run,
                  const ContextRun& source, std::int64_t draw) {
  Exchange out;
  out.values = component.values(run.at(component.point()));
  const auto table = [&] { return component.values(source.at(component.point())); };
  const auto random = [&](const char* purpose) {
    return RandomStream(change.seed, fmt::format("ablate.{}.{}", purpose, component.name()));
  };
  switch (change.method) {
    case Method::kZero:
      out.changed = at::zeros_like(out.values);
      break;
    case Method::kMean: {
      const at::Tensor rows = at::tensor(source_rows(source), at::kLong);
      out.changed = table()
                        .index_select(0, rows)
                        .to(at::kDouble)
                        .mean(0, /*keepdim=*/true)
                        .to(at::kFloat)
                        .expand_as(out.values)
                        .contiguous();
      break;
    }
    case Method::kResample:
      out.changed =
          resampled(table(), source_rows(source), run, &source == &run, random("resample"), draw);
      break;
    case Method::kJitter:
      out.changed = jittered(out.values, change, random("jitter"), draw);
      break;
    case Method::kPatch:
      out.changed = table();
      break;
  }
  return out;
}

std::vector<std::int64_t> changed_positions(const AblationRequest& request, const ContextRun& run,
                                            const ContextRun& source) {
  std::vector<std::int64_t> positions = run.positions(request.with_sinks);
  if (request.change.method == Method::kPatch) {
    const std::vector<std::int64_t> others = source.positions(request.with_sinks);
    std::erase_if(positions, [&](std::int64_t position) {
      return !std::binary_search(others.begin(), others.end(), position);
    });
  }
  if (positions.empty()) {
    throw ConfigError("the text has no position to change",
                      "a longer text: first positions, special tokens and outlier norms are left "
                      "out",
                      "--include-first changes them, too");
  }
  return positions;
}

AblationMap ablate(const AblationRequest& request, const ContextRun& run, const ContextRun& source,
                   host_model::HostModel& model,
                   const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const std::vector<std::int64_t> positions = changed_positions(request, run, source);
  const bool is_patch = request.change.method == Method::kPatch;
  AblationMap map;
  if (!request.only_at_once) map.positions = positions;
  map.positions.push_back(kAllPositions);
  const OutputReader reader(run, is_patch ? source : run, request.tokens, model);
  map.unchanged = reader.unchanged();
  if (is_patch) map.source = OutputReader(source, source, request.tokens, model).unchanged();

  std::vector<ComponentRuns> all(request.components.size());
  const Outputs nothing = difference(map.unchanged, map.unchanged);
  Batch batch(run, reader, model);
  const auto total = static_cast<std::int64_t>(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].by_column.assign(
        map.positions.size(),
        std::vector<Outputs>(static_cast<std::size_t>(request.change.draws), nothing));
    add_component(request, request.components[i], positions, run, source, map.positions, batch,
                  all[i]);
    if (progress) progress(static_cast<std::int64_t>(i), total);
  }
  batch.flush();
  if (progress) progress(total, total);
  for (std::size_t i = 0; i < all.size(); ++i) {
    map.components.push_back(request.components[i].name());
    for (const std::vector<Outputs>& draws : all[i].by_column) {
      map.effects.push_back(effect_of(draws));
    }
  }
  return map;
}

}  // namespace thresher::features
