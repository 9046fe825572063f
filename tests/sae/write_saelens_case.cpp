// Writes what the Python oracle compares: for every variant, in every form, a trained SAE as
// RUN/sae/NAME would hold it, 1,000 activation vectors with their reconstructions, and the metrics
// of them.
//
//     write_saelens_case OUT   ->  OUT/<case>/{cfg.json, sae_weights.safetensors}
//                                  OUT/<case>.safetensors {x, recon, latent_acts},
//                                  OUT/<case>.metrics.json
//
// jumprelu_norms is a file as another program might have made it: thresholds, and decoder rows of
// all lengths, which our reader folds away.
#include <ATen/ATen.h>

#include <cstdio>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "sae/metrics.h"
#include "sae/training_sae.h"
#include "tests/sae/sae_testing.h"

namespace {

using namespace thresher;  // a test program

constexpr std::int64_t kDim = 64;
constexpr std::int64_t kVectors = 1000;

SafetensorsTensor entry(const char* name, const at::Tensor& tensor) {
  return {name,
          "F32",
          tensor.sizes().vec(),
          {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}};
}

/// Thresholds that silence about half of what is active, and rows of norms between 1/2 and 2.
void make_jumprelu(sae::InferenceSae& sae, const at::Tensor& x) {
  const at::Tensor acts = sae.encode_dense(x);
  const at::Tensor mean = acts.sum(0) / acts.gt(0).sum(0).clamp_min(1);
  const at::Tensor norms = sae::testing::normal_values({sae.n_latents()}, 4).clamp(-1, 1).exp2();
  sae.architecture = "jumprelu";
  sae.threshold = mean;
  sae.W_dec = sae.W_dec * norms.unsqueeze(1);
}

void write_figures(const std::filesystem::path& out, const std::string& name,
                   const sae::InferenceSae& inference, const at::Tensor& x) {
  const at::Tensor latent_acts = inference.encode_dense(x);
  const at::Tensor recon = inference.decode_dense(latent_acts);
  const SafetensorsTensor tensors[] = {entry("x", x), entry("recon", recon),
                                       entry("latent_acts", latent_acts)};
  write_safetensors(out / (name + ".safetensors"), tensors);

  sae::ReconstructionMetrics metrics(kDim, inference.n_latents());
  for (std::int64_t first = 0; first < kVectors; first += 250) {
    metrics.add(x.narrow(0, first, 250), recon.narrow(0, first, 250),
                latent_acts.narrow(0, first, 250));
  }
  write_file_atomically(out / (name + ".metrics.json"), metrics.json().dump(2));
}

void write_case(const std::filesystem::path& out, const std::string& type) {
  const auto config = sae::testing::config_of_case(type);
  config->hook_point = "blocks.3.hook_resid_post";
  config->expansion_factor = 8;
  if (auto* topk = dynamic_cast<sae::TopKConfig*>(config.get())) {
    topk->k = 16;
    if (topk->k_start) topk->k_start = 24;
  }
  if (auto* relu = dynamic_cast<sae::ReluL1Config*>(config.get())) relu->l1_coefficient = 0.3;
  const auto sae = sae::make_training_sae(*config, kDim);
  sae->initialise(5, sae::testing::normal_values({512, kDim}, 1));
  const auto comm = comm::make_self_communicator();
  sae::testing::train(*sae, 60, 256, 4000, 4, *comm);

  sae::InputTransform transform;  // activations with a mean far from 0, as a residual stream has
  const at::Tensor centre = sae::testing::normal_values({kDim}, 2) * 5;
  for (std::int64_t j = 0; j < kDim; ++j) transform.centre.push_back(centre[j].item<double>());
  transform.scale = 0.21;
  const at::Tensor x = sae::testing::normal_values({kVectors, kDim}, 3) / 0.21 + centre;

  sae::InferenceSae inference = sae->to_inference(transform);
  sae::save_saelens(inference, out / type);
  write_figures(out, type, inference, x);
  if (type != "relu_l1") return;
  make_jumprelu(inference, x);
  sae::save_saelens(inference, out / "jumprelu_norms");
  write_figures(out, "jumprelu_norms", sae::load_saelens(out / "jumprelu_norms"), x);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: write_saelens_case OUT\n");
    return 64;
  }
  try {
    make_folders(argv[1]);
    for (const std::string& type : sae::testing::cases()) write_case(argv[1], type);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
