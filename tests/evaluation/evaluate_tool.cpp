// evaluate_tool FOLDER: evaluates the candidates that evaluation_oracle.py describes in
// FOLDER/setting.json, on a TinyHost with the weights beside it, and prints the result as JSON.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdio>
#include <cstring>
#include <exception>

#include "core/files.h"
#include "evaluation/baselines.h"
#include "evaluation/evaluation.h"
#include "tests/evaluation/tiny_host.h"

namespace thresher {
namespace {

using std::filesystem::path;

template <class T>
std::vector<T> read_values(const path& file) {
  const std::vector<std::byte> bytes = read_binary_file(file, 1ULL << 26);
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

at::Tensor read_tensor(const path& file, std::vector<std::int64_t> shape) {
  const auto values = read_values<float>(file);
  return at::from_blob(const_cast<float*>(values.data()), shape, at::kFloat).clone();
}

testing::TinyHost read_host(const path& folder, const Json& setting) {
  const std::int64_t d = setting.at("d_model").as_int();
  const std::int64_t n_vocabulary = setting.at("n_vocabulary").as_int();
  std::vector<testing::TinyBlock> blocks;
  for (std::int64_t b = 0; b < setting.at("n_blocks").as_int(); ++b) {
    const std::string number = std::to_string(b);
    blocks.push_back({read_tensor(folder / ("A" + number), {d, d}),
                      read_tensor(folder / ("M" + number), {d, d})});
  }
  return {read_tensor(folder / "embedding", {n_vocabulary, d}), blocks,
          read_tensor(folder / "U", {d, n_vocabulary})};
}

evaluation::Candidate read_candidate(const path& folder, const Json& entry, std::int64_t d) {
  const std::string& name = entry.at("name").as_string();
  const std::string& hook_point = entry.at("hook_point").as_string();
  const std::string& architecture = entry.at("architecture").as_string();
  const auto file = [&](const char* tensor) { return folder / (name + "." + tensor); };
  if (architecture == "pca") {
    const std::int64_t k = entry.at("k").as_int();
    return evaluation::pca_candidate(
        {read_tensor(file("mean"), {d}), read_tensor(file("directions"), {d, k})}, "topk-4",
        hook_point);
  }
  const std::int64_t n = entry.at("n_latents").as_int();
  sae::InferenceSae sae;
  sae.architecture = architecture;
  sae.apply_b_dec_to_input = architecture == "topk";
  sae.k = architecture == "topk" ? entry.at("k").as_int() : 0;
  sae.W_enc = read_tensor(file("W_enc"), {d, n});
  sae.b_enc = read_tensor(file("b_enc"), {n});
  sae.W_dec = read_tensor(file("W_dec"), {n, d});
  sae.b_dec = read_tensor(file("b_dec"), {d});
  if (architecture == "jumprelu") sae.threshold = read_tensor(file("threshold"), {n});
  return evaluation::sae_candidate(name, hook_point, sae);
}

Json evaluate_folder(const path& folder) {
  const Json setting = Json::parse(read_text_file(folder / "setting.json"), "setting.json");
  const std::int64_t d = setting.at("d_model").as_int();
  testing::TinyHost host = read_host(folder, setting);

  corpus::PackedContexts packed;
  packed.context_tokens = setting.at("context_tokens").as_int();
  packed.n_contexts = setting.at("n_contexts").as_int();
  packed.token_ids = read_values<std::int32_t>(folder / "token_ids");
  packed.positions = read_values<std::int32_t>(folder / "positions");
  packed.documents = read_values<std::int32_t>(folder / "documents");

  evaluation::EvaluationContext context;
  context.cache.drop_first_positions = setting.at("drop_first_positions").as_int();
  for (const Json& name : setting.at("hook_points").as_array()) {
    context.cache.hook_points.push_back(name.as_string());
    context.training_means.push_back(read_values<double>(folder / ("mean." + name.as_string())));
  }
  for (const Json& limit : setting.at("norm_limits").as_array())
    context.norm_limits.push_back(limit.as_double());
  std::vector<evaluation::Candidate> candidates;
  for (const Json& entry : setting.at("candidates").as_array()) {
    candidates.push_back(read_candidate(folder, entry, d));
  }
  const testing::PlainTokenizer tokenizer(
      {static_cast<std::int32_t>(setting.at("special_id").as_int())});
  evaluation::EvaluationConfig config;
  config.tokens = packed.n_contexts * packed.context_tokens;
  const auto comm = comm::make_self_communicator();
  return evaluation::evaluate(config, candidates, context, packed, tokenizer, host, *comm);
}

}  // namespace
}  // namespace thresher

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: evaluate_tool FOLDER\n");
    return 64;
  }
  try {
    at::set_num_threads(1);
    std::printf("%s\n", thresher::evaluate_folder(argv[1]).dump(1).c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
