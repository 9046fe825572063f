// Logits of a text while one intervention acts, for the oracle (intervention_oracle.py):
//
//     intervene_tool MODEL IDS.i64 LOGITS.f32 KIND HOOK_POINT POSITIONS VALUE DIRECTION.f32
//     intervene_tool MODEL IDS.i64 LOGITS.f32 KIND HOOK_POINT POSITIONS VALUE SAE_FOLDER [LATENT]
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "features/intervention.h"

namespace {

using namespace thresher;

at::Tensor read_values(const std::string& path, at::ScalarType type) {
  const auto bytes = read_binary_file(path, 1ULL << 30);
  at::Tensor out =
      at::empty({static_cast<std::int64_t>(bytes.size() / at::elementSize(type))}, type);
  std::memcpy(out.mutable_data_ptr(), bytes.data(), bytes.size());
  return out;
}

void run(const std::vector<std::string>& args) {
  const auto model = host_model::load_host_model({.weights = args[0]});
  const auto tokenizer = corpus::load_tokenizer(args[0]);
  const at::Tensor ids = read_values(args[1], at::kLong).to(at::kInt);
  features::Intervention one;
  one.kind = features::parse_intervention_kind(args[3]);
  one.point = host_model::HookPoint::parse(args[4]);
  one.positions = features::PositionRange::parse(args[5]);
  one.values = {std::stod(args[6])};
  sae::InferenceSae sae;
  if (std::filesystem::is_directory(args[7])) {
    sae = sae::load_saelens(args[7]);
    one.sae = &sae;
    if (args.size() > 8) one.latent = std::stoll(args[8]);
  } else {
    one.direction = read_values(args[7], at::kFloat);
  }
  features::Interventions interventions({one}, {}, *tokenizer, model->info());
  const auto* first = ids.const_data_ptr<std::int32_t>();
  const host_model::PassRows rows = host_model::align_contexts({{first, first + ids.numel()}});
  const auto hooks = interventions.hooks();
  host_model::ForwardRequest request;
  request.hooks = host_model::bind_hooks(hooks, rows);
  request.want_final = true;
  const at::Tensor logits = model->unembed(model->forward(rows.batch, request)).contiguous();
  write_file_atomically(args[2],
                        {static_cast<const std::byte*>(logits.const_data_ptr()), logits.nbytes()});
  fmt::print("{} {}\n", interventions.n_edited(), interventions.n_left_alone());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> args(argv + 1, argv + argc);
    THRESHER_CHECK(args.size() == 8 || args.size() == 9, "see the comment in intervene_tool.cpp");
    run(args);
    return 0;
  } catch (const thresher::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return static_cast<int>(error.code());
  }
}
