#include "operators/operators.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <limits>
#include <vector>

#include "kernels/encode_select.h"
#include "kernels/parallel.h"
#include "kernels/sparse_decode.h"

namespace thresher::operators {
namespace {

void check_float(const at::Tensor& tensor, const char* what, std::int64_t dim) {
  TORCH_CHECK(tensor.device().is_cpu(), what, " is on ", tensor.device(), "; expected the CPU");
  TORCH_CHECK(tensor.scalar_type() == at::kFloat, what, " is ", tensor.scalar_type(),
              "; expected float32");
  TORCH_CHECK(tensor.dim() == dim, what, " has shape ", tensor.sizes(), "; expected ", dim,
              " dimensions");
}

/// int32 and in range, where the pair counts.
std::vector<std::int32_t> checked_indices(const at::Tensor& indices, const at::Tensor& values,
                                          std::int64_t n_latents) {
  TORCH_CHECK(indices.device().is_cpu() && indices.scalar_type() == at::kLong, "indices are ",
              indices.scalar_type(), " on ", indices.device(), "; expected int64 on the CPU");
  TORCH_CHECK(indices.dim() == 2 && indices.sizes() == values.sizes(), "indices have shape ",
              indices.sizes(), ", values ", values.sizes(), "; expected [rows, k] both");
  const at::Tensor flat = indices.contiguous();
  const auto* index = flat.const_data_ptr<std::int64_t>();
  std::vector<std::int32_t> out(static_cast<std::size_t>(flat.numel()));
  for (std::size_t i = 0; i < out.size(); ++i) {
    TORCH_CHECK_INDEX(index[i] >= 0 && index[i] < n_latents, "latent ", index[i],
                      " is out of range; expected 0 to ", n_latents - 1);
    out[i] = static_cast<std::int32_t>(index[i]);
  }
  return out;
}

std::vector<std::int64_t> row_offsets(std::int64_t rows, std::int64_t k) {
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(rows + 1));
  for (std::int64_t r = 0; r <= rows; ++r) offsets[static_cast<std::size_t>(r)] = r * k;
  return offsets;
}

void use_torch_threads() { kernels::set_num_threads(at::get_num_threads()); }

}  // namespace

std::tuple<at::Tensor, at::Tensor> encode_topk(const at::Tensor& x, const at::Tensor& W_enc,
                                               const at::Tensor& b_enc, std::int64_t k) {
  check_float(x, "x", 2);
  check_float(W_enc, "W_enc", 2);
  check_float(b_enc, "b_enc", 1);
  const std::int64_t rows = x.size(0), d = x.size(1), n_latents = W_enc.size(1);
  TORCH_CHECK(W_enc.size(0) == d && b_enc.size(0) == n_latents, "x ", x.sizes(), ", W_enc ",
              W_enc.sizes(), ", b_enc ", b_enc.sizes(),
              "; expected [rows, d], [d, n_latents], [n_latents]");
  TORCH_CHECK(k >= 1 && k <= n_latents, "k is ", k, "; expected 1 to ", n_latents);
  use_torch_threads();
  const at::Tensor inputs = x.contiguous(), by_latent = W_enc.t().contiguous(),
                   bias = b_enc.contiguous();
  at::Tensor values = at::empty({rows, k}, x.options());
  at::Tensor indices = at::empty({rows, k}, x.options().dtype(at::kInt));
  kernels::EncodeSelect select;
  const std::int64_t not_numbers =
      select.topk({rows, d, n_latents, inputs.const_data_ptr<float>(),
                   by_latent.const_data_ptr<float>(), bias.const_data_ptr<float>()},
                  {k, values.mutable_data_ptr<float>(), indices.mutable_data_ptr<std::int32_t>()});
  TORCH_CHECK(not_numbers == 0, not_numbers, " of ", rows * n_latents,
              " pre-activations are NaN; expected finite x, W_enc and b_enc");
  return {values, indices.to(at::kLong)};
}

at::Tensor sparse_decode(const at::Tensor& indices, const at::Tensor& values,
                         const at::Tensor& W_dec, const std::optional<at::Tensor>& b_dec) {
  check_float(values, "values", 2);
  check_float(W_dec, "W_dec", 2);
  const std::int64_t rows = values.size(0), d = W_dec.size(1);
  const std::vector<std::int32_t> latents = checked_indices(indices, values, W_dec.size(0));
  at::Tensor bias;
  if (b_dec) {
    check_float(*b_dec, "b_dec", 1);
    TORCH_CHECK(b_dec->size(0) == d, "b_dec has ", b_dec->size(0), " values; expected ", d);
    bias = b_dec->contiguous();
  }
  use_torch_threads();
  const at::Tensor factors = values.contiguous(), W = W_dec.contiguous();
  at::Tensor recon = at::empty({rows, d}, values.options());
  kernels::sparse_decode({}, rows, d, row_offsets(rows, values.size(1)).data(), latents.data(),
                         factors.const_data_ptr<float>(), W.const_data_ptr<float>(),
                         b_dec ? bias.const_data_ptr<float>() : nullptr,
                         recon.mutable_data_ptr<float>());
  return recon;
}

