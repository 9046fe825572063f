#include "features/steering_study.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/log.h"
#include "core/visible_text.h"
#include "features/prompts.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;

double parse_number(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc() && stop == end && std::abs(value) <= 1e9) return value;
  throw UsageError(fmt::format("{} is no coefficient", visible_text(text)), "a finite number");
}

HookPoint parse_point(const std::string& text) {
  const bool is_block =
      !text.empty() && text.size() < 5 && text.find_first_not_of("0123456789") == std::string::npos;
  return HookPoint::parse(is_block ? fmt::format("blocks.{}.hook_resid_post", text) : text);
}

bool is_of_texts(const std::vector<DirectionTerm>& terms) {
  return std::all_of(terms.begin(), terms.end(), [](const DirectionTerm& term) {
    using Kind = DirectionTerm::Kind;
    return term.kind == Kind::kPair || term.kind == Kind::kPairs || term.kind == Kind::kMeans;
  });
}

/// A study while it runs.
class Study {
 public:
  Study(const Subject& subject, const SteeringPlan& plan, const LatentSearch& search)
      : subject_(subject), plan_(plan), search_(search) {
    if (plan.prompts.empty()) throw UsageError("steer: no prompt", "one or more");
    kind_ = parse_intervention_kind(plan.kind);
    if (kind_ == Intervention::Kind::kReconstruct) {
      throw UsageError("steer: splice has no direction", "add, clamp, scale or project");
    }
    terms_ = parse_direction(plan.direction);
    for (const std::string& one : plan.coefficients) values_.push_back(parse_number(one));
    for (const std::string& one : plan.positions) positions_.push_back(PositionRange::parse(one));
    set_points();
    reading_.prefix = pair_prefix(subject, plan.prefix);
    if (plan.read != "mean" && plan.read != "last") {
      throw UsageError(fmt::format("read: {}", visible_text(plan.read)), "mean or last");
    }
    reading_.over = plan.read == "mean" ? PairReading::Over::kMean : PairReading::Over::kLast;
    vectors_ = make_direction(subject, terms_, points_, plan.sae, reading_, search_);
  }

  SteeringStudy run() {
    SteeringStudy out;
    out.plan = plan_;
    for (const HookPoint& point : points_)
      out.norms.emplace_back(point.name(), vectors_.at(point).norm().item<double>());
    SteeringBench bench(subject_, task_of(plan_.prompts));
    out.rows = baselines(bench);
    const double limit = plan_.most_perplexity * out.rows.front().perplexity;
    std::vector<SteeringRow> embedded = embedding_rows(bench);
    const std::size_t n_before = out.rows.size() + embedded.size();
    append(out.rows, embedded);
    for (const HookPoint& point : points_) {
      for (const PositionRange& range : positions_) {
        append(out.rows, bench.steered(settings(point, range)));
        log_info(fmt::format("steer: {} {} done", point.name(), range.name()));
      }
    }
    const std::vector<SteeringRow> steered(out.rows.begin() + static_cast<std::ptrdiff_t>(n_before),
                                           out.rows.end());
    const std::int64_t best = best_row(steered, limit);
    if (best < 0) return out;
    out.chosen = n_before + static_cast<std::size_t>(best);
    const std::int64_t best_embedded = best_row(embedded, limit);
    look_closer(bench, out,
                best_embedded < 0 ? nullptr : &embedded[static_cast<std::size_t>(best_embedded)]);
    return out;
  }

 private:
  void set_points() {
    for (const std::string& one : plan_.points) points_.push_back(parse_point(one));
    if (!points_.empty()) return;
    if (subject_.saes.empty()) {
      throw UsageError("steer: no hook point",
                       "--at POINT, such as 10 or blocks.10.hook_resid_mid");
    }
    points_ = {HookPoint::parse(subject_.sae(plan_.sae).hook_point)};
  }

  SteeringTask task_of(const std::vector<std::string>& prompts) const {
    SteeringTask task;
    for (const std::string& text : prompts) task.prompts.push_back(prompt_tokens(subject_, text));
    task.attributes = plan_.attributes;
    if (!plan_.words.empty()) task.words = WordList::read(plan_.words);
    task.generation.max_new_tokens = plan_.max_tokens;
    task.generation.temperature = plan_.temperature;
    task.generation.top_p = plan_.top_p;
    task.generation.seed = static_cast<std::uint64_t>(plan_.seed);
    task.generation.stop_ids = stop_tokens(*subject_.tokenizer);
    return task;
  }

