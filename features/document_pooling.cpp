#include "features/document_pooling.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "activation_cache/harvest/harvest.h"
#include "core/error.h"
#include "core/progress.h"
#include "features/probe_families.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;

constexpr std::int64_t kPassTokens = 512, kSampleTokens = 8192;
constexpr std::int64_t kMostBytes = std::int64_t{8} << 30;

/// One context of a document, waiting for its pass.
struct Piece {
  std::size_t document = 0;
  std::vector<std::int32_t> ids;
};

/// The contexts of a document; what comes after enough positions is not run.
std::vector<Piece> pieces_of(const Subject& subject, const std::string& text, std::size_t document,
                             std::int64_t most_tokens) {
  std::vector<std::int32_t> ids;
  const corpus::CorpusConfig& corpus = subject.rules.corpus;
  if (corpus.prepend_bos == "document") ids.push_back(subject.tokenizer->bos_id().value());
  const std::vector<std::int32_t> text_ids = subject.tokenizer->encode(text);
  ids.insert(ids.end(), text_ids.begin(), text_ids.end());
  const auto width = static_cast<std::size_t>(corpus.context_tokens);
  std::vector<Piece> pieces;
  for (std::size_t first = 0; first < ids.size(); first += width) {
    const std::size_t end = std::min(first + width, ids.size());
    pieces.push_back({document,
                      {ids.begin() + static_cast<std::ptrdiff_t>(first),
                       ids.begin() + static_cast<std::ptrdiff_t>(end)}});
    // Dropped positions are few; twice the context is more than they can take.
    if (most_tokens > 0 &&
        static_cast<std::int64_t>(end) > 2 * most_tokens + corpus.context_tokens) {
      break;
    }
  }
  return pieces;
}

/// Runs pieces of several documents as one context, in which attention stays within each.
class Passes {
 public:
  Passes(const Subject& subject, const std::string& hook_point,
         const std::function<void(std::size_t, const std::vector<std::int32_t>&, const at::Tensor&,
                                  const at::Tensor&)>& take)
      : subject_(subject), hook_point_(HookPoint::parse(hook_point)), take_(take) {
    for (const std::string& name : subject.rules.cache.hook_points) {
      ruling_points_.push_back(HookPoint::parse(name));
    }
  }

  void add(Piece piece) {
    const auto size = static_cast<std::int64_t>(piece.ids.size());
    if (!waiting_.empty() && n_waiting_ + size > kPassTokens) run();
    n_waiting_ += size;
    waiting_.push_back(std::move(piece));
  }

  void run() {
    if (waiting_.empty()) return;
    const host_model::TokenBatch batch = make_batch();
    std::map<HookPoint, at::Tensor> seen;
    host_model::ForwardRequest request;
    std::vector<HookPoint> points = ruling_points_;
    points.push_back(hook_point_);
    points.push_back(HookPoint::parse("hook_embed"));
    for (const HookPoint& point : points) {
      request.hooks[point] = [&seen, point](const at::Tensor& activation) {
        seen[point] = activation.to(at::kCPU, at::kFloat).clone().contiguous();
        return at::Tensor();
      };
    }
    subject_.model->forward(batch, request);
    show(batch, seen);
    waiting_.clear();
    n_waiting_ = 0;
  }

 private:
  host_model::TokenBatch make_batch() const {
    host_model::TokenBatch batch;
    batch.token_ids = at::empty({1, n_waiting_}, at::kLong);
    batch.positions = at::empty({1, n_waiting_}, at::kLong);
    batch.documents = at::empty({1, n_waiting_}, at::kLong);
    std::int64_t place = 0;
    for (std::size_t number = 0; number < waiting_.size(); ++number) {
      for (std::size_t i = 0; i < waiting_[number].ids.size(); ++i, ++place) {
        batch.token_ids.data_ptr<std::int64_t>()[place] = waiting_[number].ids[i];
        batch.positions.data_ptr<std::int64_t>()[place] = static_cast<std::int64_t>(i);
        batch.documents.data_ptr<std::int64_t>()[place] = static_cast<std::int64_t>(number);
      }
    }
    return batch;
  }

