#include "kernels/column_sums.h"
#include "kernels/decoder_norm.h"
#include "kernels/topk.h"
#include "tests/kernels/backends.h"
#include "tests/kernels/on_device.h"
#include "tests/kernels/step_backend.h"

namespace thresher::kernels {
namespace {

/// The lanes' arrays on the device; the table of pointers stays on the host, as the kernel wants
/// it.
class DeviceLanes {
 public:
  DeviceLanes(std::span<const Lane> lanes, std::int64_t n_latents) {
    for (const Lane& lane : lanes) {
      const SortedLane sorted(lane, n_latents);
      offsets_.emplace_back(sorted.offsets);
      integers_.emplace_back(sorted.pair_rows);
      integers_.emplace_back(sorted.pair_slots);
      floats_.emplace_back(lane.values);
      floats_.emplace_back(lane.grad_values);
      floats_.emplace_back(lane.residuals);
      floats_.emplace_back(lane.inputs);
      const std::size_t n = integers_.size(), f = floats_.size();
      pairs.push_back({offsets_.back().data(), integers_[n - 2].data(), integers_[n - 1].data(),
                       floats_[f - 4].data(), floats_[f - 3].data(), floats_[f - 2].data(),
                       floats_[f - 1].data(), lane.n_inputs});
    }
  }
  std::vector<LatentPairs> pairs;

 private:
  std::vector<OnDevice<std::int64_t>> offsets_;
  std::vector<OnDevice<std::int32_t>> integers_;
  std::vector<OnDevice<float>> floats_;
};

class CudaBackend final : public Backend {
 public:
  std::string name() const override { return "Cuda"; }

  std::string reason_to_skip() const override { return why_no_gpu(); }

  TopKOut topk(std::int64_t rows, std::int64_t cols, std::int64_t k,
               const std::vector<float>& pre_acts, const std::vector<std::uint8_t>* mask) override {
    OnDevice<float> input(pre_acts), values(rows * k);
    OnDevice<std::int32_t> indices(rows * k);
    if (mask == nullptr) {
      kernels::topk(kOnGpu, rows, cols, k, input.data(), values.data(), indices.data());
    } else {
      OnDevice<std::uint8_t> device_mask(*mask);
      kernels::topk_masked(kOnGpu, rows, cols, k, input.data(), device_mask.data(), values.data(),
                           indices.data());
      return {values.to_host(), indices.to_host()};
    }
    return {values.to_host(), indices.to_host()};
  }

  std::vector<float> sparse_decode(std::int64_t d, const Offsets& row_offsets,
                                   const std::vector<std::int32_t>& indices,
                                   const std::vector<float>& values,
                                   const std::vector<float>& W_dec,
                                   const std::vector<float>* bias) override {
    OnDevice<std::int32_t> device_indices(indices);
    const std::int64_t rows = rows_of(row_offsets);
    OnDevice<std::int64_t> device_offsets(row_offsets);
    OnDevice<float> device_values(values), weights(W_dec), recon(rows * d);
    OnDevice<float> device_bias(bias != nullptr ? *bias : std::vector<float>());
    kernels::sparse_decode(kOnGpu, rows, d, device_offsets.data(), device_indices.data(),
                           device_values.data(), weights.data(), device_bias.data(), recon.data());
    return recon.to_host();
  }

  std::vector<float> grad_values(std::int64_t d, const Offsets& row_offsets,
                                 const std::vector<std::int32_t>& indices,
                                 const std::vector<float>& grad_recon,
                                 const std::vector<float>& W_dec) override {
    OnDevice<std::int32_t> device_indices(indices);
    OnDevice<std::int64_t> device_offsets(row_offsets);
    OnDevice<float> grad(grad_recon), weights(W_dec),
        out(static_cast<std::int64_t>(indices.size()));
    kernels::sparse_decode_grad_values(kOnGpu, rows_of(row_offsets), d, device_offsets.data(),
                                       device_indices.data(), grad.data(), weights.data(),
                                       out.data());
    return out.to_host();
  }

