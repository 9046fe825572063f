#include "features/direction.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <span>

#include "core/error.h"
#include "core/npy.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "core/visible_text.h"
#include "features/intervention.h"
#include "features/prompts.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;
using host_model::PassRows;
using Kind = DirectionTerm::Kind;

constexpr std::size_t kPairsInAPass = 32;
constexpr std::array<std::pair<std::string_view, Kind>, 6> kKinds = {{{"latent:", Kind::kLatent},
                                                                      {"search:", Kind::kSearch},
                                                                      {"pair:", Kind::kPair},
                                                                      {"pairs:", Kind::kPairs},
                                                                      {"means:", Kind::kMeans},
                                                                      {"file:", Kind::kFile}}};

/// Reads "[WEIGHT*]KIND:" at the start of `text`; the number of characters, 0 if there is none.
std::size_t read_term_head(std::string_view text, DirectionTerm& term) {
  term.weight = 1;
  std::size_t used = 0;
  double weight = 1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), weight);
  if (error == std::errc() && end != text.data() + text.size() && *end == '*') {
    term.weight = weight;
    used = static_cast<std::size_t>(end - text.data()) + 1;
  }
  for (const auto& [name, kind] : kKinds) {
    if (!text.substr(used).starts_with(name)) continue;
    term.kind = kind;
    return used + name.size();
  }
  return 0;
}

/// Texts of pairs as token ids behind the prefix, both of the same length: first, second, first...
std::vector<std::vector<std::int32_t>> padded_contexts(const Subject& subject,
                                                       std::span<const TextPair> pairs,
                                                       const PairReading& reading) {
  const std::vector<std::int32_t> space = subject.tokenizer->encode(" ");
  std::vector<std::vector<std::int32_t>> contexts;
  for (const TextPair& pair : pairs) {
    std::vector<std::int32_t> first = subject.tokenizer->encode(pair.first);
    std::vector<std::int32_t> second = subject.tokenizer->encode(pair.second);
    if (first.empty() || second.empty() || (space.empty() && first.size() != second.size())) {
      throw ConfigError(fmt::format("the pair {}|{} cannot be made tokens of one length",
                                    visible_text(pair.first), visible_text(pair.second)),
                        "two texts that the vocabulary knows");
    }
    const std::size_t length = std::max(first.size(), second.size());
    for (std::vector<std::int32_t>* ids : {&first, &second}) {
      ids->resize(length, space.empty() ? 0 : space.front());
      ids->insert(ids->begin(), reading.prefix.begin(), reading.prefix.end());
      contexts.push_back(std::move(*ids));
    }
  }
  return contexts;
}

/// Activations [contexts, tokens, width] and which rows may be read [contexts, tokens], by point.
struct ReadRows {
  at::Tensor activation, usable;
};

std::map<HookPoint, ReadRows> read_contexts(const Subject& subject, const PassRows& rows,
                                            const std::vector<HookPoint>& points,
                                            std::int64_t n_prefix) {
  SinkGuard guard(subject.rules, *subject.tokenizer);
  std::map<HookPoint, ReadRows> out;
  host_model::ForwardRequest request;
  const at::Tensor is_text =
      rows.batch.documents.ge(0).logical_and(rows.batch.positions.ge(n_prefix));
  for (const HookPoint& point : points) {
    request.hooks[point] = [&, point](const at::Tensor& activation) {
      const at::Tensor usable =
          guard.usable_rows(point, activation, rows).view(is_text.sizes()).logical_and(is_text);
      out[point] = {activation.to(at::kCPU).clone().view({is_text.size(0), is_text.size(1), -1}),
                    usable};
      return at::Tensor();
    };
  }
  subject.model->forward(rows.batch, request);
  return out;
}

/// Sums [contexts, width] over usable rows, and their numbers [contexts, 1].
std::pair<at::Tensor, at::Tensor> sum_usable(const at::Tensor& activation,
                                             const at::Tensor& usable) {
  const at::Tensor chosen = usable.unsqueeze(2);
  return {at::where(chosen, activation, at::zeros({1})).sum(1, false, at::kDouble),
          chosen.sum(1).to(at::kDouble)};
}