  void show(const host_model::TokenBatch& batch, const std::map<HookPoint, at::Tensor>& seen) {
    std::vector<at::Tensor> ruling;
    for (const HookPoint& point : ruling_points_) ruling.push_back(seen.at(point));
    const std::vector<std::uint8_t> kept = activation_cache::kept_positions(
        subject_.rules.cache, *subject_.tokenizer, batch.token_ids, batch.positions, ruling,
        subject_.rules.cache.drop_norm_above > 0 ? subject_.rules.norm_limits
                                                 : std::vector<double>{});
    std::int64_t first = 0;
    for (const Piece& piece : waiting_) {
      std::vector<std::int64_t> rows;
      std::vector<std::int32_t> ids;
      for (std::size_t i = 0; i < piece.ids.size(); ++i) {
        if (kept[static_cast<std::size_t>(first) + i] == 0) continue;
        rows.push_back(first + static_cast<std::int64_t>(i));
        ids.push_back(piece.ids[i]);
      }
      const at::Tensor index = at::tensor(rows, at::kLong);
      take_(piece.document, ids, seen.at(HookPoint::parse("hook_embed")).index_select(0, index),
            seen.at(hook_point_).index_select(0, index));
      first += static_cast<std::int64_t>(piece.ids.size());
    }
  }

  const Subject& subject_;
  HookPoint hook_point_;
  std::vector<HookPoint> ruling_points_;
  const std::function<void(std::size_t, const std::vector<std::int32_t>&, const at::Tensor&,
                           const at::Tensor&)>& take_;
  std::vector<Piece> waiting_;
  std::int64_t n_waiting_ = 0;
};

/// Adds one document's latents, pooled, to a row.
void pool_latents(const sae::InferenceSae& sae, const at::Tensor& x, Pooling pooling, float* out) {
  const sae::SparseLatents sparse = sae.encode_sparse(x);
  const at::Tensor indices = sparse.indices.contiguous(), values = sparse.values.contiguous();
  std::vector<double> pooled(static_cast<std::size_t>(sae.n_latents()));
  for (std::int64_t i = 0; i < indices.numel(); ++i) {
    const double value = values.const_data_ptr<float>()[i];
    double& place = pooled[static_cast<std::size_t>(indices.const_data_ptr<std::int32_t>()[i])];
    place = pooling == Pooling::kMean ? place + value : std::max(place, value);
  }
  const double n = pooling == Pooling::kMean ? static_cast<double>(x.size(0)) : 1;
  for (std::size_t i = 0; i < pooled.size(); ++i) out[i] = static_cast<float>(pooled[i] / n);
}

at::Tensor mean_row(const at::Tensor& x) { return x.to(at::kDouble).mean(0).to(at::kFloat); }

}  // namespace

void for_each_document(const Subject& subject, const std::string& hook_point,
                       const std::vector<LabelledText>& texts, std::int64_t most_tokens,
                       const std::function<void(const DocumentActivations&)>& take) {
  DocumentActivations current;
  std::vector<at::Tensor> embedded, activations;
  const auto finish = [&] {
    if (current.token_ids.empty()) return;
    current.embedded = at::cat(embedded);
    current.activations = at::cat(activations);
    const auto n = static_cast<std::int64_t>(current.token_ids.size());
    if (most_tokens > 0 && n > most_tokens) {
      current.token_ids.resize(static_cast<std::size_t>(most_tokens));
      current.embedded = current.embedded.narrow(0, 0, most_tokens);
      current.activations = current.activations.narrow(0, 0, most_tokens);
    }
    take(current);
  };
  const std::function<void(std::size_t, const std::vector<std::int32_t>&, const at::Tensor&,
                           const at::Tensor&)>
      collect = [&](std::size_t document, const std::vector<std::int32_t>& ids,
                    const at::Tensor& embedded_rows, const at::Tensor& rows) {
        if (document != current.document) {
          finish();
          current = {};
          current.document = document;
          embedded.clear();
          activations.clear();
        }
        current.token_ids.insert(current.token_ids.end(), ids.begin(), ids.end());
        embedded.push_back(embedded_rows);
        activations.push_back(rows);
      };
  Passes passes(subject, hook_point, collect);
  for (std::size_t document = 0; document < texts.size(); ++document) {
    for (Piece& piece : pieces_of(subject, texts[document].text, document, most_tokens)) {
      passes.add(std::move(piece));
    }
  }
  passes.run();
  finish();
}

