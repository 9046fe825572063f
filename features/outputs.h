#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "features/context_run.h"
#include "host_model/host_model.h"

namespace thresher::features {

/// What a run of a context puts out. NaN is what was not asked for or cannot be measured.
struct Outputs {
  /// Next-token cross-entropy in nats, mean over the kept positions that a token follows.
  double loss = 0;
  /// KL(reference || run) in nats, mean over the kept positions; and at the last position alone.
  double kl = 0, kl_last = 0;
  /// At the last position, of the answer: probability, and logit less that of the token against it.
  double probability = 0, logit_difference = 0;
};

/// The figures of Outputs in a fixed order, for tables, JSON and pages.
struct OutputFigure {
  const char* name;  // "kl_last"
  const char* unit;  // "nats"
  double Outputs::*value;
};
const std::vector<OutputFigure>& output_figures();

/// Tokens that are asked about at the last position.
struct AnswerTokens {
  std::optional<std::int32_t> answer, against;
};

/// The single token that `text` is. ConfigError naming the option and showing the tokens where it
/// is none or several.
std::int32_t single_token(const std::string& text, const std::string& option,
                          const corpus::Tokenizer& tokenizer);

/// Measures changed runs of one context.
class OutputReader {
 public:
  /// `run` is the run that is changed, `reference` the one whose distribution KL starts from, of
  /// the same length (the same run where something is ablated). Model and runs are borrowed.
  OutputReader(const ContextRun& run, const ContextRun& reference, const AnswerTokens& tokens,
               host_model::HostModel& model);

  /// Of the run itself, unchanged.
  const Outputs& unchanged() const { return unchanged_; }
  /// Of n runs, ln_final's outputs [n * tokens, d_model]; run i was changed at position
  /// first_changed[i] and after it, so what stands before is not looked at again.
  std::vector<Outputs> measure(const at::Tensor& final_normalized,
                               const std::vector<std::int64_t>& first_changed) const;

 private:
  /// Figures of measured rows, [runs * rows] float64, for runs and rows in order.
  struct RowFigures {
    std::vector<double> loss, kl;  // one a measured row
    double probability = 0, logit_difference = 0;
  };
  void read_rows(const at::Tensor& final_rows, const std::vector<std::size_t>& measured,
                 const std::vector<RowFigures*>& out) const;
  Outputs summarise(const RowFigures& figures) const;

  AnswerTokens tokens_;
  host_model::HostModel* model_;
  std::int64_t n_tokens_ = 0;
  std::vector<std::int64_t> rows_;  // measured positions, ascending; the last token is among them
  std::vector<std::int64_t> targets_;  // one each: the next token, -1 without
  std::vector<bool> is_kept_;          // one each
  at::Tensor reference_;               // [rows, n_vocabulary] log-probabilities
  RowFigures unchanged_rows_;
  Outputs unchanged_;
};

}  // namespace thresher::features
