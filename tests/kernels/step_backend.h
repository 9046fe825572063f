#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/adam.h"
#include "kernels/encode_topk.h"
#include "kernels/mixed_precision.h"
#include "tests/kernels/backend.h"

namespace thresher::kernels {

/// An encoder and the selection asked of it. Operands are given in float32; with kBFloat16 they
/// must be values that it holds exactly.
struct EncodeCase {
  std::int64_t rows = 0, d = 1, n_latents = 0;
  OperandType type = OperandType::kFloat32;
  std::vector<float> x, W_enc, b_enc;
  std::int64_t k = 1;
  std::vector<std::uint8_t> mask;  // empty: no second selection
  std::int64_t masked_k = 0;
};

struct EncodeOut {
  TopKOut main, masked;
  std::int64_t not_numbers = 0;
};

struct SortedPairs {
  std::vector<std::int64_t> offsets;
  std::vector<std::int32_t> rows, slots;  // as many as there are pairs
};

/// Weights and moments before or after an update.
struct AdamArrays {
  std::vector<float> weights, m, v;
  std::vector<std::uint16_t> bfloat16;  // empty: not wanted
};

struct Centred {
  std::vector<float> values;
  std::vector<std::uint16_t> bfloat16;
};

/// The kernels of a training step that leave their results where they were computed, on vectors of
/// host memory.
class StepBackend {
 public:
  virtual ~StepBackend() = default;
  virtual std::string name() const = 0;
  /// Why it cannot run here, or empty.
  virtual std::string reason_to_skip() const { return {}; }

  virtual EncodeOut encode_topk(const EncodeCase& encode) = 0;
  /// `n_slots` may exceed what the rows hold.
  virtual SortedPairs sort_pairs(std::int64_t n_latents, std::int64_t n_slots,
                                 const Offsets& row_offsets,
                                 const std::vector<std::int32_t>& indices,
                                 const std::vector<float>& values) = 0;
  virtual UpdateControl decide_update(const std::vector<double>& squares, double limit) = 0;
  virtual void adam(const AdamStep& step, const UpdateControl& control,
                    const std::vector<float>& gradient, AdamArrays& arrays) = 0;
  virtual void adam_unit_rows(const AdamStep& step, const UpdateControl& control, std::int64_t cols,
                              const std::vector<float>& gradient,
                              const std::vector<double>& factors, bool renormalises,
                              AdamArrays& arrays) = 0;
  virtual Components parallel_components(std::int64_t rows, std::int64_t cols,
                                         const std::vector<float>& W,
                                         const std::vector<float>& grad) = 0;
  virtual double sum_of_squares(std::int64_t rows, std::int64_t cols,
                                const std::vector<float>& values) = 0;
  virtual std::vector<double> column_sums(std::int64_t rows, std::int64_t cols,
                                          const std::vector<float>* coefficients,
                                          const std::vector<float>& values) = 0;
  /// With W_dec in bfloat16, which must hold its values exactly; `rounded` gets the residuals.
  virtual Residuals residuals(std::int64_t d, const Offsets& row_offsets,
                              const std::vector<std::int32_t>& indices,
                              const std::vector<float>& values, const std::vector<float>& W_dec,
                              const std::vector<float>* bias, const std::vector<float>& x,
                              std::vector<std::uint16_t>& rounded) = 0;
  /// With residuals and inputs in bfloat16, which must hold their values exactly.
  virtual Gradients gradients(std::int64_t n_latents, std::int64_t d, const Lane& lane) = 0;
  virtual Centred centre_rows(std::int64_t rows, std::int64_t cols, const std::vector<float>& x,
                              const std::vector<float>* centre) = 0;
};

StepBackend* cpu_step_backend();
StepBackend* device_code_step_backend();
StepBackend* cuda_step_backend();
/// The backends that this test program was linked with.
std::vector<StepBackend*> step_backends_under_test();

/// The lane's pairs as the kernels take them, in host memory.
MixedPairs mixed_pairs(const SortedLane& sorted, const Lane& lane,
                       const std::vector<std::uint16_t>& residuals,
                       const std::vector<std::uint16_t>& inputs);
/// The values as bfloat16 bits, which must hold them exactly.
std::vector<std::uint16_t> narrowed(const std::vector<float>& values);

}  // namespace thresher::kernels
