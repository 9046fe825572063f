// measure_sae CACHE_DIR SAE_DIR: reconstruction metrics of a saved SAE on one thousand rows of a cache, as JSON.
#include <ATen/ATen.h>

#include <cstdio>
#include <span>

#include "activation_cache/cache.h"
#include "core/error.h"
#include "sae/inference_sae.h"
#include "sae/metrics.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: measure_sae CACHE_DIR SAE_DIR\n");
    return 64;
  }
  try {
    const auto source = thresher::activation_cache::open_cache_source(argv[1]);
    const thresher::sae::InferenceSae sae = thresher::sae::load_saelens(argv[2]);
    const auto hook = source->hook_index(sae.metadata.at("hook_name").as_string());

    const std::int64_t n_rows = 1000;
    auto x = at::empty({n_rows, sae.d_in()}, at::kFloat);
    source->sample_rows(hook, /*seed=*/1, n_rows, {x.mutable_data_ptr<float>(), static_cast<std::size_t>(x.numel())});

    const auto latent_acts = sae.encode_dense(x);
    thresher::sae::ReconstructionMetrics metrics(sae.d_in(), sae.n_latents());
    metrics.add(x, sae.decode_dense(latent_acts), latent_acts);
    std::printf("%s\n", metrics.json().dump().c_str());
  } catch (const thresher::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