  static void append(std::vector<SteeringRow>& rows, const std::vector<SteeringRow>& more) {
    rows.insert(rows.end(), more.begin(), more.end());
  }

  std::vector<SteeringRow> baselines(SteeringBench& bench) const {
    std::vector<SteeringRow> rows = {bench.plain()};
    if (!plan_.prompting.empty())
      rows.push_back(bench.prompting(subject_.tokenizer->encode(plan_.prompting)));
    return rows;
  }

  /// A latent at its own hook point is changed by its activation; adding comes to the same as
  /// adding its decoder row.
  bool is_latent_edit(const HookPoint& point) const {
    using Kind = DirectionTerm::Kind;
    return kind_ != Intervention::Kind::kAdd && terms_.size() == 1 && terms_[0].weight == 1 &&
           (terms_[0].kind == Kind::kLatent || terms_[0].kind == Kind::kSearch) &&
           HookPoint::parse(subject_.sae(plan_.sae).hook_point) == point;
  }

  SteeredSettings settings(const HookPoint& point, const PositionRange& range) const {
    SteeredSettings out;
    out.base.kind = kind_;
    out.base.point = point;
    out.base.positions = range;
    out.values = values_;
    if (is_latent_edit(point)) {
      out.base.sae = &subject_.sae(plan_.sae).sae;
      out.base.latent = latent_number(terms_[0], search_);
    } else {
      out.directions =
          vectors_.at(point).expand({static_cast<std::int64_t>(values_.size()), -1}).contiguous();
    }
    return out;
  }

  std::vector<SteeringRow> embedding_rows(SteeringBench& bench) {
    std::vector<SteeringRow> rows;
    if (kind_ != Intervention::Kind::kAdd || !is_of_texts(terms_)) return rows;
    const HookPoint point = HookPoint::parse("hook_embed");
    if (vectors_.count(point) == 0) {
      vectors_[point] =
          make_direction(subject_, terms_, {point}, plan_.sae, reading_, search_).at(point);
    }
    for (const PositionRange& range : positions_) {
      std::vector<SteeringRow> some = bench.steered(settings(point, range));
      for (SteeringRow& row : some) row.name = "embedding";
      append(rows, some);
    }
    return rows;
  }

  SteeredSettings setting_of(const SteeringRow& row) const {
    SteeredSettings one =
        settings(HookPoint::parse(row.point), PositionRange::parse(row.positions));
    one.values = {row.value};
    if (one.directions.defined()) one.directions = one.directions.narrow(0, 0, 1);
    return one;
  }

  void look_closer(SteeringBench& bench, SteeringStudy& out, const SteeringRow* embedded) {
    const SteeringRow row = out.rows[*out.chosen];
    const SteeredSettings one = setting_of(row);
    std::optional<SteeringBench> test;
    if (!plan_.test_prompts.empty()) {
      test.emplace(subject_, task_of(plan_.test_prompts));
      out.test_rows = baselines(*test);
      if (embedded != nullptr) {
        append(out.test_rows, test->steered(setting_of(*embedded)));
        out.test_rows.back().name = "embedding";
      }
      append(out.test_rows, test->steered(one));
    }
    SteeringBench& last = test ? *test : bench;
    if (!one.directions.defined()) return;
    if (plan_.controls > 0 && kind_ == Intervention::Kind::kAdd) {
      const std::int64_t isotropic = plan_.isotropic.value_or(plan_.controls);
      log_info(fmt::format("steer: {} random directions of the same norm at {}",
                           plan_.controls + isotropic, row.point));
      out.control = control(last, subject_, one, {plan_.controls, isotropic},
                            static_cast<std::uint64_t>(plan_.seed), reading_);
    }
    if (!plan_.attributes.empty()) out.matrix = specificity(last, one);
  }