[[noreturn]] void refuse_sinks(const TextPair& pair, const HookPoint& point) {
  throw ConfigError(fmt::format("the pair {}|{}: every position that would be read at {} is a sink",
                                visible_text(pair.first), visible_text(pair.second), point.name()),
                    "texts behind a prefix, so that no text begins the context", "--prefix TEXT");
}

std::vector<TextPair> read_pairs(const std::string& path) {
  std::vector<TextPair> pairs;
  for (const std::string& line : read_lines(path))
    pairs.push_back(parse_pair(line, display_path(path)));
  return pairs;
}

/// Mean over all usable positions of the first texts minus that of the second, [width].
PointVectors difference_of_means(const Subject& subject, const std::vector<TextPair>& pairs,
                                 const std::vector<HookPoint>& points, const PairReading& reading) {
  const auto n_prefix = static_cast<std::int64_t>(reading.prefix.size());
  std::map<HookPoint, std::array<at::Tensor, 2>> sums, counts;
  for (std::size_t first = 0; first < pairs.size(); first += kPairsInAPass) {
    std::vector<std::vector<std::int32_t>> contexts;  // of their own lengths
    for (std::size_t i = first; i < std::min(first + kPairsInAPass, pairs.size()); ++i) {
      for (const std::string& text : {pairs[i].first, pairs[i].second}) {
        contexts.push_back(reading.prefix);
        const std::vector<std::int32_t> ids = subject.tokenizer->encode(text);
        contexts.back().insert(contexts.back().end(), ids.begin(), ids.end());
      }
    }
    const PassRows rows = host_model::align_contexts(contexts);
    for (const auto& [point, read] : read_contexts(subject, rows, points, n_prefix)) {
      const auto [sum, count] = sum_usable(read.activation, read.usable);
      for (std::int64_t side = 0; side < 2; ++side) {
        const at::Tensor one = sum.slice(0, side, c10::nullopt, 2).sum(0);
        const at::Tensor n = count.slice(0, side, c10::nullopt, 2).sum(0);
        at::Tensor& total = sums[point][static_cast<std::size_t>(side)];
        at::Tensor& rows_seen = counts[point][static_cast<std::size_t>(side)];
        total = total.defined() ? total + one : one;
        rows_seen = rows_seen.defined() ? rows_seen + n : n;
      }
    }
  }
  PointVectors out;
  for (const auto& [point, sum] : sums) {
    const auto& count = counts.at(point);
    if ((count[0] * count[1]).item<double>() == 0) refuse_sinks(pairs.front(), point);
    out[point] = (sum[0] / count[0] - sum[1] / count[1]).to(at::kFloat);
  }
  return out;
}

at::Tensor read_vector(const std::string& argument, std::int64_t width) {
  const std::size_t mark = argument.rfind('#');
  const std::string path = argument.substr(0, mark);
  const auto check = [&](const std::vector<std::int64_t>& shape) {
    std::int64_t size = 1;
    for (const std::int64_t one : shape) size = one == 1 || size == 1 ? size * one : -1;
    if (size != width) {
      throw ConfigError(fmt::format("{}: no vector of {} values", display_path(path), width),
                        "one vector of the hook point's width");
    }
  };
  if (path.ends_with(".npy")) {
    const NpyFile file(path);
    const NpyHeader& header = file.header();
    check(header.shape);
    if (header.kind != 'f' || (header.item_bytes != 4 && header.item_bytes != 8)) {
      throw ConfigError(fmt::format("{}: of type {}", display_path(path), header.dtype_name()),
                        "float32 or float64");
    }
    at::Tensor values = at::empty({width}, header.item_bytes == 4 ? at::kFloat : at::kDouble);
    file.read(0, {static_cast<std::byte*>(values.mutable_data_ptr()), values.nbytes()});
    return values.to(at::kFloat);
  }
  if (!path.ends_with(".safetensors")) {
    throw ConfigError(fmt::format("{}: no file of a known kind", display_path(path)),
                      ".npy or .safetensors");
  }
  const SafetensorsFile file(path);
  std::string name = mark == std::string::npos ? "" : argument.substr(mark + 1);
  if (name.empty()) {
    if (file.entries().size() != 1) {
      throw ConfigError(
          fmt::format("{} holds {} tensors", display_path(path), file.entries().size()),
          "one, or PATH#TENSOR");
    }
    name = file.entries().front().name;
  }
  check(file.at(name).shape);
  return at::tensor(file.read_float32(name), at::kFloat);
}

