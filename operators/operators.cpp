#include "operators/operators.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>

#include <limits>

#include "kernels/encode_topk.h"
#include "kernels/parallel.h"
#include "kernels/sparse_decode.h"

namespace thresher::operators {
namespace {

void check_shape(const at::Tensor& tensor, const char* what, std::int64_t dim) {
  TORCH_CHECK(tensor.dim() == dim, what, " has shape ", tensor.sizes(), "; expected ", dim,
              " dimensions");
}

void check_float(const at::Tensor& tensor, const char* what, std::int64_t dim) {
  TORCH_CHECK(tensor.scalar_type() == at::kFloat, what, " is ", tensor.scalar_type(),
              "; expected float32");
  check_shape(tensor, what, dim);
}

/// PyTorch's own kernels refuse tensors of two devices; so do these.
void check_device(const at::Tensor& tensor, const char* what, const at::Tensor& like) {
  TORCH_CHECK(tensor.device() == like.device(), what, " is on ", tensor.device(), "; expected ",
              like.device());
}

/// The work of one call: its device is the current one, and on CUDA all is put on PyTorch's current
/// stream there.
class Call {
 public:
  explicit Call(const at::Tensor& tensor) : guard_(tensor.device()) {
    if (tensor.is_cpu()) {
      kernels::set_num_threads(at::get_num_threads());
      return;
    }
    const c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
    exec = {Device::kCuda, cuda.getStream(tensor.device()).native_handle()};
  }
  kernels::Exec exec;

