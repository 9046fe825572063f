#include "kernels/reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace thresher::kernels::reference {

void topk(std::int64_t rows, std::int64_t cols, std::int64_t k, const float* pre_acts,
          const std::uint8_t* mask, float* values, std::int32_t* indices) {
  std::vector<std::int32_t> order;
  for (std::int64_t c = 0; c < cols; ++c) {
    if (mask == nullptr || mask[c] != 0) order.push_back(static_cast<std::int32_t>(c));
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = pre_acts + r * cols;
    std::sort(order.begin(), order.end());
    std::stable_sort(order.begin(), order.end(), [row](std::int32_t left, std::int32_t right) {
      if (std::isnan(row[left])) return !std::isnan(row[right]);
      return row[left] > row[right];
    });
    for (std::int64_t j = 0; j < k; ++j) {
      indices[r * k + j] = order[static_cast<std::size_t>(j)];
      values[r * k + j] = row[order[static_cast<std::size_t>(j)]];
    }
  }
}

void sparse_decode(std::int64_t rows, std::int64_t d, const std::int64_t* row_offsets,
                   const std::int32_t* indices, const float* values, const float* W_dec,
                   const float* bias, float* recon) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < d; ++c) {
      double sum = bias != nullptr ? bias[c] : 0.0;
      for (std::int64_t slot = row_offsets[r]; slot < row_offsets[r + 1]; ++slot) {
        const double value = values[slot];
        if (value != 0.0) sum += value * W_dec[indices[slot] * d + c];
      }
      recon[r * d + c] = static_cast<float>(sum);
    }
  }
}

void sparse_decode_grad_values(std::int64_t rows, std::int64_t d, const std::int64_t* row_offsets,
                               const std::int32_t* indices, const float* grad_recon,
                               const float* W_dec, float* grad_values) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t slot = row_offsets[r]; slot < row_offsets[r + 1]; ++slot) {
      double sum = 0.0;
      for (std::int64_t c = 0; c < d; ++c) {
        sum += static_cast<double>(grad_recon[r * d + c]) * W_dec[indices[slot] * d + c];
      }
      grad_values[slot] = static_cast<float>(sum);
    }
  }
}

void sparse_residuals(std::int64_t rows, std::int64_t d, const std::int64_t* row_offsets,
                      const std::int32_t* indices, const float* values, const float* W_dec,
                      const float* bias, const float* x, float* residuals, float* dots) {
  sparse_decode(rows, d, row_offsets, indices, values, W_dec, bias, residuals);
  for (std::int64_t i = 0; i < rows * d; ++i) residuals[i] = x[i] - residuals[i];
  sparse_decode_grad_values(rows, d, row_offsets, indices, residuals, W_dec, dots);
  for (std::int64_t slot = row_offsets[0]; slot < row_offsets[rows]; ++slot) {
    if (values[slot] == 0.0f) dots[slot] = 0.0f;
  }
}

void accumulate_latent_rows(std::int64_t n_rows, std::int64_t n_latents, std::int64_t d,
                            const std::int64_t* row_offsets, const std::int32_t* indices,
                            const float* values, const float* coefficients, const float* rows,
                            float* out) {
  std::vector<double> sums(static_cast<std::size_t>(n_latents * d));
  for (std::int64_t r = 0; r < n_rows; ++r) {
    for (std::int64_t slot = row_offsets[r]; slot < row_offsets[r + 1]; ++slot) {
      if (values[slot] == 0.0f) continue;
      for (std::int64_t c = 0; c < d; ++c) {
        sums[static_cast<std::size_t>(indices[slot] * d + c)] +=
            static_cast<double>(coefficients[slot]) * rows[r * d + c];
      }
    }
  }
  for (std::size_t i = 0; i < sums.size(); ++i) out[i] = static_cast<float>(sums[i]);
}

double sum_of_squares(std::int64_t count, const float* values) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(values[i]) * values[i];
  return sum;
}

void column_sums(std::int64_t rows, std::int64_t cols, const float* coefficients,
                 const float* values, double* sums) {
  std::fill_n(sums, cols, 0.0);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      const double coefficient = coefficients != nullptr ? coefficients[r] : 1.0;
      if (coefficient != 0.0) sums[c] += coefficient * values[r * cols + c];
    }
  }
}

void row_norms(std::int64_t rows, std::int64_t cols, const float* W, float* norms) {
  for (std::int64_t r = 0; r < rows; ++r) {
    norms[r] = static_cast<float>(std::sqrt(sum_of_squares(cols, W + r * cols)));
  }
}

void normalise_rows(std::int64_t rows, std::int64_t cols, float* W) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const double norm = std::sqrt(sum_of_squares(cols, W + r * cols));
    for (std::int64_t c = 0; c < cols && norm != 0.0; ++c) {
      W[r * cols + c] = static_cast<float>(W[r * cols + c] / norm);
    }
  }
}

void remove_parallel_component(std::int64_t rows, std::int64_t cols, const float* W, float* grad) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const double square = sum_of_squares(cols, W + r * cols);
    double dot = 0.0;
    for (std::int64_t c = 0; c < cols; ++c) {
      dot += static_cast<double>(W[r * cols + c]) * grad[r * cols + c];
    }
    for (std::int64_t c = 0; c < cols && square != 0.0; ++c) {
      grad[r * cols + c] = static_cast<float>(grad[r * cols + c] - dot / square * W[r * cols + c]);
    }
  }
}

void adam(const AdamStep& step, std::int64_t count, const float* gradient, float* weights, float* m,
          float* v) {
  const double correction1 = 1.0 - std::pow(step.beta1, static_cast<double>(step.step));
  const double correction2 = 1.0 - std::pow(step.beta2, static_cast<double>(step.step));
  for (std::int64_t i = 0; i < count; ++i) {
    const double g = gradient[i] * step.gradient_scale;
    const double first = step.beta1 * m[i] + (1.0 - step.beta1) * g;
    const double second = step.beta2 * v[i] + (1.0 - step.beta2) * g * g;
    m[i] = static_cast<float>(first);
    v[i] = static_cast<float>(second);
    weights[i] =
        static_cast<float>(weights[i] - step.learning_rate * (first / correction1) /
                                            (std::sqrt(second / correction2) + step.epsilon));
  }
}

}  // namespace thresher::kernels::reference