at::Tensor decoder_row(const NamedSae& sae, std::int64_t latent, const HookPoint& point,
                       std::int64_t width) {
  if (latent < 0 || latent >= sae.sae.n_latents()) {
    throw ConfigError(fmt::format("{} has no latent {}", sae.name, latent),
                      fmt::format("0 to {}", sae.sae.n_latents() - 1));
  }
  if (sae.sae.d_in() != width) {
    throw ConfigError(fmt::format("the latents of {} have {} values, {} has {}", sae.name,
                                  sae.sae.d_in(), point.name(), width),
                      "a hook point as wide as the SAE's");
  }
  return sae.sae.W_dec[latent];
}

}  // namespace

std::vector<DirectionTerm> parse_direction(std::string_view text) {
  std::vector<DirectionTerm> terms;
  DirectionTerm term;
  std::size_t head = read_term_head(text, term);
  while (head > 0) {
    text.remove_prefix(head);
    DirectionTerm next;
    std::size_t plus = text.find('+');
    while (plus != std::string_view::npos) {
      head = read_term_head(text.substr(plus + 1), next);
      if (head > 0) break;
      plus = text.find('+', plus + 1);
    }
    term.argument = text.substr(0, plus);
    terms.push_back(std::move(term));
    if (plus == std::string_view::npos) return terms;
    text.remove_prefix(plus + 1);
    term = next;
  }
  throw UsageError(fmt::format("{} is no direction", visible_text(std::string(text))),
                   "latent:N, search:WORDS, pair:A|B, pairs:FILE, means:FILE, file:PATH, or a sum "
                   "such as 1.5*pair:A|B+latent:7");
}

TextPair parse_pair(std::string_view text, std::string_view where) {
  const std::size_t bar = text.find('|');
  if (bar == std::string_view::npos || bar == 0 || bar + 1 == text.size() ||
      text.find('|', bar + 1) != std::string_view::npos) {
    throw ConfigError(fmt::format("{}: {} is no pair", where, visible_text(std::string(text))),
                      "two texts with a bar between them, A|B");
  }
  return {std::string(text.substr(0, bar)), std::string(text.substr(bar + 1))};
}

std::vector<std::int32_t> pair_prefix(const Subject& subject, std::string_view text) {
  if (!text.empty()) return prompt_tokens(subject, text);
  if (subject.tokenizer->bos_id()) return {*subject.tokenizer->bos_id()};
  return subject.tokenizer->encode("\n");
}

PointVectors pair_differences(const Subject& subject, const std::vector<TextPair>& pairs,
                              const std::vector<HookPoint>& points, const PairReading& reading,
                              Unreadable unreadable) {
  const auto n_prefix = static_cast<std::int64_t>(reading.prefix.size());
  std::map<HookPoint, std::vector<at::Tensor>> parts;
  std::vector<at::Tensor> readable_parts;
  for (std::size_t first = 0; first < pairs.size(); first += kPairsInAPass) {
    at::Tensor readable;
    const std::span<const TextPair> some =
        std::span(pairs).subspan(first, std::min(kPairsInAPass, pairs.size() - first));
    const PassRows rows = host_model::align_contexts(padded_contexts(subject, some, reading));
    for (const auto& [point, read] : read_contexts(subject, rows, points, n_prefix)) {
      const auto n = static_cast<std::int64_t>(some.size());
      const std::int64_t tokens = read.usable.size(1);
      const at::Tensor by_pair = read.usable.view({n, 2, tokens});
      // Contexts of a pair are of one length, so their last tokens and their padding coincide.
      at::Tensor both = by_pair.select(1, 0).logical_and(by_pair.select(1, 1));
      if (reading.over == PairReading::Over::kLast) both.narrow(1, 0, tokens - 1).zero_();
      const at::Tensor values = read.activation.view({n, 2, tokens, -1});
      const auto [sum, count] = sum_usable(values.select(1, 0) - values.select(1, 1), both);
      const at::Tensor has_rows = count.squeeze(1).gt(0);
      for (std::int64_t i = 0; unreadable == Unreadable::kRefuse && i < n; ++i) {
        if (!has_rows[i].item<bool>()) refuse_sinks(some[static_cast<std::size_t>(i)], point);
      }
      readable = readable.defined() ? readable.logical_and(has_rows) : has_rows;
      parts[point].push_back((sum / count).to(at::kFloat));
    }
    readable_parts.push_back(readable.nonzero().squeeze(1) + static_cast<std::int64_t>(first));
  }
  PointVectors out;
  const at::Tensor kept = at::cat(readable_parts);
  for (const auto& [point, rows] : parts) out[point] = at::cat(rows).index_select(0, kept);
  return out;
}