 private:
  c10::DeviceGuard guard_;
};

/// int32 and in range, where the pair counts. On CUDA a latent out of range ends the process's work
/// on the device with an assertion, as PyTorch's own indexing does.
at::Tensor checked_indices(const at::Tensor& indices, const at::Tensor& values,
                           std::int64_t n_latents) {
  TORCH_CHECK(indices.scalar_type() == at::kLong, "indices are ", indices.scalar_type(),
              "; expected int64");
  check_device(indices, "indices", values);
  TORCH_CHECK(indices.dim() == 2 && indices.sizes() == values.sizes(), "indices have shape ",
              indices.sizes(), ", values ", values.sizes(), "; expected [rows, k] both");
  const at::Tensor flat = indices.contiguous();
  if (flat.is_cpu()) {
    const auto* index = flat.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < flat.numel(); ++i) {
      TORCH_CHECK_INDEX(index[i] >= 0 && index[i] < n_latents, "latent ", index[i],
                        " is out of range; expected 0 to ", n_latents - 1);
    }
  } else {
    at::_assert_async(flat.ge(0).logical_and_(flat.lt(n_latents)).all(),
                      "a latent is out of range");
  }
  return flat.to(at::kInt);
}

at::Tensor row_offsets(std::int64_t rows, std::int64_t k, const at::Tensor& like) {
  return at::arange(rows + 1, like.options().dtype(at::kLong)).mul_(k);
}

template <class T>
const T* data_of(const at::Tensor& tensor) {
  return tensor.const_data_ptr<T>();
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> encode_topk(const at::Tensor& x, const at::Tensor& W_enc,
                                               const at::Tensor& b_enc, std::int64_t k) {
  const bool is_narrow = x.scalar_type() == at::kBFloat16;
  TORCH_CHECK(is_narrow || x.scalar_type() == at::kFloat, "x is ", x.scalar_type(),
              "; expected float32 or bfloat16");
  TORCH_CHECK(W_enc.scalar_type() == x.scalar_type(), "W_enc is ", W_enc.scalar_type(),
              "; expected x's ", x.scalar_type());
  check_shape(x, "x", 2);
  check_shape(W_enc, "W_enc", 2);
  check_float(b_enc, "b_enc", 1);
  check_device(W_enc, "W_enc", x);
  check_device(b_enc, "b_enc", x);
  const std::int64_t rows = x.size(0), d = x.size(1), n_latents = W_enc.size(1);
  TORCH_CHECK(d >= 1 && W_enc.size(0) == d && b_enc.size(0) == n_latents, "x ", x.sizes(),
              ", W_enc ", W_enc.sizes(), ", b_enc ", b_enc.sizes(),
              "; expected [rows, d], [d, n_latents], [n_latents]");
  TORCH_CHECK(k >= 1 && k <= n_latents, "k is ", k, "; expected 1 to ", n_latents);
  const Call call(x);
  const at::Tensor inputs = x.contiguous(), by_latent = W_enc.t().contiguous(),
                   bias = b_enc.contiguous();
  at::Tensor values = at::empty({rows, k}, b_enc.options());
  at::Tensor indices = at::empty({rows, k}, b_enc.options().dtype(at::kInt));
  at::Tensor not_numbers = at::zeros({1}, b_enc.options().dtype(at::kLong));
  kernels::encode_topk(
      call.exec,
      {rows, d, n_latents,
       is_narrow ? kernels::OperandType::kBFloat16 : kernels::OperandType::kFloat32,
       inputs.const_data_ptr(), by_latent.const_data_ptr(), data_of<float>(bias)},
      {k, values.mutable_data_ptr<float>(), indices.mutable_data_ptr<std::int32_t>()}, nullptr,
      nullptr, not_numbers.mutable_data_ptr<std::int64_t>());
  if (x.is_cpu()) {
    const std::int64_t count = *data_of<std::int64_t>(not_numbers);
    TORCH_CHECK(count == 0, count, " of ", rows * n_latents,
                " pre-activations are NaN; expected finite x, W_enc and b_enc");
  } else {
    // Without waiting for the device: what was not selected is shown by all that was.
    values.masked_fill_(not_numbers.gt(0), std::numeric_limits<double>::quiet_NaN());
  }
  return {values, indices.to(at::kLong)};
}

at::Tensor sparse_decode(const at::Tensor& indices, const at::Tensor& values,
                         const at::Tensor& W_dec, const std::optional<at::Tensor>& b_dec) {
  check_float(values, "values", 2);
  check_float(W_dec, "W_dec", 2);
  check_device(W_dec, "W_dec", values);
  const std::int64_t rows = values.size(0), d = W_dec.size(1);
  const Call call(values);
  const at::Tensor latents = checked_indices(indices, values, W_dec.size(0));
  at::Tensor bias;
  if (b_dec) {
    check_float(*b_dec, "b_dec", 1);
    check_device(*b_dec, "b_dec", values);
    TORCH_CHECK(b_dec->size(0) == d, "b_dec has ", b_dec->size(0), " values; expected ", d);
    bias = b_dec->contiguous();
  }
  const at::Tensor factors = values.contiguous(), W = W_dec.contiguous();
  const at::Tensor offsets = row_offsets(rows, values.size(1), values);
  at::Tensor recon = at::empty({rows, d}, values.options());
  kernels::sparse_decode(call.exec, rows, d, data_of<std::int64_t>(offsets),
                         data_of<std::int32_t>(latents), data_of<float>(factors), data_of<float>(W),
                         b_dec ? data_of<float>(bias) : nullptr, recon.mutable_data_ptr<float>());
  return recon;
}

at::Tensor sum_by_latent(const at::Tensor& indices, const at::Tensor& coefficients,
                         const at::Tensor& rows, std::int64_t n_latents) {
  check_float(coefficients, "coefficients", 2);
  check_float(rows, "rows", 2);
  check_device(rows, "rows", coefficients);
  TORCH_CHECK(rows.size(0) == coefficients.size(0), "rows ", rows.sizes(), ", coefficients ",
              coefficients.sizes(), "; expected as many rows");
  const Call call(rows);
  const at::Tensor latents = checked_indices(indices, coefficients, n_latents);
  const at::Tensor factors = coefficients.contiguous(), values = rows.contiguous();
  const std::int64_t n_rows = rows.size(0);
  const at::Tensor in_rows = row_offsets(n_rows, coefficients.size(1), rows);
  at::Tensor offsets = at::empty({n_latents + 1}, in_rows.options());
  at::Tensor pair_rows = at::empty_like(latents), pair_slots = at::empty_like(latents);
  kernels::sort_pairs_by_latent(call.exec, n_rows, n_latents, latents.numel(),
                                data_of<std::int64_t>(in_rows), data_of<std::int32_t>(latents),
                                data_of<float>(factors), offsets.mutable_data_ptr<std::int64_t>(),
                                pair_rows.mutable_data_ptr<std::int32_t>(),
                                pair_slots.mutable_data_ptr<std::int32_t>());
  at::Tensor out = at::empty({n_latents, rows.size(1)}, rows.options());
  const kernels::LatentPairs lane{data_of<std::int64_t>(offsets),
                                  data_of<std::int32_t>(pair_rows),
                                  data_of<std::int32_t>(pair_slots),
                                  data_of<float>(factors),
                                  nullptr,
                                  data_of<float>(values),
                                  nullptr,
                                  n_rows};
  kernels::accumulate_gradients(call.exec, n_latents, rows.size(1), 1, &lane,
                                out.mutable_data_ptr<float>(), nullptr, nullptr);
  return out;
}

at::Tensor dots_by_latent(const at::Tensor& indices, const at::Tensor& rows, const at::Tensor& W) {
  check_float(rows, "rows", 2);
  check_float(W, "W", 2);
  check_device(W, "W", rows);
  TORCH_CHECK(indices.dim() == 2 && rows.size(0) == indices.size(0) && rows.size(1) == W.size(1),
              "indices ", indices.sizes(), ", rows ", rows.sizes(), ", W ", W.sizes(),
              "; expected [rows, k], [rows, d], [n_latents, d]");
  const Call call(rows);
  at::Tensor out = at::empty(indices.sizes(), rows.options());
  const at::Tensor latents = checked_indices(indices, out, W.size(0));
  const at::Tensor values = rows.contiguous(), by_latent = W.contiguous();
  const at::Tensor offsets = row_offsets(rows.size(0), indices.size(1), rows);
  kernels::sparse_decode_grad_values(call.exec, rows.size(0), rows.size(1),
                                     data_of<std::int64_t>(offsets), data_of<std::int32_t>(latents),
                                     data_of<float>(values), data_of<float>(by_latent),
                                     out.mutable_data_ptr<float>());
  return out;
}

namespace {

// Shapes alone, for torch.compile and torch.export.
std::tuple<at::Tensor, at::Tensor> encode_topk_meta(const at::Tensor& x, const at::Tensor& W_enc,
                                                    const at::Tensor&, c10::SymInt k) {
  (void)W_enc;
  return {at::empty_symint({x.sym_size(0), k}, x.options().dtype(at::kFloat)),
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

void register_kernels(torch::Library& library) {
  library.impl("encode_topk", encode_topk);
  library.impl("sparse_decode", sparse_decode);
  library.impl("sum_by_latent", sum_by_latent);
  library.impl("dots_by_latent", dots_by_latent);
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

TORCH_LIBRARY_IMPL(thresher, CPU, library) { register_kernels(library); }
// In a build without CUDA the kernels say so.
TORCH_LIBRARY_IMPL(thresher, CUDA, library) { register_kernels(library); }

TORCH_LIBRARY_IMPL(thresher, Meta, library) {
  library.impl("encode_topk", encode_topk_meta);
  library.impl("sparse_decode", sparse_decode_meta);
  library.impl("sum_by_latent", sum_by_latent_meta);
  library.impl("dots_by_latent", dots_by_latent_meta);
}

}  // namespace thresher::operators
