// Compares every CUDA kernel with its CPU counterpart on random shapes of small integers, bit for
// bit, without GoogleTest, for machines that have nothing but the CUDA toolkit. Exit code: 0 all
// equal, 1 a difference or an error, 2 no GPU.
//
//   device_check [ROUNDS]

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <string>

#include "tests/kernels/backends.h"
#include "tests/kernels/draws.h"
#include "tests/kernels/random_lanes.h"
#include "tests/kernels/step_backend.h"

namespace thresher::kernels {
namespace {

/// Runs one kernel on both devices and says whether they agree.
using Check = std::function<bool(Draws&)>;

EncodeCase random_encode(Draws& draws, OperandType type) {
  const std::int64_t rows = draws.size(0, 300), d = draws.size(1, 130), n = draws.size(1, 1100);
  EncodeCase in{rows,
                d,
                n,
                type,
                draws.integers(rows * d),
                draws.integers(n * d),
                draws.integers(n),
                std::min(n, draws.size(1, 140)),
                {},
                0};
  if (draws.integer(0, 1) == 0) return in;
  in.mask.assign(static_cast<std::size_t>(n), 0);
  for (auto& open : in.mask) open = draws.integer(0, 2) == 0 ? 1 : 0;
  in.mask[0] = 1;
  in.masked_k = draws.integer(1, std::count(in.mask.begin(), in.mask.end(), 1));
  return in;
}

bool encode_agrees(Draws& draws, OperandType type) {
  const EncodeCase in = random_encode(draws, type);
  const EncodeOut a = cuda_step_backend()->encode_topk(in);
  const EncodeOut b = cpu_step_backend()->encode_topk(in);
  return a.main.indices == b.main.indices && a.main.values == b.main.values &&
         a.masked.indices == b.masked.indices && a.masked.values == b.masked.values &&
         a.not_numbers == b.not_numbers;
}

bool topk_agrees(Draws& draws) {
  const std::int64_t rows = draws.integer(0, 4), cols = draws.size(1, 5000);
  const std::int64_t k = draws.integer(1, std::min<std::int64_t>(cols, 300));
  const auto z = draws.integers(rows * cols);
  const TopKOut a = cuda_backend()->topk(rows, cols, k, z),
                b = cpu_backend()->topk(rows, cols, k, z);
  return a.indices == b.indices && a.values == b.values;
}

struct Slots {
  Offsets offsets;
  std::vector<std::int32_t> indices;
  std::vector<float> values;
};
Slots random_slots(Draws& draws, std::int64_t rows, std::int64_t n_latents) {
  Slots out{draws.row_offsets(rows, draws.size(0, 40)), {}, {}};
  out.indices = draws.latents(out.offsets.back(), n_latents);
  out.values = draws.integers(out.offsets.back());
  return out;
}

bool sort_agrees(Draws& draws) {
  const std::int64_t n = draws.size(1, 600);
  const Slots s = random_slots(draws, draws.size(0, 60), n);
  const std::int64_t room = s.offsets.back() + draws.integer(0, 5);
  const SortedPairs a = cuda_step_backend()->sort_pairs(n, room, s.offsets, s.indices, s.values);
  const SortedPairs b = cpu_step_backend()->sort_pairs(n, room, s.offsets, s.indices, s.values);
  return a.offsets == b.offsets && a.rows == b.rows && a.slots == b.slots;
}

bool decode_agrees(Draws& draws) {
  const std::int64_t rows = draws.size(0, 33), d = draws.size(1, 300), n = draws.size(1, 129);
  const Slots s = random_slots(draws, rows, n);
  const auto W = draws.integers(n * d), x = draws.integers(rows * d), bias = draws.integers(d);
  Backend &cuda = *cuda_backend(), &cpu = *cpu_backend();
  std::vector<std::uint16_t> rounded, cpu_rounded;
  const auto mixed =
      cuda_step_backend()->residuals(d, s.offsets, s.indices, s.values, W, &bias, x, rounded);
  const auto cpu_mixed =
      cpu_step_backend()->residuals(d, s.offsets, s.indices, s.values, W, &bias, x, cpu_rounded);
  const auto a = cuda.residuals(d, s.offsets, s.indices, s.values, W, &bias, x);
  const auto b = cpu.residuals(d, s.offsets, s.indices, s.values, W, &bias, x);
  return a.residuals == b.residuals && a.dots == b.dots && mixed.residuals == cpu_mixed.residuals &&
         mixed.dots == cpu_mixed.dots && rounded == cpu_rounded &&
         cuda.sparse_decode(d, s.offsets, s.indices, s.values, W, &bias) ==
             cpu.sparse_decode(d, s.offsets, s.indices, s.values, W, &bias) &&
         cuda.grad_values(d, s.offsets, s.indices, x, W) ==
             cpu.grad_values(d, s.offsets, s.indices, x, W);
}

bool equal(const Gradients& a, const Gradients& b) {
  return a.W_dec == b.W_dec && a.W_enc == b.W_enc && a.b_enc == b.b_enc;
}

bool gradients_agree(Draws& draws) {
  const std::int64_t n = draws.size(1, 65), d = draws.size(1, 130);
  const std::int64_t n_lanes = std::int64_t{1} << draws.integer(0, 3);
  const std::int64_t rows = draws.integer(0, 4) == 0 ? 1500 : 40;  // many: heavy latents
  const auto lanes = random_lanes(draws, n_lanes, rows, draws.integer(1, 6), n, d, true);
  return equal(cuda_backend()->gradients(n, d, lanes), cpu_backend()->gradients(n, d, lanes)) &&
         equal(cuda_step_backend()->gradients(n, d, lanes[0]),
               cpu_step_backend()->gradients(n, d, lanes[0]));
}

bool sums_agree(Draws& draws) {
  const std::int64_t rows = draws.size(0, 3000), cols = draws.size(1, 200);
  const auto values = draws.integers(rows * cols), factors = draws.integers(rows);
  StepBackend &cuda = *cuda_step_backend(), &cpu = *cpu_step_backend();
  const auto a = cuda.parallel_components(rows, cols, values, values);
  const auto b = cpu.parallel_components(rows, cols, values, values);
  return cuda.sum_of_squares(rows, cols, values) == cpu.sum_of_squares(rows, cols, values) &&
         cuda.column_sums(rows, cols, &factors, values) ==
             cpu.column_sums(rows, cols, &factors, values) &&
         cuda.column_sums(rows, cols, nullptr, values) ==
             cpu.column_sums(rows, cols, nullptr, values) &&
         a.factors == b.factors && a.squares == b.squares;
}

bool updates_agree(Draws& draws) {
  const std::int64_t rows = draws.size(0, 40), cols = draws.size(1, 140);
  AdamArrays start{draws.reals(rows * cols), draws.reals(rows * cols), {}, {}};
  start.v.assign(start.m.size(), 0.5f);
  start.bfloat16.assign(start.m.size(), 0);
  const auto gradient = draws.reals(rows * cols);
  const AdamStep step{1e-2, 0.9, 0.999, 1e-8, 3, 1.0};
  StepBackend &cuda = *cuda_step_backend(), &cpu = *cpu_step_backend();
  const UpdateControl control = cuda.decide_update({4, 9, 3}, draws.integer(0, 1) == 0 ? 1.0 : 9.0);
  const auto factors = cpu.parallel_components(rows, cols, start.weights, gradient).factors;
  AdamArrays a = start, b = start, c = start, e = start;
  cuda.adam(step, control, gradient, a);
  cpu.adam(step, control, gradient, b);
  cuda.adam_unit_rows(step, control, cols, gradient, factors, true, c);
  cpu.adam_unit_rows(step, control, cols, gradient, factors, true, e);
  return a.weights == b.weights && a.m == b.m && a.v == b.v && a.bfloat16 == b.bfloat16 &&
         c.weights == e.weights && c.m == e.m && c.v == e.v && c.bfloat16 == e.bfloat16;
}

int run(int rounds) {
  const std::string reason = cuda_backend()->reason_to_skip();
  if (!reason.empty()) {
    std::printf("device_check: %s\n", reason.c_str());
    return 2;
  }
  const std::pair<const char*, Check> checks[] = {
      {"encode_topk, float32", [](Draws& d) { return encode_agrees(d, OperandType::kFloat32); }},
      {"encode_topk, bfloat16", [](Draws& d) { return encode_agrees(d, OperandType::kBFloat16); }},
      {"topk", topk_agrees},
      {"sort_pairs_by_latent", sort_agrees},
      {"sparse_decode, residuals", decode_agrees},
      {"accumulate_gradients", gradients_agree},
      {"sums", sums_agree},
      {"adam", updates_agree}};
  int failed = 0;
  for (const auto& [name, check] : checks) {
    Draws draws(1234);
    int equal = 0;
    std::string error;
    try {
      for (int round = 0; round < rounds; ++round) equal += check(draws) ? 1 : 0;
    } catch (const std::exception& caught) {
      error = caught.what();
    }
    if (equal < rounds) ++failed;
    std::printf("%-26s %d of %d equal %s\n", name, equal, rounds, error.c_str());
  }
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace thresher::kernels

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 200;
  return thresher::kernels::run(rounds > 0 ? rounds : 200);
}