  /// Other directions at the chosen setting, of the main one's norm; and what the main one does
  /// without its component along the confounder.
  std::vector<SpecificityRow> specificity(SteeringBench& bench, SteeredSettings one) const {
    const HookPoint point = one.base.point;
    const at::Tensor main = one.directions[0];
    std::vector<std::string> names = {plan_.direction};
    std::vector<at::Tensor> rows = {main};
    const auto add = [&](const std::string& spec) {
      const at::Tensor made =
          make_direction(subject_, parse_direction(spec), {point}, plan_.sae, reading_, search_)
              .at(point);
      names.push_back(spec);
      rows.push_back(norm_matched(made.unsqueeze(0), main)[0]);
    };
    for (const std::string& spec : plan_.others) add(spec);
    if (!plan_.confounder.empty()) {
      add(plan_.confounder);
      names.push_back(fmt::format("{} without {}", plan_.direction, plan_.confounder));
      rows.push_back(projected_out(main, rows.back()));
    }
    one.directions = at::stack(rows);
    one.values.assign(rows.size(), one.values.front());
    const at::Tensor effects = bench.effects(one);
    std::vector<SpecificityRow> out;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const at::Tensor of_row = effects[static_cast<std::int64_t>(r)].contiguous();
      const double* first = of_row.const_data_ptr<double>();
      out.push_back({names[r], {first, first + of_row.numel()}});
    }
    return out;
  }

  const Subject& subject_;
  const SteeringPlan& plan_;
  const LatentSearch& search_;
  Intervention::Kind kind_ = Intervention::Kind::kAdd;
  std::vector<DirectionTerm> terms_;
  std::vector<double> values_;
  std::vector<PositionRange> positions_;
  std::vector<HookPoint> points_;
  PairReading reading_;
  PointVectors vectors_;
};

}  // namespace

void SteeringPlan::declare(FieldVisitor& fields) {
  fields.field("direction", direction,
               {.help = "a direction, or a sum of them", .is_required = true});
  fields.field("sae", sae, {.help = "the SAE whose latents are meant; empty: the only one"});
  fields.field("kind", kind,
               {.help = "what is done along it", .choices = {"add", "clamp", "scale", "project"}});
  fields.field("points", points, {.help = "hook points; N is blocks.N.hook_resid_post"});
  fields.field("positions", positions, {.help = "all, end, last or FIRST:END"});
  fields.field("coefficients", coefficients, {.help = "coefficients, or values to clamp to"});
  fields.field("prompts", prompts, {.help = "prompts on which the setting is chosen"});
  fields.field("test_prompts", test_prompts, {.help = "prompts on which it is tested"});
  fields.field("words", words,
               {.help = "a file of words: success is their share in the texts that are made"});
  fields.field("prompting", prompting, {.help = "baseline: a text before every prompt"});
  fields.field("others", others, {.help = "more directions for the attribute x direction matrix"});
  fields.field("confounder", confounder, {.help = "a direction that is projected out"});
  fields.field("prefix", prefix,
               {.help = "what pairs are read behind; empty: BOS or a line break"});
  fields.field("read", read,
               {.help = "positions of a pair that are read", .choices = {"mean", "last"}});
  fields.field("controls", controls,
               {.help = "differences of random pairs of words", .min = 0, .max = 10000});
  fields.field("isotropic", isotropic,
               {.help = "isotropic draws; as many as random pairs", .min = 0, .max = 10000});
  fields.field("most_perplexity", most_perplexity,
               {.help = "times the plain model's, of a setting that may be chosen", .min = 0});
  fields.field("max_tokens", max_tokens,
               {.help = "of a text", .unit = "tokens", .min = 1, .max = 4096});
  fields.field("temperature", temperature,
               {.help = "0: the most probable token", .min = 0, .max = 100});
  fields.field("top_p", top_p, {.help = "probability that is drawn from", .min = 1e-6, .max = 1});
  fields.field("seed", seed, {.help = "of texts and of random directions", .min = 0});
}

SteeringPlan read_steering_plan(const std::string& path) {
  ConfigNode root = parse_config_file(path);
  SteeringPlan plan;
  // Attributes are maps in a list; every other key is a field.
  for (std::size_t i = 0; i < root.members.size(); ++i) {
    if (root.members[i].first.text != "attributes") continue;
    for (const ConfigNode& node : root.members[i].second.items) {
      ConfigReader reader(&node, fmt::format("attributes[{}]", plan.attributes.size()));
      Attribute one;
      reader.field("name", one.name, {.help = "what it is called", .is_required = true});
      reader.field("positive", one.positive, {.help = "continuations that have it"});
      reader.field("negative", one.negative, {.help = "continuations that have its opposite"});
      reader.finish();
      plan.attributes.push_back(std::move(one));
    }
    root.members.erase(root.members.begin() + static_cast<std::ptrdiff_t>(i));
    break;
  }
  ConfigReader reader(&root, "");
  plan.declare(reader);
  reader.finish();
  return plan;
}

SteeringStudy run_steering_study(const Subject& subject, const SteeringPlan& plan,
                                 const LatentSearch& search) {
  return Study(subject, plan, search).run();
}

}  // namespace thresher::features
