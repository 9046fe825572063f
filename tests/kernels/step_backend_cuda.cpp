#include "kernels/bfloat16.h"
#include "kernels/column_sums.h"
#include "kernels/decoder_norm.h"
#include "tests/kernels/on_device.h"
#include "tests/kernels/step_backend.h"

namespace thresher::kernels {
namespace {

template <class T>
T* or_null(OnDevice<T>& array, bool is_wanted) {
  return is_wanted ? array.data() : nullptr;
}

class CudaStepBackend final : public StepBackend {
 public:
  std::string name() const override { return "Cuda"; }
  std::string reason_to_skip() const override { return why_no_gpu(); }

  EncodeOut encode_topk(const EncodeCase& in) override {
    OnDevice<float> x(in.x), W_enc(in.W_enc), b_enc(in.b_enc);
    const bool is_narrow = in.type == OperandType::kBFloat16;
    const std::vector<std::uint16_t> none;
    OnDevice<std::uint16_t> narrow_x(is_narrow ? narrowed(in.x) : none);
    OnDevice<std::uint16_t> narrow_W(is_narrow ? narrowed(in.W_enc) : none);
    OnDevice<std::uint8_t> mask(in.mask);
    OnDevice<float> values(in.rows * in.k), masked_values(in.rows * in.masked_k);
    OnDevice<std::int32_t> indices(in.rows * in.k), masked_indices(in.rows * in.masked_k);
    OnDevice<std::int64_t> not_numbers(std::vector<std::int64_t>{0});
    EncoderOperands operands{in.rows,  in.d,         in.n_latents, in.type,
                             x.data(), W_enc.data(), b_enc.data()};
    if (is_narrow) {
      operands.x = narrow_x.data();
      operands.W_enc = narrow_W.data();
    }
    const TopKSlots masked{in.masked_k, masked_values.data(), masked_indices.data()};
    const bool is_masked = !in.mask.empty();
    kernels::encode_topk(kOnGpu, operands, {in.k, values.data(), indices.data()},
                         is_masked ? mask.data() : nullptr, is_masked ? &masked : nullptr,
                         not_numbers.data());
    return {{values.to_host(), indices.to_host()},
            {masked_values.to_host(), masked_indices.to_host()},
            not_numbers.to_host()[0]};
  }

  SortedPairs sort_pairs(std::int64_t n_latents, std::int64_t n_slots, const Offsets& row_offsets,
                         const std::vector<std::int32_t>& indices,
                         const std::vector<float>& values) override {
    OnDevice<std::int64_t> in_rows(row_offsets), offsets(n_latents + 1);
    OnDevice<std::int32_t> latents(indices), rows(n_slots), slots(n_slots);
    OnDevice<float> factors(values);
    sort_pairs_by_latent(kOnGpu, rows_of(row_offsets), n_latents, n_slots, in_rows.data(),
                         latents.data(), factors.data(), offsets.data(), rows.data(), slots.data());
    SortedPairs out{offsets.to_host(), rows.to_host(), slots.to_host()};
    out.rows.resize(static_cast<std::size_t>(out.offsets.back()));
    out.slots.resize(out.rows.size());
    return out;
  }

  UpdateControl decide_update(const std::vector<double>& squares, double limit) override {
    OnDevice<double> on_device(squares);
    OnDevice<UpdateControl> control(1);
    kernels::decide_update(kOnGpu, static_cast<std::int64_t>(squares.size()), on_device.data(),
                           limit, control.data());
    return control.to_host()[0];
  }

  void adam(const AdamStep& step, const UpdateControl& control, const std::vector<float>& gradient,
            AdamArrays& arrays) override {
    OnDevice<float> g(gradient);
    update(arrays, control,
           [&](const UpdateControl* on_device, float* w, float* m, float* v, std::uint16_t* copy) {
             kernels::adam(kOnGpu, step, on_device, static_cast<std::int64_t>(gradient.size()),
                           g.data(), w, m, v, copy);
           });
  }

  void adam_unit_rows(const AdamStep& step, const UpdateControl& control, std::int64_t cols,
                      const std::vector<float>& gradient, const std::vector<double>& factors,
                      bool renormalises, AdamArrays& arrays) override {
    OnDevice<float> g(gradient);
    OnDevice<double> parallel(factors);
    update(arrays, control,
           [&](const UpdateControl* on_device, float* w, float* m, float* v, std::uint16_t* copy) {
             kernels::adam_unit_rows(kOnGpu, step, on_device,
                                     static_cast<std::int64_t>(factors.size()), cols, g.data(),
                                     parallel.data(), renormalises, w, m, v, copy);
           });
  }