sae::InferenceSae make_untrained_sae(const Subject& subject, const NamedSae& sae,
                                     const std::vector<LabelledText>& texts,
                                     std::int64_t most_tokens, std::uint64_t seed) {
  std::int64_t n_seen = 0;
  double n_active = 0;
  at::Tensor sum = at::zeros({sae.sae.d_in()}, at::kDouble);
  // Whole documents, as far apart as the list allows, so that every label has its share.
  std::vector<LabelledText> sample;
  const std::size_t stride = std::max<std::size_t>(1, texts.size() / 256);
  for (std::size_t i = 0; i < texts.size(); i += stride) sample.push_back(texts[i]);
  for_each_document(
      subject, sae.hook_point, sample, most_tokens, [&](const DocumentActivations& document) {
        if (n_seen >= kSampleTokens) return;
        n_seen += document.activations.size(0);
        sum += document.activations.to(at::kDouble).sum(0);
        n_active += static_cast<double>(
            (sae.sae.encode_sparse(document.activations).values > 0).sum().item<std::int64_t>());
      });
  if (n_seen == 0) throw ConfigError("probe: no position of any text is kept", "longer texts");
  const at::Tensor directions =
      random_directions(sae.sae.n_latents(), sae.sae.d_in(), seed, "probe.untrained");
  sae::InferenceSae untrained;
  untrained.architecture = "topk";
  untrained.apply_b_dec_to_input = true;
  untrained.k = std::clamp<std::int64_t>(std::llround(n_active / static_cast<double>(n_seen)), 1,
                                         sae.sae.n_latents());
  untrained.W_enc = directions.t().contiguous();
  untrained.W_dec = directions;
  untrained.b_enc = at::zeros({sae.sae.n_latents()}, at::kFloat);
  untrained.b_dec = (sum / static_cast<double>(n_seen)).to(at::kFloat);
  return untrained;
}

PooledDocuments pool_documents(const Subject& subject, const NamedSae& sae,
                               const sae::InferenceSae& untrained,
                               const std::vector<LabelledText>& texts, Pooling pooling,
                               std::int64_t most_tokens) {
  const auto n = static_cast<std::int64_t>(texts.size());
  const std::int64_t width = sae.sae.n_latents(), d_model = subject.model->info().d_model;
  const std::int64_t bytes = 4 * n * 2 * (width + d_model);
  if (bytes > kMostBytes) {
    throw ConfigError(fmt::format("probe: {} documents of {} latents take {}", n, width,
                                  format_bytes(static_cast<std::uint64_t>(bytes))),
                      "at most 8 GiB", "fewer documents");
  }
  PooledDocuments out;
  out.latents = at::zeros({n, width}, at::kFloat);
  out.untrained = at::zeros({n, width}, at::kFloat);
  out.raw = at::zeros({n, sae.sae.d_in()}, at::kFloat);
  out.embedded = at::zeros({n, d_model}, at::kFloat);
  Progress progress("probe", "documents", n);
  for_each_document(subject, sae.hook_point, texts, most_tokens,
                    [&](const DocumentActivations& document) {
                      const auto row = static_cast<std::int64_t>(out.documents.size());
                      out.documents.push_back(document.document);
                      out.n_tokens.push_back(static_cast<std::int64_t>(document.token_ids.size()));
                      pool_latents(sae.sae, document.activations, pooling,
                                   out.latents.data_ptr<float>() + row * width);
                      pool_latents(untrained, document.activations, pooling,
                                   out.untrained.data_ptr<float>() + row * width);
                      out.raw[row] = mean_row(document.activations);
                      out.embedded[row] = mean_row(document.embedded);
                      std::map<std::int32_t, std::int64_t> counts;
                      for (const std::int32_t id : document.token_ids) ++counts[id];
                      out.token_counts.emplace_back(counts.begin(), counts.end());
                      progress.update(static_cast<std::int64_t>(document.document) + 1);
                    });
  progress.finish();
  const auto kept = static_cast<std::int64_t>(out.documents.size());
  out.latents = out.latents.narrow(0, 0, kept);
  out.untrained = out.untrained.narrow(0, 0, kept);
  out.raw = out.raw.narrow(0, 0, kept);
  out.embedded = out.embedded.narrow(0, 0, kept);
  return out;
}

}  // namespace thresher::features
