// Time of every CPU kernel at the sizes of a small training step, one thread and two. Run on a
// quiet machine.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "core/random.h"
#include "kernels/adam.h"
#include "kernels/decoder_norm.h"
#include "kernels/parallel.h"
#include "kernels/reference.h"
#include "kernels/sparse_decode.h"
#include "kernels/topk.h"

namespace thresher::kernels {
namespace {

constexpr std::int64_t kRows = 1024, kLatents = 2304, kDims = 576, kKept = 32;

std::vector<float> normals(std::int64_t count, std::string_view purpose) {
  const RandomStream stream(1, purpose);
  std::vector<float> out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(stream.normal(i));
  return out;
}

/// What one lane of a TopK step holds after its encoder product.
struct Lane {
  Lane() {
    topk({}, kRows, kLatents, kKept, pre_acts.data(), values.data(), indices.data());
    for (std::int64_t r = 0; r <= kRows; ++r) row_offsets.push_back(r * kKept);
    sort_pairs_by_latent(kRows, kLatents, row_offsets.data(), indices.data(), values.data(),
                         offsets.data(), pair_rows.data(), pair_slots.data());
  }
  std::vector<float> pre_acts = normals(kRows * kLatents, "pre_acts");
  std::vector<float> x = normals(kRows * kDims, "x");
  std::vector<float> W = normals(kLatents * kDims, "W");
  std::vector<float> gradient = normals(kLatents * kDims, "gradient");
  std::vector<float> m = gradient, v = std::vector<float>(gradient.size(), 1.0f);
  std::vector<float> values = std::vector<float>(kRows * kKept);
  std::vector<std::int32_t> indices = std::vector<std::int32_t>(kRows * kKept);
  std::vector<std::int64_t> row_offsets;
  std::vector<std::int64_t> offsets = std::vector<std::int64_t>(kLatents + 1);
  std::vector<std::int32_t> pair_rows = indices, pair_slots = indices;
  std::vector<float> out_rows = x, out_values = values, out_weights = W;
  std::vector<double> factors = std::vector<double>(kLatents);
  std::vector<float> out_bias = std::vector<float>(kLatents);
};

void measure(benchmark::State& state, void (*work)(Lane&)) {
  set_num_threads(static_cast<int>(state.range(0)));
  Lane lane;
  for (auto _ : state) work(lane);
  state.SetItemsProcessed(state.iterations() * kRows);
  set_num_threads(1);
}

void select(Lane& lane) {
  topk({}, kRows, kLatents, kKept, lane.pre_acts.data(), lane.out_values.data(),
       lane.indices.data());
}
void select_reference(Lane& lane) {
  reference::topk(kRows, kLatents, kKept, lane.pre_acts.data(), nullptr, lane.out_values.data(),
                  lane.indices.data());
}
void decode(Lane& lane) {
  sparse_decode({}, kRows, kDims, lane.row_offsets.data(), lane.indices.data(), lane.values.data(),
                lane.W.data(), nullptr, lane.out_rows.data());
}
void value_gradients(Lane& lane) {
  sparse_decode_grad_values({}, kRows, kDims, lane.row_offsets.data(), lane.indices.data(),
                            lane.x.data(), lane.W.data(), lane.out_values.data());
}
void residuals(Lane& lane) {
  sparse_residuals({}, kRows, kDims, lane.row_offsets.data(), lane.indices.data(),
                   lane.values.data(), lane.W.data(), nullptr, lane.x.data(), lane.out_rows.data(),
                   lane.out_values.data());
}
void sort_pairs(Lane& lane) {
  sort_pairs_by_latent(kRows, kLatents, lane.row_offsets.data(), lane.indices.data(),
                       lane.values.data(), lane.offsets.data(), lane.pair_rows.data(),
                       lane.pair_slots.data());
}
void weight_gradients(Lane& lane) {
  const LatentPairs pairs{
      lane.offsets.data(), lane.pair_rows.data(), lane.pair_slots.data(), lane.values.data(),
      lane.values.data(),  lane.x.data(),         lane.x.data(),          kRows};
  accumulate_gradients({}, kLatents, kDims, 1, &pairs, lane.out_weights.data(),
                       lane.gradient.data(), lane.out_bias.data());
}
void normalise(Lane& lane) { normalise_rows({}, kLatents, kDims, lane.W.data()); }
void components(Lane& lane) {
  benchmark::DoNotOptimize(parallel_components({}, kLatents, kDims, lane.W.data(),
                                               lane.gradient.data(), lane.factors.data()));
}
void update_unit_rows(Lane& lane) {
  adam_unit_rows({}, {1e-4, 0.9, 0.999, 1e-8, 10, 1.0}, kLatents, kDims, lane.gradient.data(),
                 lane.factors.data(), true, lane.W.data(), lane.m.data(), lane.v.data());
}
void squares(Lane& lane) {
  benchmark::DoNotOptimize(sum_of_squares({}, kLatents, kDims, lane.gradient.data()));
}
void update(Lane& lane) {
  adam({}, {1e-4, 0.9, 0.999, 1e-8, 10, 1.0}, kLatents * kDims, lane.gradient.data(), lane.W.data(),
       lane.m.data(), lane.v.data());
}

#define THRESHER_BENCH(work)             \
  BENCHMARK_CAPTURE(measure, work, work) \
      ->Arg(1)                           \
      ->Arg(2)                           \
      ->Unit(benchmark::kMillisecond)    \
      ->UseRealTime()

THRESHER_BENCH(select);
THRESHER_BENCH(select_reference);
THRESHER_BENCH(decode);
THRESHER_BENCH(value_gradients);
THRESHER_BENCH(residuals);
THRESHER_BENCH(sort_pairs);
THRESHER_BENCH(weight_gradients);
THRESHER_BENCH(normalise);
THRESHER_BENCH(components);
THRESHER_BENCH(update_unit_rows);
THRESHER_BENCH(squares);
THRESHER_BENCH(update);

}  // namespace
}  // namespace thresher::kernels

BENCHMARK_MAIN();
