// Measures whether LibTorch's products, selections and reductions give the same bits over numbers
// of threads and over numbers of rows made at once. docs/decisions/0001-bits-and-threads.md holds
// the answer and what follows.
//
//     numerics_check [d_in n_latents [threads]]

#include <ATen/ATen.h>
#include <ATen/Config.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#include <torch/headeronly/version.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace {

constexpr std::int64_t kRows = 1024;
const std::vector<std::int64_t> kLaneRows{1024, 512, 256, 128, 64, 32};

struct Inputs {
  at::Tensor x;            // [rows, d_in]
  at::Tensor latent_acts;  // [rows, n_latents], dense
  at::Tensor W_enc;        // [d_in, n_latents]
  at::Tensor W_enc_t;      // the same numbers stored as [n_latents, d_in]
  at::Tensor W_dec;        // [n_latents, d_in]
  at::Tensor bias;         // [n_latents]
};

struct Operation {
  std::string name;
  bool has_rows;  // the result has one row a token: lanes can be laid end to end
  std::function<at::Tensor(const Inputs&)> run;
};

std::vector<Operation> operations() {
  return {
      {"encode, NN: x W_enc", true, [](const Inputs& in) { return at::mm(in.x, in.W_enc); }},
      {"encode, NT: x W_enc, stored by latent", true,
       [](const Inputs& in) { return at::mm(in.x, in.W_enc_t.t()); }},
      {"encode with bias: addmm", true,
       [](const Inputs& in) { return at::addmm(in.bias, in.x, in.W_enc); }},
      {"bias added apart", true, [](const Inputs& in) { return in.latent_acts + in.bias; }},
      {"decode, NN: acts W_dec", true,
       [](const Inputs& in) { return at::mm(in.latent_acts, in.W_dec); }},
      {"grad of acts, NT: x W_dec^T", true,
       [](const Inputs& in) { return at::mm(in.x, in.W_dec.t()); }},
      {"top-32 values", true,
       [](const Inputs& in) { return std::get<0>(at::topk(in.latent_acts, 32, 1)); }},
      {"top-32 indices", true,
       [](const Inputs& in) { return std::get<1>(at::topk(in.latent_acts, 32, 1)); }},
      {"row norms", true, [](const Inputs& in) { return in.x.norm(2, {1}); }},
      {"row sums", true, [](const Inputs& in) { return in.latent_acts.sum({1}); }},
      {"grad of W_enc, TN: x^T acts", false,
       [](const Inputs& in) { return at::mm(in.x.t(), in.latent_acts); }},
      {"grad of W_dec, TN: acts^T x", false,
       [](const Inputs& in) { return at::mm(in.latent_acts.t(), in.x); }},
      {"column sums", false, [](const Inputs& in) { return in.latent_acts.sum({0}); }},
      {"full sum", false, [](const Inputs& in) { return in.latent_acts.sum(); }},
      {"full sum in float64", false,
       [](const Inputs& in) { return in.latent_acts.sum(at::kDouble); }},
      {"full mean of squares", false, [](const Inputs& in) { return in.x.square().mean(); }},
      {"full norm", false, [](const Inputs& in) { return in.latent_acts.norm(); }},
  };
}

bool same_bits(const at::Tensor& left, const at::Tensor& right) {
  const at::Tensor a = left.contiguous(), b = right.contiguous();
  return a.sizes() == b.sizes() &&
         std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

/// The operation on every lane apart; one result a lane.
std::vector<at::Tensor> by_lane(const Operation& operation, const Inputs& in,
                                std::int64_t lane_rows) {
  std::vector<at::Tensor> results;
  for (std::int64_t start = 0; start < kRows; start += lane_rows) {
    Inputs lane = in;
    lane.x = in.x.narrow(0, start, lane_rows);
    lane.latent_acts = in.latent_acts.narrow(0, start, lane_rows);
    results.push_back(operation.run(lane));
  }
  return results;
}

/// Adds lanes along the binary tree, for results that are sums over tokens.
at::Tensor tree(std::vector<at::Tensor> lanes) {
  while (lanes.size() > 1) {
    for (std::size_t i = 0; i < lanes.size() / 2; ++i) lanes[i] = lanes[2 * i] + lanes[2 * i + 1];
    lanes.resize(lanes.size() / 2);
  }
  return lanes[0];
}

void report(const Operation& operation, const Inputs& in, int threads) {
  std::string thread_cells, lane_cells;
  at::set_num_threads(1);
  const at::Tensor whole = operation.run(in);
  for (const std::int64_t lane_rows : kLaneRows) {
    at::set_num_threads(1);
    const auto single = by_lane(operation, in, lane_rows);
    at::set_num_threads(threads);
    const auto several = by_lane(operation, in, lane_rows);
    bool is_same = true;
    for (std::size_t i = 0; i < single.size(); ++i) is_same &= same_bits(single[i], several[i]);
    thread_cells += fmt::format(" {} |", is_same ? "same" : "**differs**");
    const at::Tensor joined = operation.has_rows ? at::cat(single) : tree(single);
    lane_cells += fmt::format(" {} |", same_bits(joined, whole) ? "same" : "differs");
  }
  fmt::print("| {} | 1 against {} threads |{}\n", operation.name, threads, thread_cells);
  fmt::print("| | {} against all rows at once |{}\n",
             operation.has_rows ? "lanes end to end" : "tree over lanes", lane_cells);
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t d_in = argc > 2 ? std::atoll(argv[1]) : 576;
  const std::int64_t n_latents = argc > 2 ? std::atoll(argv[2]) : 2304;
  const int threads = argc > 3 ? std::atoi(argv[3]) : 2;
  at::manual_seed(1);
  Inputs in;
  in.x = at::randn({kRows, d_in});
  in.latent_acts = at::randn({kRows, n_latents});
  in.W_enc = at::randn({d_in, n_latents});
  in.W_enc_t = in.W_enc.t().contiguous();
  in.W_dec = at::randn({n_latents, d_in});
  in.bias = at::randn({n_latents});
  fmt::print("LibTorch {}, CPU capability {}, {} rows, d_in {}, n_latents {}\n\n", TORCH_VERSION,
             at::get_cpu_capability(), kRows, d_in, n_latents);
  std::string head = "| operation | compared, for lanes of |", rule = "| --- | --- |";
  for (const std::int64_t lane_rows : kLaneRows) {
    head += fmt::format(" {} |", lane_rows);
    rule += " --- |";
  }
  fmt::print("{}\n{}\n", head, rule);
  for (const Operation& operation : operations()) report(operation, in, threads);
  return 0;
}
