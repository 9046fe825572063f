#include "sae/thread_check.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>

#include "core/log.h"
#include "core/random.h"

namespace thresher::sae {
namespace {

/// Numbers with full mantissas from a short table: quick to make for any size.
at::Tensor numbers(std::int64_t rows, std::int64_t cols, std::string_view purpose) {
  constexpr std::int64_t kPeriod = 4093;  // a prime: no two rows are alike
  const RandomStream stream(0, purpose);
  std::vector<float> table;
  for (std::uint64_t i = 0; i < kPeriod; ++i) table.push_back(static_cast<float>(stream.normal(i)));
  at::Tensor out = at::empty({rows, cols}, at::kFloat);
  auto* values = out.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < rows * cols; ++i)
    values[i] = table[static_cast<std::size_t>(i % kPeriod)];
  return out;
}

ThreadProbe product(std::string_view name, const at::Tensor& left, const at::Tensor& right) {
  return {fmt::format("{} [{}, {}] x [{}, {}]", name, left.size(0), left.size(1), right.size(0),
                      right.size(1)),
          [left, right] { return at::mm(left, right); }};
}

/// Restores the number of threads at the end of the scope.
class ThreadsScope {
 public:
  ThreadsScope() : before_(at::get_num_threads()) {}
  ~ThreadsScope() { at::set_num_threads(before_); }
  ThreadsScope(const ThreadsScope&) = delete;
  ThreadsScope& operator=(const ThreadsScope&) = delete;

 private:
  int before_;
};

}  // namespace

std::vector<ThreadProbe> training_products(std::int64_t lane_rows, std::int64_t d_in,
                                           std::int64_t n_latents) {
  const at::Tensor x = numbers(lane_rows, d_in, "thread_check.x");
  const at::Tensor acts = numbers(lane_rows, n_latents, "thread_check.acts");
  const at::Tensor wide = numbers(d_in, n_latents, "thread_check.W_enc");
  const at::Tensor tall = numbers(n_latents, d_in, "thread_check.W_dec");
  return {
      product("encode", x, wide),
      product("encode, W_enc stored by latent,", x, tall.t()),
      product("decode", acts, tall),
      product("gradient of W_enc", x.t(), acts),
      product("gradient of W_dec", acts.t(), x),
  };
}

std::vector<std::string> probes_that_differ(const std::vector<ThreadProbe>& probes, int threads) {
  const ThreadsScope scope;
  std::vector<std::string> names;
  for (const ThreadProbe& probe : probes) {
    at::set_num_threads(1);
    const at::Tensor single = probe.run().contiguous();
    at::set_num_threads(threads);
    const at::Tensor several = probe.run().contiguous();
    if (std::memcmp(single.const_data_ptr(), several.const_data_ptr(), single.nbytes()) != 0) {
      names.push_back(probe.name);
    }
  }
  return names;
}

int threads_with_fixed_bits(std::int64_t lane_rows, std::int64_t d_in, std::int64_t n_latents,
                            int threads) {
  if (threads <= 1) return 1;
  const auto names = probes_that_differ(training_products(lane_rows, d_in, n_latents), threads);
  if (names.empty()) return threads;
  log_warning(fmt::format(
      "products have other bits with {} threads than with one, so this run uses one: {}", threads,
      fmt::join(names, "; ")));
  return 1;
}

}  // namespace thresher::sae
