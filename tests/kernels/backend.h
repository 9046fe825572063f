#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/adam.h"
#include "kernels/sparse_decode.h"

namespace thresher::kernels {

struct TopKOut {
  std::vector<float> values;
  std::vector<std::int32_t> indices;
};

using Offsets = std::vector<std::int64_t>;

inline std::int64_t rows_of(const Offsets& row_offsets) {
  return static_cast<std::int64_t>(row_offsets.size()) - 1;
}

/// Rows of sparse pairs and what `accumulate_gradients` adds up for them; one a lane.
struct Lane {
  Offsets row_offsets{0};
  std::vector<std::int32_t> indices;  // one a slot, like the two below
  std::vector<float> values;          // pairs with 0 are left out
  std::vector<float> grad_values;
  std::vector<float> residuals;  // [rows, d]
  std::vector<float> inputs;     // [n_inputs, d]
  std::int64_t n_inputs = 0;     // all rows, or half of them
};

struct Residuals {
  std::vector<float> residuals, dots;
};

struct Components {
  std::vector<double> factors;
  double squares = 0;
};

struct Gradients {
  std::vector<float> W_dec, W_enc, b_enc;
};

/// The kernels on vectors of host memory, wherever they run. One suite of tests runs on all of
/// them.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;
  /// Why it cannot run here, or empty.
  virtual std::string reason_to_skip() const { return {}; }

  virtual TopKOut topk(std::int64_t rows, std::int64_t cols, std::int64_t k,
                       const std::vector<float>& pre_acts,
                       const std::vector<std::uint8_t>* mask = nullptr) = 0;
  virtual std::vector<float> sparse_decode(std::int64_t d, const Offsets& row_offsets,
                                           const std::vector<std::int32_t>& indices,
                                           const std::vector<float>& values,
                                           const std::vector<float>& W_dec,
                                           const std::vector<float>* bias) = 0;
  virtual std::vector<float> grad_values(std::int64_t d, const Offsets& row_offsets,
                                         const std::vector<std::int32_t>& indices,
                                         const std::vector<float>& grad_recon,
                                         const std::vector<float>& W_dec) = 0;
  virtual Residuals residuals(std::int64_t d, const Offsets& row_offsets,
                              const std::vector<std::int32_t>& indices,
                              const std::vector<float>& values, const std::vector<float>& W_dec,
                              const std::vector<float>* bias, const std::vector<float>& x) = 0;
  virtual Gradients gradients(std::int64_t n_latents, std::int64_t d,
                              std::span<const Lane> lanes) = 0;
  virtual std::vector<double> column_sums(std::int64_t rows, std::int64_t cols,
                                          const std::vector<float>* coefficients,
                                          const std::vector<float>& values) = 0;
  virtual std::vector<float> row_norms(std::int64_t rows, std::int64_t cols,
                                       const std::vector<float>& W) = 0;
  virtual std::vector<float> normalise_rows(std::int64_t rows, std::int64_t cols,
                                            std::vector<float> W) = 0;
  virtual Components parallel_components(std::int64_t rows, std::int64_t cols,
                                         const std::vector<float>& W,
                                         const std::vector<float>& grad) = 0;
  virtual double sum_of_squares(std::int64_t rows, std::int64_t cols,
                                const std::vector<float>& values) = 0;
  virtual void adam(const AdamStep& step, const std::vector<float>& gradient,
                    std::vector<float>& weights, std::vector<float>& m, std::vector<float>& v) = 0;
  virtual void adam_unit_rows(const AdamStep& step, std::int64_t cols,
                              const std::vector<float>& gradient,
                              const std::vector<double>& factors, bool renormalises,
                              std::vector<float>& weights, std::vector<float>& m,
                              std::vector<float>& v) = 0;
};

/// The backends that this test program was linked with.
std::vector<Backend*> backends_under_test();

/// Pairs of a lane in latent order; the arrays live as long as the object.
struct SortedLane {
  SortedLane(const Lane& lane, std::int64_t n_latents);
  LatentPairs view(const Lane& lane) const;
  std::vector<std::int64_t> offsets;
  std::vector<std::int32_t> pair_rows, pair_slots;
};

}  // namespace thresher::kernels
