#include "features/probe_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/visible_text.h"
#include "features/direction.h"

namespace thresher::features {
namespace {

constexpr std::int64_t kMostLatents = 4096;  // of a sparse probe

std::int64_t number_of_latents(const std::string& text) {
  std::int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc() && stop == end && value >= 1 && value <= kMostLatents) return value;
  throw UsageError(fmt::format("sparse {}", visible_text(text)),
                   fmt::format("a number of latents from 1 to {}", kMostLatents));
}

/// A path alone means the vector in that file.
std::string with_kind(const std::string& text) {
  const std::string path = text.substr(0, text.rfind('#'));
  const bool is_file = text.ends_with(".npy") || path.ends_with(".safetensors");
  const bool has_kind = text.find(':') != std::string::npos;
  return is_file && !has_kind ? "file:" + text : text;
}

}  // namespace

void ProbePlan::declare(FieldVisitor& visitor) {
  visitor.field("texts", texts, {.help = "labelled texts: JSON lines, or folders of *.txt"});
  visitor.field("groups", groups, {.help = "LABEL=PATH: texts of one label"});
  visitor.field("tests", tests, {.help = "NAME=PATH: test on these labelled texts"});
  visitor.field("held_out", held_out,
                {.help = "share of the keys that are tested on", .min = 0.01, .max = 0.9});
  visitor.field("text_field", text_field, {.help = "of a JSON line"});
  visitor.field("label_field", label_field, {.help = "of a JSON line"});
  visitor.field("key_field", key_field, {.help = "of a JSON line: what belongs together"});
  visitor.field("control_field", control_field, {.help = "of a JSON line: another attribute"});
  visitor.field("contrasts", contrasts, {.help = "LABEL:LABEL: tell these two apart as well"});
  visitor.field("word_pairs", word_pairs, {.help = "files of words that differ in one concept"});
  visitor.field("directions", directions, {.help = "directions whose projections are tested"});
  visitor.field("prefix", prefix,
                {.help = "what pairs are read behind; empty: BOS or a line break"});
  visitor.field("pool", pooling, {.help = "of a latent's activations", .choices = {"mean", "max"}});
  visitor.field("tokens", tokens,
                {.help = "kept tokens of a document, the first; 0: all", .min = 0, .max = 1 << 24});
  visitor.field("sparse", sparse, {.help = "latents of the sparse probes"});
  visitor.field("best", n_best, {.help = "latents a label that are shown", .min = 1, .max = 1000});
  visitor.field("random", n_random, {.help = "random directions", .min = 99, .max = 100000});
  visitor.field("shuffles", n_shuffles, {.help = "of the labels", .min = 19, .max = 100000});
  visitor.field("resamples", n_resamples, {.help = "for the intervals", .min = 100, .max = 1e6});
  visitor.field("seed", seed, {.help = "of everything that is drawn", .min = 0});
}

ProbeOptions ProbePlan::options() const {
  ProbeOptions out;
  out.sparse_ks.clear();
  for (const std::string& one : sparse) out.sparse_ks.push_back(number_of_latents(one));
  std::sort(out.sparse_ks.begin(), out.sparse_ks.end());
  out.n_best = n_best;
  out.n_random = n_random;
  out.n_shuffles = n_shuffles;
  out.n_resamples = n_resamples;
  out.seed = static_cast<std::uint64_t>(seed);
  for (const std::string& one : contrasts)
    out.contrasts.push_back(split_at("--contrast", one, ':', "--contrast LABEL:LABEL"));
  return out;
}

ProbePlan read_probe_plan(const std::string& path) {
  const ConfigNode root = parse_config_file(path);
  ProbePlan plan;
  ConfigReader reader(&root, "");
  plan.declare(reader);
  reader.finish();
  return plan;
}

std::pair<std::string, std::string> split_at(const std::string& option, const std::string& text,
                                             char separator, const std::string& form) {
  const std::size_t at = text.find(separator);
  if (at == std::string::npos || at == 0 || at + 1 == text.size()) {
    throw UsageError(fmt::format("{} {}", option, visible_text(text)), form);
  }
  return {text.substr(0, at), text.substr(at + 1)};
}

std::vector<ProbeDirection> probe_directions(const ProbePlan& plan, const Subject& subject,
                                             const NamedSae& sae) {
  std::vector<ProbeDirection> out;
  const auto point = host_model::HookPoint::parse(sae.hook_point);
  for (const std::string& text : plan.directions) {
    const PairReading reading{pair_prefix(subject, plan.prefix)};
    const PointVectors made =
        make_direction(subject, parse_direction(with_kind(text)), {point}, sae.name, reading);
    out.push_back({visible_text(text), made.at(point)});
  }
  return out;
}

}  // namespace thresher::features