  Residuals residuals(std::int64_t d, const Offsets& row_offsets,
                      const std::vector<std::int32_t>& indices, const std::vector<float>& values,
                      const std::vector<float>& W_dec, const std::vector<float>* bias,
                      const std::vector<float>& x) override {
    OnDevice<std::int64_t> offsets(row_offsets);
    OnDevice<std::int32_t> device_indices(indices);
    OnDevice<float> device_values(values), weights(W_dec), device_x(x);
    OnDevice<float> device_bias(bias != nullptr ? *bias : std::vector<float>());
    OnDevice<float> out(static_cast<std::int64_t>(x.size()));
    OnDevice<float> dots(static_cast<std::int64_t>(indices.size()));
    kernels::sparse_residuals(kOnGpu, rows_of(row_offsets), d, offsets.data(),
                              device_indices.data(), device_values.data(), weights.data(),
                              device_bias.data(), device_x.data(), out.data(), dots.data());
    return {out.to_host(), dots.to_host()};
  }

  Gradients gradients(std::int64_t n_latents, std::int64_t d,
                      std::span<const Lane> lanes) override {
    const DeviceLanes device_lanes(lanes, n_latents);
    OnDevice<float> W_dec(n_latents * d), W_enc(n_latents * d), b_enc(n_latents);
    accumulate_gradients(kOnGpu, n_latents, d, static_cast<std::int64_t>(lanes.size()),
                         device_lanes.pairs.data(), W_dec.data(), W_enc.data(), b_enc.data());
    return {W_dec.to_host(), W_enc.to_host(), b_enc.to_host()};
  }

  std::vector<double> column_sums(std::int64_t rows, std::int64_t cols,
                                  const std::vector<float>* coefficients,
                                  const std::vector<float>& values) override {
    OnDevice<float> device_values(values);
    OnDevice<float> factors(coefficients != nullptr ? *coefficients : std::vector<float>());
    std::vector<double> sums(static_cast<std::size_t>(cols), -1.0);
    kernels::column_sums(kOnGpu, rows, cols, factors.data(), device_values.data(), sums.data());
    return sums;
  }

  std::vector<float> row_norms(std::int64_t rows, std::int64_t cols,
                               const std::vector<float>& W) override {
    OnDevice<float> weights(W), norms(rows);
    kernels::row_norms(kOnGpu, rows, cols, weights.data(), norms.data());
    return norms.to_host();
  }

  std::vector<float> normalise_rows(std::int64_t rows, std::int64_t cols,
                                    std::vector<float> W) override {
    OnDevice<float> weights(W);
    kernels::normalise_rows(kOnGpu, rows, cols, weights.data());
    return weights.to_host();
  }

  Components parallel_components(std::int64_t rows, std::int64_t cols, const std::vector<float>& W,
                                 const std::vector<float>& grad) override {
    OnDevice<float> weights(W), device_grad(grad);
    OnDevice<double> factors(rows);
    const double squares = kernels::parallel_components(kOnGpu, rows, cols, weights.data(),
                                                        device_grad.data(), factors.data());
    return {factors.to_host(), squares};
  }

  double sum_of_squares(std::int64_t rows, std::int64_t cols,
                        const std::vector<float>& values) override {
    OnDevice<float> device_values(values);
    return kernels::sum_of_squares(kOnGpu, rows, cols, device_values.data());
  }

  void adam(const AdamStep& step, const std::vector<float>& gradient, std::vector<float>& weights,
            std::vector<float>& m, std::vector<float>& v) override {
    OnDevice<float> g(gradient), w(weights), first(m), second(v);
    kernels::adam(kOnGpu, step, static_cast<std::int64_t>(gradient.size()), g.data(), w.data(),
                  first.data(), second.data());
    weights = w.to_host();
    m = first.to_host();
    v = second.to_host();
  }

  void adam_unit_rows(const AdamStep& step, std::int64_t cols, const std::vector<float>& gradient,
                      const std::vector<double>& factors, bool renormalises,
                      std::vector<float>& weights, std::vector<float>& m,
                      std::vector<float>& v) override {
    const auto rows = static_cast<std::int64_t>(factors.size());
    OnDevice<float> g(gradient), w(weights), first(m), second(v);
    OnDevice<double> parallel(factors);
    kernels::adam_unit_rows(kOnGpu, step, rows, cols, g.data(), parallel.data(), renormalises,
                            w.data(), first.data(), second.data());
    weights = w.to_host();
    m = first.to_host();
    v = second.to_host();
  }
};

}  // namespace

Backend* cuda_backend() {
  static CudaBackend backend;
  return &backend;
}

std::vector<Backend*> backends_under_test() { return {cuda_backend()}; }
std::vector<StepBackend*> step_backends_under_test() { return {cuda_step_backend()}; }

}  // namespace thresher::kernels
