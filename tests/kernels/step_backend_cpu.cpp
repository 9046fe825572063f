#include <algorithm>
#include <stdexcept>

#include "kernels/bfloat16.h"
#include "kernels/column_sums.h"
#include "kernels/decoder_norm.h"
#include "kernels/detail/bfloat16_device.h"
#include "tests/kernels/step_backend.h"

namespace thresher::kernels {
namespace {

TopKOut empty_slots(std::int64_t count) {
  return {std::vector<float>(static_cast<std::size_t>(count), -7.0f),
          std::vector<std::int32_t>(static_cast<std::size_t>(count), -7)};
}

class CpuStepBackend final : public StepBackend {
 public:
  std::string name() const override { return "Cpu"; }

  EncodeOut encode_topk(const EncodeCase& in) override {
    EncodeOut out{empty_slots(in.rows * in.k), empty_slots(in.rows * in.masked_k), 0};
    EncoderOperands operands{in.rows,         in.d,           in.n_latents, in.type, in.x.data(),
                             in.W_enc.data(), in.b_enc.data()};
    std::vector<std::uint16_t> x, W_enc;
    if (in.type == OperandType::kBFloat16) {
      x = narrowed(in.x);
      W_enc = narrowed(in.W_enc);
      operands.x = x.data();
      operands.W_enc = W_enc.data();
    }
    const TopKSlots masked{in.masked_k, out.masked.values.data(), out.masked.indices.data()};
    const bool is_masked = !in.mask.empty();
    kernels::encode_topk({}, operands, {in.k, out.main.values.data(), out.main.indices.data()},
                         is_masked ? in.mask.data() : nullptr, is_masked ? &masked : nullptr,
                         &out.not_numbers);
    return out;
  }

  SortedPairs sort_pairs(std::int64_t n_latents, std::int64_t n_slots, const Offsets& row_offsets,
                         const std::vector<std::int32_t>& indices,
                         const std::vector<float>& values) override {
    SortedPairs out{Offsets(static_cast<std::size_t>(n_latents + 1)),
                    std::vector<std::int32_t>(static_cast<std::size_t>(n_slots)),
                    {}};
    out.slots = out.rows;
    sort_pairs_by_latent(Exec{}, rows_of(row_offsets), n_latents, n_slots, row_offsets.data(),
                         indices.data(), values.data(), out.offsets.data(), out.rows.data(),
                         out.slots.data());
    out.rows.resize(static_cast<std::size_t>(out.offsets.back()));
    out.slots.resize(out.rows.size());
    return out;
  }

  UpdateControl decide_update(const std::vector<double>& squares, double limit) override {
    UpdateControl control{};
    kernels::decide_update({}, static_cast<std::int64_t>(squares.size()), squares.data(), limit,
                           &control);
    return control;
  }

  void adam(const AdamStep& step, const UpdateControl& control, const std::vector<float>& gradient,
            AdamArrays& arrays) override {
    kernels::adam({}, step, &control, static_cast<std::int64_t>(gradient.size()), gradient.data(),
                  arrays.weights.data(), arrays.m.data(), arrays.v.data(), copy_of(arrays));
  }

  void adam_unit_rows(const AdamStep& step, const UpdateControl& control, std::int64_t cols,
                      const std::vector<float>& gradient, const std::vector<double>& factors,
                      bool renormalises, AdamArrays& arrays) override {
    kernels::adam_unit_rows({}, step, &control, static_cast<std::int64_t>(factors.size()), cols,
                            gradient.data(), factors.data(), renormalises, arrays.weights.data(),
                            arrays.m.data(), arrays.v.data(), copy_of(arrays));
  }

  Components parallel_components(std::int64_t rows, std::int64_t cols, const std::vector<float>& W,
                                 const std::vector<float>& grad) override {
    Components out{std::vector<double>(static_cast<std::size_t>(rows), -1.0), -1.0};
    kernels::parallel_components({}, rows, cols, W.data(), grad.data(), out.factors.data(),
                                 &out.squares);
    return out;
  }