  Components parallel_components(std::int64_t rows, std::int64_t cols, const std::vector<float>& W,
                                 const std::vector<float>& grad) override {
    OnDevice<float> weights(W), gradient(grad);
    OnDevice<double> factors(rows), squares(std::vector<double>{-1.0});
    kernels::parallel_components(kOnGpu, rows, cols, weights.data(), gradient.data(),
                                 factors.data(), squares.data());
    return {factors.to_host(), squares.to_host()[0]};
  }

  double sum_of_squares(std::int64_t rows, std::int64_t cols,
                        const std::vector<float>& values) override {
    OnDevice<float> on_device(values);
    OnDevice<double> squares(std::vector<double>{-1.0});
    kernels::sum_of_squares(kOnGpu, rows, cols, on_device.data(), squares.data());
    return squares.to_host()[0];
  }

  std::vector<double> column_sums(std::int64_t rows, std::int64_t cols,
                                  const std::vector<float>* coefficients,
                                  const std::vector<float>& values) override {
    OnDevice<float> on_device(values);
    OnDevice<float> factors(coefficients != nullptr ? *coefficients : std::vector<float>());
    OnDevice<double> sums(cols);
    column_sums_on_device(kOnGpu, rows, cols, or_null(factors, coefficients != nullptr),
                          on_device.data(), sums.data());
    return sums.to_host();
  }

  Residuals residuals(std::int64_t d, const Offsets& row_offsets,
                      const std::vector<std::int32_t>& indices, const std::vector<float>& values,
                      const std::vector<float>& W_dec, const std::vector<float>* bias,
                      const std::vector<float>& x, std::vector<std::uint16_t>& rounded) override {
    OnDevice<std::int64_t> offsets(row_offsets);
    OnDevice<std::int32_t> latents(indices);
    OnDevice<float> factors(values), device_x(x);
    OnDevice<float> device_bias(bias != nullptr ? *bias : std::vector<float>());
    OnDevice<std::uint16_t> W(narrowed(W_dec)), copy(static_cast<std::int64_t>(x.size()));
    OnDevice<float> out(static_cast<std::int64_t>(x.size()));
    OnDevice<float> dots(static_cast<std::int64_t>(indices.size()));
    sparse_residuals(kOnGpu, rows_of(row_offsets), d, offsets.data(), latents.data(),
                     factors.data(), W.data(), or_null(device_bias, bias != nullptr),
                     device_x.data(), out.data(), copy.data(), dots.data());
    rounded = copy.to_host();
    return {out.to_host(), dots.to_host()};
  }

  Gradients gradients(std::int64_t n_latents, std::int64_t d, const Lane& lane) override {
    const SortedLane sorted(lane, n_latents);
    OnDevice<std::int64_t> offsets(sorted.offsets);
    OnDevice<std::int32_t> rows(sorted.pair_rows), slots(sorted.pair_slots);
    OnDevice<float> values(lane.values), grad_values(lane.grad_values);
    OnDevice<std::uint16_t> residuals(narrowed(lane.residuals)), inputs(narrowed(lane.inputs));
    OnDevice<float> W_dec(n_latents * d), W_enc(n_latents * d), b_enc(n_latents);
    accumulate_gradients(
        kOnGpu, n_latents, d,
        MixedPairs{offsets.data(), rows.data(), slots.data(), values.data(), grad_values.data(),
                   residuals.data(), inputs.data(), lane.n_inputs},
        W_dec.data(), W_enc.data(), b_enc.data());
    return {W_dec.to_host(), W_enc.to_host(), b_enc.to_host()};
  }

  Centred centre_rows(std::int64_t rows, std::int64_t cols, const std::vector<float>& x,
                      const std::vector<float>* centre) override {
    OnDevice<float> values(x), by(centre != nullptr ? *centre : std::vector<float>());
    OnDevice<std::uint16_t> copy(static_cast<std::int64_t>(x.size()));
    kernels::centre_rows(kOnGpu, rows, cols, values.data(), or_null(by, centre != nullptr),
                         values.data(), copy.data());
    return {values.to_host(), copy.to_host()};
  }

 private:
  template <class F>
  static void update(AdamArrays& arrays, const UpdateControl& control, F f) {
    OnDevice<UpdateControl> on_device(std::vector<UpdateControl>{control});
    OnDevice<float> w(arrays.weights), m(arrays.m), v(arrays.v);
    OnDevice<std::uint16_t> copy(arrays.bfloat16);
    f(on_device.data(), w.data(), m.data(), v.data(), copy.data());
    arrays = {w.to_host(), m.to_host(), v.to_host(), copy.to_host()};
  }
};

}  // namespace

StepBackend* cuda_step_backend() {
  static CudaStepBackend backend;
  return &backend;
}

}  // namespace thresher::kernels
