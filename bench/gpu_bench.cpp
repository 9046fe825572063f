// Time of every CUDA kernel of a TopK training step with bfloat16 operands, and of all of them in
// the order of a step, on random data. Prints one JSON document. Needs a GPU.
//
//   gpu_bench [A|B|C|G] [REPEATS]
//
// The sizes are those of docs/performance.md. What a step does beside these kernels (a few
// element-wise operations on pairs and counters) is not in it.

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/adam.h"
#include "kernels/bfloat16.h"
#include "kernels/column_sums.h"
#include "kernels/decoder_norm.h"
#include "kernels/encode_topk.h"
#include "kernels/mixed_precision.h"
#include "kernels/sparse_decode.h"

namespace thresher::kernels {
namespace {

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

template <class T>
class OnDevice {
 public:
  explicit OnDevice(std::int64_t count) : count_(static_cast<std::size_t>(count)) {
    check(
        cudaMalloc(reinterpret_cast<void**>(&data_), std::max<std::size_t>(1, count_) * sizeof(T)));
    check(cudaMemset(data_, 0, count_ * sizeof(T)));
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { cudaFree(data_); }
  void set(const std::vector<T>& host) {
    check(cudaMemcpy(data_, host.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  T* data() { return data_; }

 private:
  T* data_ = nullptr;
  std::size_t count_;
};

/// About normal with the given deviation; which generator does not matter for the time.
std::vector<float> noise(std::int64_t count, float deviation, std::uint32_t seed) {
  std::vector<float> out(static_cast<std::size_t>(count));
  std::uint32_t state = seed;
  for (float& value : out) {
    float sum = -2.0f;
    for (int i = 0; i < 4; ++i) {
      state = state * 1664525U + 1013904223U;
      sum += static_cast<float>(state >> 8) / 16777216.0f;
    }
    value = sum * 1.7320508f * deviation;
  }
  return out;
}

struct Size {
  char name;
  std::int64_t d, n, rows, k;
};
constexpr Size kSizes[] = {{'A', 512, 8192, 2048, 32},
                           {'B', 576, 9216, 4096, 64},
                           {'C', 768, 24576, 4096, 32},
                           {'G', 2304, 65536, 8192, 64}};

constexpr Exec kGpu{Device::kCuda, nullptr};
constexpr AdamStep kAdam{1e-4, 0.9, 0.999, 1e-8, 10, 1.0};

/// The arrays of a step, and its kernels by name.
class Step {
 public:
  explicit Step(const Size& size)
      : s(size),
        x(s.rows * s.d),
        centred(s.rows * s.d),
        residuals(s.rows * s.d),
        b_dec(s.d),
        W_enc(s.n * s.d),
        W_dec(s.n * s.d),
        b_enc(s.n),
        g_enc(s.n * s.d),
        g_dec(s.n * s.d),
        g_b_enc(s.n),
        g_b_dec(s.d),
        m_enc(s.n * s.d),
        v_enc(s.n * s.d),
        m_dec(s.n * s.d),
        v_dec(s.n * s.d),
        m_b(s.n),
        v_b(s.n),
        values(s.rows * s.k),
        dots(s.rows * s.k),
        x16(s.rows * s.d),
        residuals16(s.rows * s.d),
        W_enc16(s.n * s.d),
        W_dec16(s.n * s.d),
        indices(s.rows * s.k),
        pair_rows(s.rows * s.k),
        pair_slots(s.rows * s.k),
        row_offsets(s.rows + 1),
        offsets(s.n + 1),
        not_numbers(1),
        factors(s.n),
        sums(2 * s.d),
        squares(3),
        control(1) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(s.d));
    const auto weights = noise(s.n * s.d, scale, 1);
    W_enc.set(weights);
    W_dec.set(weights);
    x.set(noise(s.rows * s.d, 1.0f, 2));
    std::vector<std::int64_t> rows_at;
    for (std::int64_t r = 0; r <= s.rows; ++r) rows_at.push_back(r * s.k);
    row_offsets.set(rows_at);
    centre_rows(kGpu, s.n, s.d, W_enc.data(), nullptr, nullptr, W_enc16.data());
    centre_rows(kGpu, s.n, s.d, W_dec.data(), nullptr, nullptr, W_dec16.data());
  }

  using Kernel = std::pair<const char*, std::function<void()>>;
  std::vector<Kernel> kernels() {
    return {{"centre_rows", [this] { centre(); }},
            {"encode_topk", [this] { encode(OperandType::kBFloat16); }},
            {"sort_pairs_by_latent", [this] { sort(); }},
            {"sparse_residuals", [this] { decode(); }},
            {"accumulate_gradients", [this] { accumulate(); }},
            {"column_sums", [this] { add_columns(); }},
            {"gradient_norm", [this] { norm(); }},
            {"adam", [this] { update_encoder(); }},
            {"adam_unit_rows", [this] { update_decoder(); }}};
  }
  void encode_float32() { encode(OperandType::kFloat32); }

 private:
  void centre() {
    centre_rows(kGpu, s.rows, s.d, x.data(), b_dec.data(), centred.data(), x16.data());
  }
  void encode(OperandType type) {
    const bool is_narrow = type == OperandType::kBFloat16;
    EncoderOperands operands{s.rows, s.d, s.n, type, centred.data(), W_enc.data(), b_enc.data()};
    if (is_narrow) operands.x = x16.data();
    if (is_narrow) operands.W_enc = W_enc16.data();
    encode_topk(kGpu, operands, {s.k, values.data(), indices.data()}, nullptr, nullptr,
                not_numbers.data());
  }
  void sort() {
    sort_pairs_by_latent(kGpu, s.rows, s.n, s.rows * s.k, row_offsets.data(), indices.data(),
                         values.data(), offsets.data(), pair_rows.data(), pair_slots.data());
  }
  void decode() {
    sparse_residuals(kGpu, s.rows, s.d, row_offsets.data(), indices.data(), values.data(),
                     W_dec16.data(), b_dec.data(), x.data(), residuals.data(), residuals16.data(),
                     dots.data());
  }
  void accumulate() {
    accumulate_gradients(
        kGpu, s.n, s.d,
        MixedPairs{offsets.data(), pair_rows.data(), pair_slots.data(), values.data(), dots.data(),
                   residuals16.data(), x16.data(), s.rows},
        g_dec.data(), g_enc.data(), g_b_enc.data());
  }
  void add_columns() {
    column_sums_on_device(kGpu, s.rows, s.d, nullptr, residuals.data(), sums.data());
    column_sums_on_device(kGpu, s.n, s.d, g_b_enc.data(), W_enc.data(), sums.data() + s.d);
  }
  void norm() {
    sum_of_squares(kGpu, s.n, s.d, g_enc.data(), squares.data());
    parallel_components(kGpu, s.n, s.d, W_dec.data(), g_dec.data(), factors.data(),
                        squares.data() + 1);
    sum_of_squares(kGpu, 1, s.n, g_b_enc.data(), squares.data() + 2);
    decide_update(kGpu, 3, squares.data(), 1.0, control.data());
  }
  void update_encoder() {
    adam(kGpu, kAdam, control.data(), s.n * s.d, g_enc.data(), W_enc.data(), m_enc.data(),
         v_enc.data(), W_enc16.data());
    adam(kGpu, kAdam, control.data(), s.n, g_b_enc.data(), b_enc.data(), m_b.data(), v_b.data(),
         nullptr);
  }
  void update_decoder() {
    adam_unit_rows(kGpu, kAdam, control.data(), s.n, s.d, g_dec.data(), factors.data(), true,
                   W_dec.data(), m_dec.data(), v_dec.data(), W_dec16.data());
  }

  Size s;
  OnDevice<float> x, centred, residuals, b_dec, W_enc, W_dec, b_enc, g_enc, g_dec, g_b_enc, g_b_dec,
      m_enc, v_enc, m_dec, v_dec, m_b, v_b, values, dots;
  OnDevice<std::uint16_t> x16, residuals16, W_enc16, W_dec16;
  OnDevice<std::int32_t> indices, pair_rows, pair_slots;
  OnDevice<std::int64_t> row_offsets, offsets, not_numbers;
  OnDevice<double> factors, sums, squares;
  OnDevice<UpdateControl> control;
};

/// Milliseconds: median and least of `repeats` after two that are not counted.
std::array<double, 2> time_of(const std::function<void()>& work, int repeats) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = -2; i < repeats; ++i) {
    check(cudaEventRecord(begin));
    work();
    check(cudaEventRecord(end));
    check(cudaEventSynchronize(end));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 0) times.push_back(milliseconds);
  }
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times[0]};
}