at::Tensor sum_by_latent(const at::Tensor& indices, const at::Tensor& coefficients,
                         const at::Tensor& rows, std::int64_t n_latents) {
  check_float(coefficients, "coefficients", 2);
  check_float(rows, "rows", 2);
  TORCH_CHECK(rows.size(0) == coefficients.size(0), "rows ", rows.sizes(), ", coefficients ",
              coefficients.sizes(), "; expected as many rows");
  const std::vector<std::int32_t> latents = checked_indices(indices, coefficients, n_latents);
  use_torch_threads();
  const at::Tensor factors = coefficients.contiguous(), values = rows.contiguous();
  const std::int64_t n_rows = rows.size(0);
  const std::vector<std::int64_t> in_rows = row_offsets(n_rows, coefficients.size(1));
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(n_latents + 1));
  std::vector<std::int32_t> pair_rows(latents.size()), pair_slots(latents.size());
  kernels::sort_pairs_by_latent(n_rows, n_latents, in_rows.data(), latents.data(),
                                factors.const_data_ptr<float>(), offsets.data(), pair_rows.data(),
                                pair_slots.data());
  at::Tensor out = at::empty({n_latents, rows.size(1)}, rows.options());
  const kernels::LatentPairs lane{offsets.data(),    pair_rows.data(),
                                  pair_slots.data(), factors.const_data_ptr<float>(),
                                  nullptr,           values.const_data_ptr<float>(),
                                  nullptr,           n_rows};
  kernels::accumulate_gradients({}, n_latents, rows.size(1), 1, &lane,
                                out.mutable_data_ptr<float>(), nullptr, nullptr);
  return out;
}

at::Tensor dots_by_latent(const at::Tensor& indices, const at::Tensor& rows, const at::Tensor& W) {
  check_float(rows, "rows", 2);
  check_float(W, "W", 2);
  TORCH_CHECK(indices.dim() == 2 && rows.size(0) == indices.size(0) && rows.size(1) == W.size(1),
              "indices ", indices.sizes(), ", rows ", rows.sizes(), ", W ", W.sizes(),
              "; expected [rows, k], [rows, d], [n_latents, d]");
  at::Tensor out = at::empty(indices.sizes(), rows.options());
  const std::vector<std::int32_t> latents = checked_indices(indices, out, W.size(0));
  use_torch_threads();
  const at::Tensor values = rows.contiguous(), by_latent = W.contiguous();
  kernels::sparse_decode_grad_values(
      {}, rows.size(0), rows.size(1), row_offsets(rows.size(0), indices.size(1)).data(),
      latents.data(), values.const_data_ptr<float>(), by_latent.const_data_ptr<float>(),
      out.mutable_data_ptr<float>());
  return out;
}

namespace {

// Shapes alone, for torch.compile and torch.export.
std::tuple<at::Tensor, at::Tensor> encode_topk_meta(const at::Tensor& x, const at::Tensor& W_enc,
                                                    const at::Tensor&, c10::SymInt k) {
  (void)W_enc;
  return {at::empty_symint({x.sym_size(0), k}, x.options()),
          at::empty_symint({x.sym_size(0), k}, x.options().dtype(at::kLong))};
}

at::Tensor sparse_decode_meta(const at::Tensor&, const at::Tensor& values, const at::Tensor& W_dec,
                              const std::optional<at::Tensor>&) {
  return at::empty_symint({values.sym_size(0), W_dec.sym_size(1)}, values.options());
}

at::Tensor sum_by_latent_meta(const at::Tensor&, const at::Tensor&, const at::Tensor& rows,
                              c10::SymInt n_latents) {
  return at::empty_symint({n_latents, rows.sym_size(1)}, rows.options());
}

at::Tensor dots_by_latent_meta(const at::Tensor& indices, const at::Tensor& rows,
                               const at::Tensor&) {
  return at::empty_symint(indices.sym_sizes(), rows.options());
}

}  // namespace

TORCH_LIBRARY(thresher, library) {
  library.def("encode_topk(Tensor x, Tensor W_enc, Tensor b_enc, SymInt k) -> (Tensor, Tensor)");
  library.def(
      "sparse_decode(Tensor indices, Tensor values, Tensor W_dec, Tensor? b_dec=None) -> Tensor");
  library.def(
      "sum_by_latent(Tensor indices, Tensor coefficients, Tensor rows, SymInt n_latents) -> "
      "Tensor");
  library.def("dots_by_latent(Tensor indices, Tensor rows, Tensor W) -> Tensor");
}

TORCH_LIBRARY_IMPL(thresher, CPU, library) {
  library.impl("encode_topk", encode_topk);
  library.impl("sparse_decode", sparse_decode);
  library.impl("sum_by_latent", sum_by_latent);
  library.impl("dots_by_latent", dots_by_latent);
}

TORCH_LIBRARY_IMPL(thresher, Meta, library) {
  library.impl("encode_topk", encode_topk_meta);
  library.impl("sparse_decode", sparse_decode_meta);
  library.impl("sum_by_latent", sum_by_latent_meta);
  library.impl("dots_by_latent", dots_by_latent_meta);
}

}  // namespace thresher::operators
