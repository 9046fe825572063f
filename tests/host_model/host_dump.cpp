// Runs a host model over given tokens and writes what the oracle (host_oracle.py) compares: one raw
// float32 file for each hook point, `logits` as float32 and `losses` (of token i + 1 at token i,
// flat) as float64.
//
//     host_dump [--dtype bfloat16] MODEL BATCH.i64 CONTEXTS CONTEXT_TOKENS OUT_FOLDER HOOK_POINT...
//     host_dump [--dtype bfloat16] --time THREADS REPEATS MODEL BATCH.i64 CONTEXTS CONTEXT_TOKENS
//     HOOK_POINT|losses
//
// MODEL is what host_model.weights takes. BATCH.i64 holds token_ids, positions and documents, each [CONTEXTS, CONTEXT_TOKENS] int64. --time
// prints the wall and the CPU seconds of each repeat, after one that is not counted.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "host_model/host_model.h"

namespace {

using namespace thresher;
using namespace thresher::host_model;

TokenBatch read_batch(const std::string& path, std::int64_t contexts, std::int64_t context_tokens) {
  const auto bytes = read_binary_file(path, 1ULL << 30);
  at::Tensor all = at::empty({3, contexts, context_tokens}, at::kLong);
  THRESHER_CHECK(bytes.size() == all.nbytes(), "the batch file has another size");
  std::memcpy(all.mutable_data_ptr(), bytes.data(), bytes.size());
  return {all[0], all[1], all[2]};
}

void write(const std::filesystem::path& path, const at::Tensor& values) {
  const at::Tensor plain = values.contiguous();
  write_file_atomically(path,
                        {static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()});
}

at::Tensor losses_of(HostModel& model, const at::Tensor& rows, const TokenBatch& batch) {
  const at::Tensor ids = batch.token_ids.reshape({-1});
  return next_token_losses(model, rows.narrow(0, 0, rows.size(0) - 1),
                           ids.narrow(0, 1, ids.size(0) - 1));
}

int dump(const std::string& dtype, const std::vector<std::string>& args) {
  const auto model = load_host_model({.weights = args[0], .dtype = dtype});
  const TokenBatch batch = read_batch(args[1], std::stoll(args[2]), std::stoll(args[3]));
  const std::filesystem::path folder = args[4];
  ForwardRequest request;
  request.want_final = true;
  for (std::size_t i = 5; i < args.size(); ++i) {
    request.hooks[HookPoint::parse(args[i])] = [&, name = args[i]](const at::Tensor& activation) {
      write(folder / name, activation);
      return at::Tensor();
    };
  }
  const at::Tensor rows = model->forward(batch, request);
  write(folder / "logits", model->unembed(rows));
  write(folder / "losses", losses_of(*model, rows, batch));
  return 0;
}

int time_passes(const std::string& dtype, const std::vector<std::string>& args) {
  at::set_num_threads(std::stoi(args[0]));
  const auto model = load_host_model({.weights = args[2], .dtype = dtype});
  const TokenBatch batch = read_batch(args[3], std::stoll(args[4]), std::stoll(args[5]));
  ForwardRequest request;
  request.want_final = args[6] == "losses";
  if (!request.want_final) {
    request.hooks[HookPoint::parse(args[6])] = [](const at::Tensor&) { return at::Tensor(); };
  }
  for (int repeat = 0; repeat <= std::stoi(args[1]); ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t cpu_start = std::clock();
    const at::Tensor rows = model->forward(batch, request);
    if (request.want_final) losses_of(*model, rows, batch);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const double cpu_seconds = static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC;
    if (repeat > 0) fmt::print("{:.4f} {:.4f}\n", seconds.count(), cpu_seconds);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> args(argv + 1, argv + argc);
  std::string dtype = "float32";
  if (args.size() > 2 && args[0] == "--dtype") {
    dtype = args[1];
    args.erase(args.begin(), args.begin() + 2);
  }
  try {
    if (args.size() == 8 && args[0] == "--time") {
      return time_passes(dtype, {args.begin() + 1, args.end()});
    }
    if (args.size() >= 5) return dump(dtype, args);
    std::fputs(
        "usage: host_dump [--dtype D] MODEL BATCH.i64 CONTEXTS CONTEXT_TOKENS OUT_FOLDER "
        "HOOK_POINT...\n",
        stderr);
    return 64;
  } catch (const thresher::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return static_cast<int>(error.code());
  }
}