int run(const Size& size, int repeats) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0));
  Step step(size);
  const auto kernels = step.kernels();
  const auto whole = [&] {
    for (const auto& [name, work] : kernels) work();
  };
  whole();  // every kernel meets what its predecessor leaves
  std::string lines;
  const auto add = [&](const char* name, const std::array<double, 2>& time) {
    lines += fmt::format("{}\n    \"{}\": {{\"median_ms\": {:.4f}, \"least_ms\": {:.4f}}}",
                         lines.empty() ? "" : ",", name, time[0], time[1]);
  };
  for (const auto& [name, work] : kernels) add(name, time_of(work, repeats));
  add("step", time_of(whole, repeats));
  add("encode_topk_float32", time_of([&] { step.encode_float32(); }, std::min(repeats, 3)));
  fmt::print(
      "{{\n  \"device\": \"{}\", \"compute_capability\": \"{}.{}\",\n  \"size\": \"{}\", \"d\": "
      "{}, "
      "\"n_latents\": {}, \"rows\": {}, \"k\": {},\n  \"repeats\": {},\n  \"kernels\": {{{}\n  "
      "}}\n}}\n",
      properties.name, properties.major, properties.minor, size.name, size.d, size.n, size.rows,
      size.k, repeats, lines);
  return 0;
}

}  // namespace
}  // namespace thresher::kernels

int main(int argc, char** argv) {
  const char name = argc > 1 ? argv[1][0] : 'G';
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 20;
  try {
    for (const auto& size : thresher::kernels::kSizes) {
      if (size.name == name && repeats > 0) return thresher::kernels::run(size, repeats);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_bench: %s\n", error.what());
    return 1;
  }
  std::fprintf(stderr, "usage: gpu_bench [A|B|C|G] [REPEATS]\n");
  return 64;
}
