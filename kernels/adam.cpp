#include "kernels/adam.h"

#include "core/error.h"
#include "kernels/detail/backends.h"

namespace thresher::kernels {
namespace {

constexpr std::int64_t kMostSquares = 1 << 20;

AdamStep scaled(AdamStep step, const UpdateControl& control) {
  step.gradient_scale = control.gradient_scale;
  return step;
}

}  // namespace

void adam(const Exec& exec, const AdamStep& step, std::int64_t count, const float* gradient,
          float* weights, float* m, float* v) {
  THRESHER_CHECK(count >= 0, "adam: count is negative");
  THRESHER_CHECK(step.step >= 1, "adam: steps are counted from 1");
  if (count == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::adam_cpu(step, count, gradient, weights, m, v);
    case Device::kCuda:
      return detail::adam_cuda(exec.stream, step, count, gradient, weights, m, v);
  }
}

void adam_unit_rows(const Exec& exec, const AdamStep& step, std::int64_t rows, std::int64_t cols,
                    const float* gradient, const double* factors, bool renormalises, float* weights,
                    float* m, float* v) {
  THRESHER_CHECK(rows >= 0 && cols >= 0, "adam_unit_rows: a size is negative");
  THRESHER_CHECK(step.step >= 1, "adam_unit_rows: steps are counted from 1");
  if (rows == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::adam_unit_rows_cpu(step, rows, cols, gradient, factors, renormalises, weights,
                                        m, v);
    case Device::kCuda:
      return detail::adam_unit_rows_cuda(exec.stream, step, rows, cols, gradient, factors,
                                         renormalises, weights, m, v);
  }
}

void decide_update(const Exec& exec, std::int64_t count, const double* squares, double limit,
                   UpdateControl* control) {
  THRESHER_CHECK(count >= 0 && count <= kMostSquares, "decide_update: 0 to 2^20 sums of squares");
  switch (exec.device) {
    case Device::kCpu:
      return detail::decide_update_cpu(count, squares, limit, control);
    case Device::kCuda:
      return detail::decide_update_cuda(exec.stream, count, squares, limit, control);
  }
}

void adam(const Exec& exec, const AdamStep& step, const UpdateControl* control, std::int64_t count,
          const float* gradient, float* weights, float* m, float* v, std::uint16_t* bfloat16) {
  THRESHER_CHECK(count >= 0, "adam: count is negative");
  THRESHER_CHECK(step.step >= 1, "adam: steps are counted from 1");
  if (count == 0) return;
  if (exec.device == Device::kCuda) {
    return detail::adam_controlled_cuda(exec.stream, step, control, count, gradient, weights, m, v,
                                        bfloat16);
  }
  if (control->is_finite == 0) return;
  detail::adam_cpu(scaled(step, *control), count, gradient, weights, m, v);
  if (bfloat16 != nullptr) detail::centre_rows_cpu(1, count, weights, nullptr, nullptr, bfloat16);
}

void adam_unit_rows(const Exec& exec, const AdamStep& step, const UpdateControl* control,
                    std::int64_t rows, std::int64_t cols, const float* gradient,
                    const double* factors, bool renormalises, float* weights, float* m, float* v,
                    std::uint16_t* bfloat16) {
  THRESHER_CHECK(rows >= 0 && cols >= 0, "adam_unit_rows: a size is negative");
  THRESHER_CHECK(step.step >= 1, "adam_unit_rows: steps are counted from 1");
  if (rows == 0 || cols == 0) return;
  if (exec.device == Device::kCuda) {
    return detail::adam_unit_rows_controlled_cuda(exec.stream, step, control, rows, cols, gradient,
                                                  factors, renormalises, weights, m, v, bfloat16);
  }
  if (control->is_finite == 0) return;
  detail::adam_unit_rows_cpu(scaled(step, *control), rows, cols, gradient, factors, renormalises,
                             weights, m, v);
  if (bfloat16 != nullptr) {
    detail::centre_rows_cpu(rows, cols, weights, nullptr, nullptr, bfloat16);
  }
}

}  // namespace thresher::kernels