PointVectors make_direction(const Subject& subject, const std::vector<DirectionTerm>& terms,
                            const std::vector<HookPoint>& points, std::string_view sae,
                            const PairReading& reading, const LatentSearch& search) {
  PointVectors sums;
  const auto add = [&](const HookPoint& point, const at::Tensor& vector, double weight) {
    at::Tensor& sum = sums[point];
    sum = sum.defined() ? sum + weight * vector : weight * vector;
  };
  for (const DirectionTerm& term : terms) {
    PointVectors made;
    switch (term.kind) {
      case Kind::kPair:
        made = pair_differences(subject, {parse_pair(term.argument, "pair")}, points, reading);
        for (auto& [point, rows] : made) rows = rows[0];
        break;
      case Kind::kPairs:
        made = pair_differences(subject, read_pairs(term.argument), points, reading);
        for (auto& [point, rows] : made) rows = rows.mean(0);
        break;
      case Kind::kMeans:
        made = difference_of_means(subject, read_pairs(term.argument), points, reading);
        break;
      case Kind::kFile:
        for (const HookPoint& point : points)
          made[point] = read_vector(term.argument, subject.model->info().width(point));
        break;
      case Kind::kLatent:
      case Kind::kSearch:
        for (const HookPoint& point : points) {
          made[point] = decoder_row(subject.sae(sae), latent_number(term, search), point,
                                    subject.model->info().width(point));
        }
    }
    for (const auto& [point, vector] : made) add(point, vector, term.weight);
  }
  for (const auto& [point, sum] : sums) {
    const double norm = sum.norm().item<double>();
    if (norm > 0 && std::isfinite(norm)) continue;
    throw ConfigError(fmt::format("the direction at {} has norm {}", point.name(), norm),
                      "a vector that is finite and not zero");
  }
  return sums;
}

std::int64_t latent_number(const DirectionTerm& term, const LatentSearch& search) {
  if (term.kind == Kind::kSearch) {
    if (!search) {
      throw ConfigError("a latent is to be found by words, and there is no feature store",
                        "latent:NUMBER, or a store to search in",
                        "`thresher features build RUN` makes one");
    }
    return search(term.argument);
  }
  std::int64_t latent = 0;
  const char* end = term.argument.data() + term.argument.size();
  const auto [stop, error] = std::from_chars(term.argument.data(), end, latent);
  if (error == std::errc() && stop == end) return latent;
  throw UsageError(fmt::format("latent:{} is no latent", visible_text(term.argument)),
                   "latent:NUMBER");
}

std::vector<TextPair> random_word_pairs(const corpus::Tokenizer& tokenizer, std::int64_t count,
                                        std::uint64_t seed) {
  constexpr std::size_t kLeastLetters = 4;
  std::vector<std::string> words;
  for (std::int32_t id = 0; id < tokenizer.vocabulary_size(); ++id) {
    if (tokenizer.is_special(id)) continue;
    std::string text = tokenizer.decode({&id, 1});
    if (text.size() <= kLeastLetters || text[0] != ' ') continue;
    const bool is_word = std::all_of(text.begin() + 1, text.end(),
                                     [](char letter) { return letter >= 'a' && letter <= 'z'; });
    if (is_word) words.push_back(std::move(text));
  }
  if (words.size() < 2) {
    throw ConfigError(fmt::format("the vocabulary has {} words of one token", words.size()),
                      "two or more, to draw random pairs from");
  }
  const RandomStream stream(seed, "features.random_word_pairs");
  std::vector<TextPair> pairs;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto draw = static_cast<std::uint64_t>(2 * i);
    const std::uint64_t first = stream.below(draw, words.size());
    const std::uint64_t step = 1 + stream.below(draw + 1, words.size() - 1);
    pairs.emplace_back(words[first], words[(first + step) % words.size()]);
  }
  return pairs;
}

}  // namespace thresher::features
