// reconstruct_rows SAE_FOLDER IN.safetensors OUT.safetensors: reconstructions "recon" of the rows "x" by a finished SAE.
#include <ATen/ATen.h>

#include <cstdio>

#include "core/error.h"
#include "core/safetensors.h"
#include "sae/inference_sae.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: reconstruct_rows SAE_FOLDER IN.safetensors OUT.safetensors\n");
    return 64;
  }
  try {
    const auto sae = thresher::sae::load_saelens(argv[1]);
    const thresher::SafetensorsFile file(argv[2]);
    std::vector<float> rows = file.read_float32("x");
    const auto n_rows = static_cast<std::int64_t>(rows.size()) / sae.d_in();
    const at::Tensor x = at::from_blob(rows.data(), {n_rows, sae.d_in()}, at::kFloat);
    const at::Tensor recon = sae.reconstruct(x).contiguous();
    const thresher::SafetensorsTensor out{
        "recon",
        "F32",
        {n_rows, sae.d_in()},
        {static_cast<const std::byte*>(recon.const_data_ptr()), recon.nbytes()}};
    thresher::write_safetensors_atomically(argv[3], {&out, 1});
  } catch (const thresher::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
