#include "features/outputs.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/visible_text.h"
#include "features/text_list.h"

namespace thresher::features {
namespace {

using activation_cache::DropReason;

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr std::int64_t kChunkLogits = 4 << 20;

at::Tensor log_probabilities(const at::Tensor& logits) { return at::log_softmax(logits, 1); }

}  // namespace

const std::vector<OutputFigure>& output_figures() {
  static const std::vector<OutputFigure> figures = {
      {"loss", "nats", &Outputs::loss},
      {"kl", "nats", &Outputs::kl},
      {"kl_last", "nats", &Outputs::kl_last},
      {"probability", "", &Outputs::probability},
      {"logit_difference", "logits", &Outputs::logit_difference}};
  return figures;
}

std::int32_t single_token(const std::string& text, const std::string& option,
                          const corpus::Tokenizer& tokenizer) {
  const std::vector<std::int32_t> ids = tokenizer.encode(text);
  if (ids.size() == 1) return ids.front();
  std::vector<std::string> tokens;
  for (const std::int32_t id : ids) tokens.push_back(tokenizer.decode({&id, 1}));
  throw ConfigError(fmt::format("{} \"{}\" is {} tokens{}{}", option, visible_text(text),
                                ids.size(), ids.empty() ? "" : ": ", tokens_text(tokens)),
                    "one token", "words inside a text begin with a blank: \" Paris\"");
}

OutputReader::OutputReader(const ContextRun& run, const ContextRun& reference,
                           const AnswerTokens& tokens, host_model::HostModel& model)
    : tokens_(tokens), model_(&model), n_tokens_(run.n_tokens()) {
  THRESHER_CHECK(run.n_tokens() == reference.n_tokens(), "runs of one length are compared");
  for (std::int64_t row = 0; row < n_tokens_; ++row) {
    const bool is_last = row + 1 == n_tokens_;
    const auto place = static_cast<std::size_t>(row);
    const bool is_kept = run.dropped[place] == DropReason::kKept;
    if (!is_kept && !is_last) continue;
    rows_.push_back(row);
    is_kept_.push_back(is_kept);
    targets_.push_back(is_last ? -1 : run.ids[place + 1]);
  }
  std::vector<std::size_t> all(rows_.size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  const auto rows_of = [this](const ContextRun& one) {
    const at::Tensor rows = at::tensor(rows_, at::kLong).to(one.final_normalized.device());
    return one.final_normalized.index_select(0, rows);
  };
  reference_ = log_probabilities(model.unembed(rows_of(reference)).to(at::kCPU));
  unchanged_rows_.loss.resize(rows_.size());
  unchanged_rows_.kl.resize(rows_.size());
  read_rows(rows_of(run), all, std::vector<RowFigures*>(rows_.size(), &unchanged_rows_));
  unchanged_ = summarise(unchanged_rows_);
}

void OutputReader::read_rows(const at::Tensor& final_rows, const std::vector<std::size_t>& measured,
                             const std::vector<RowFigures*>& out) const {
  const auto n = static_cast<std::int64_t>(measured.size());
  const std::int64_t chunk = std::max<std::int64_t>(1, kChunkLogits / model_->info().n_vocabulary);
  for (std::int64_t start = 0; start < n; start += chunk) {
    const std::int64_t count = std::min(chunk, n - start);
    const at::Tensor logits = model_->unembed(final_rows.narrow(0, start, count)).to(at::kCPU);
    const at::Tensor log_p = log_probabilities(logits);
    std::vector<std::int64_t> reference_rows;
    for (std::int64_t i = 0; i < count; ++i) {
      reference_rows.push_back(
          static_cast<std::int64_t>(measured[static_cast<std::size_t>(start + i)]));
    }
    const at::Tensor p = reference_.index_select(0, at::tensor(reference_rows, at::kLong));
    const at::Tensor kl = (p.exp() * (p - log_p)).sum(1, /*keepdim=*/false, at::kDouble);
    const auto value = [](const at::Tensor& table, std::int64_t row, std::int64_t column) {
      return static_cast<double>(table.const_data_ptr<float>()[row * table.size(1) + column]);
    };
    for (std::int64_t i = 0; i < count; ++i) {
      const std::size_t row = measured[static_cast<std::size_t>(start + i)];
      RowFigures& figures = *out[static_cast<std::size_t>(start + i)];
      figures.kl[row] = kl.const_data_ptr<double>()[i];
      figures.loss[row] = targets_[row] < 0 ? kNone : -value(log_p, i, targets_[row]);
      if (row + 1 < rows_.size()) continue;
      figures.probability = tokens_.answer ? std::exp(value(log_p, i, *tokens_.answer)) : kNone;
      figures.logit_difference =
          tokens_.answer && tokens_.against
              ? value(logits, i, *tokens_.answer) - value(logits, i, *tokens_.against)
              : kNone;
    }
  }
}

Outputs OutputReader::summarise(const RowFigures& figures) const {
  double loss = 0, kl = 0;
  std::int64_t n_loss = 0, n_kl = 0;
  for (std::size_t row = 0; row < rows_.size(); ++row) {
    if (!is_kept_[row]) continue;
    kl += figures.kl[row];
    ++n_kl;
    if (targets_[row] < 0) continue;
    loss += figures.loss[row];
    ++n_loss;
  }
  Outputs out;
  out.loss = n_loss > 0 ? loss / static_cast<double>(n_loss) : kNone;
  out.kl = n_kl > 0 ? kl / static_cast<double>(n_kl) : kNone;
  out.kl_last = figures.kl.back();
  out.probability = figures.probability;
  out.logit_difference = figures.logit_difference;
  return out;
}

std::vector<Outputs> OutputReader::measure(const at::Tensor& final_normalized,
                                           const std::vector<std::int64_t>& first_changed) const {
  const std::size_t n = first_changed.size();
  THRESHER_CHECK(final_normalized.size(0) == static_cast<std::int64_t>(n) * n_tokens_,
                 "an output a run");
  std::vector<RowFigures> figures(n, unchanged_rows_);
  std::vector<std::int64_t> places;
  std::vector<std::size_t> measured;
  std::vector<RowFigures*> out;
  for (std::size_t run = 0; run < n; ++run) {
    for (std::size_t row = 0; row < rows_.size(); ++row) {
      if (rows_[row] < first_changed[run]) continue;
      places.push_back(static_cast<std::int64_t>(run) * n_tokens_ + rows_[row]);
      measured.push_back(row);
      out.push_back(&figures[run]);
    }
  }
  if (!places.empty()) {
    const at::Tensor index = at::tensor(places, at::kLong).to(final_normalized.device());
    read_rows(final_normalized.index_select(0, index), measured, out);
  }
  std::vector<Outputs> result;
  for (const RowFigures& one : figures) result.push_back(summarise(one));
  return result;
}

}  // namespace thresher::features