  double sum_of_squares(std::int64_t rows, std::int64_t cols,
                        const std::vector<float>& values) override {
    double squares = -1.0;
    kernels::sum_of_squares({}, rows, cols, values.data(), &squares);
    return squares;
  }

  std::vector<double> column_sums(std::int64_t rows, std::int64_t cols,
                                  const std::vector<float>* coefficients,
                                  const std::vector<float>& values) override {
    std::vector<double> sums(static_cast<std::size_t>(cols), -1.0);
    column_sums_on_device({}, rows, cols, coefficients != nullptr ? coefficients->data() : nullptr,
                          values.data(), sums.data());
    return sums;
  }

  Residuals residuals(std::int64_t d, const Offsets& row_offsets,
                      const std::vector<std::int32_t>& indices, const std::vector<float>& values,
                      const std::vector<float>& W_dec, const std::vector<float>* bias,
                      const std::vector<float>& x, std::vector<std::uint16_t>& rounded) override {
    Residuals out{std::vector<float>(x.size(), -1.0f), std::vector<float>(indices.size(), -1.0f)};
    const auto W = narrowed(W_dec);
    rounded.assign(x.size(), 0);
    sparse_residuals(Exec{}, rows_of(row_offsets), d, row_offsets.data(), indices.data(),
                     values.data(), W.data(), bias != nullptr ? bias->data() : nullptr, x.data(),
                     out.residuals.data(), rounded.data(), out.dots.data());
    return out;
  }

  Gradients gradients(std::int64_t n_latents, std::int64_t d, const Lane& lane) override {
    const SortedLane sorted(lane, n_latents);
    const auto residuals = narrowed(lane.residuals), inputs = narrowed(lane.inputs);
    Gradients out{std::vector<float>(static_cast<std::size_t>(n_latents * d), -1.0f), {}, {}};
    out.W_enc = out.W_dec;
    out.b_enc.assign(static_cast<std::size_t>(n_latents), -1.0f);
    accumulate_gradients(Exec{}, n_latents, d, mixed_pairs(sorted, lane, residuals, inputs),
                         out.W_dec.data(), out.W_enc.data(), out.b_enc.data());
    return out;
  }

  Centred centre_rows(std::int64_t rows, std::int64_t cols, const std::vector<float>& x,
                      const std::vector<float>* centre) override {
    Centred out{x, std::vector<std::uint16_t>(x.size())};
    kernels::centre_rows({}, rows, cols, out.values.data(),
                         centre != nullptr ? centre->data() : nullptr, out.values.data(),
                         out.bfloat16.data());
    return out;
  }

 private:
  static std::uint16_t* copy_of(AdamArrays& arrays) {
    return arrays.bfloat16.empty() ? nullptr : arrays.bfloat16.data();
  }
};

}  // namespace

std::vector<std::uint16_t> narrowed(const std::vector<float>& values) {
  std::vector<std::uint16_t> out;
  for (const float value : values) {
    out.push_back(detail::to_bfloat16(value));
    const float back = detail::from_bfloat16(out.back());
    if (back != value && value == value) throw std::invalid_argument("no bfloat16 value");
  }
  return out;
}

MixedPairs mixed_pairs(const SortedLane& sorted, const Lane& lane,
                       const std::vector<std::uint16_t>& residuals,
                       const std::vector<std::uint16_t>& inputs) {
  return {sorted.offsets.data(),
          sorted.pair_rows.data(),
          sorted.pair_slots.data(),
          lane.values.data(),
          lane.grad_values.data(),
          residuals.data(),
          inputs.data(),
          lane.n_inputs};
}

StepBackend* cpu_step_backend() {
  static CpuStepBackend backend;
  return &backend;
}

}  // namespace thresher::kernels
