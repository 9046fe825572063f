#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "operators/operators.h"

namespace thresher::operators {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class Signature>
auto operator_handle(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

std::tuple<at::Tensor, at::Tensor> call_encode_topk(const at::Tensor& x, const at::Tensor& W_enc,
                                                    const at::Tensor& b_enc, c10::SymInt k) {
  static const auto handle = operator_handle<decltype(call_encode_topk)>("thresher::encode_topk");
  return handle.call(x, W_enc, b_enc, std::move(k));
}

at::Tensor call_sparse_decode(const at::Tensor& indices, const at::Tensor& values,
                              const at::Tensor& W_dec, const std::optional<at::Tensor>& b_dec) {
  static const auto handle =
      operator_handle<decltype(call_sparse_decode)>("thresher::sparse_decode");
  return handle.call(indices, values, W_dec, b_dec);
}

at::Tensor call_sum_by_latent(const at::Tensor& indices, const at::Tensor& coefficients,
                              const at::Tensor& rows, c10::SymInt n_latents) {
  static const auto handle =
      operator_handle<decltype(call_sum_by_latent)>("thresher::sum_by_latent");
  return handle.call(indices, coefficients, rows, std::move(n_latents));
}

at::Tensor call_dots_by_latent(const at::Tensor& indices, const at::Tensor& rows,
                               const at::Tensor& W) {
  static const auto handle =
      operator_handle<decltype(call_dots_by_latent)>("thresher::dots_by_latent");
  return handle.call(indices, rows, W);
}

/// With z the selected pre-activations and g their gradient: dx = sum of g W_enc[:, i], dW_enc[:,
/// i] = sum of g x, db_enc[i] = sum of g.
struct EncodeTopK : torch::autograd::Function<EncodeTopK> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x,
                               const at::Tensor& W_enc, const at::Tensor& b_enc, c10::SymInt k) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [values, indices] = call_encode_topk(x, W_enc, b_enc, std::move(k));
    context->save_for_backward({x, W_enc, indices});
    context->mark_non_differentiable({indices});
    return {values, indices};
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &W_enc = saved[1], &indices = saved[2];
    const at::Tensor& g = gradients[0];
    const c10::SymInt n_latents = W_enc.sym_size(1);
    at::Tensor dx, dW_enc, db_enc;
    // The sums are float32; a gradient has the type of what it belongs to.
    if (context->needs_input_grad(0)) {
      dx = call_sparse_decode(indices, g, W_enc.t().to(at::kFloat), std::nullopt)
               .to(x.scalar_type());
    }
    if (context->needs_input_grad(1)) {
      dW_enc =
          call_sum_by_latent(indices, g, x.to(at::kFloat), n_latents).to(W_enc.scalar_type()).t();
    }
    if (context->needs_input_grad(2)) {
      db_enc = at::zeros_symint({n_latents}, g.options())
                   .scatter_add(0, indices.reshape({-1}), g.reshape({-1}));
    }
    return {dx, dW_enc, db_enc, at::Tensor()};
  }
};

/// With g the gradient of the reconstruction: dvalues = g . W_dec[i], dW_dec[i] = sum of values g,
/// db_dec = sum of g.
struct SparseDecode : torch::autograd::Function<SparseDecode> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& indices,
                            const at::Tensor& values, const at::Tensor& W_dec,
                            const std::optional<at::Tensor>& b_dec) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({indices, values, W_dec});
    context->saved_data["has_bias"] = b_dec.has_value();
    return call_sparse_decode(indices, values, W_dec, b_dec);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &indices = saved[0], &values = saved[1], &W_dec = saved[2];
    const at::Tensor& g = gradients[0];
    at::Tensor dvalues, dW_dec, db_dec;
    if (values.requires_grad()) dvalues = call_dots_by_latent(indices, g, W_dec);
    if (W_dec.requires_grad()) {
      dW_dec = call_sum_by_latent(indices, values, g, W_dec.sym_size(0));
    }
    if (context->saved_data["has_bias"].toBool()) db_dec = g.sum(0);
    return {at::Tensor(), dvalues, dW_dec, db_dec};
  }
};

std::tuple<at::Tensor, at::Tensor> encode_topk_autograd(const at::Tensor& x,
                                                        const at::Tensor& W_enc,
                                                        const at::Tensor& b_enc, c10::SymInt k) {
  const variable_list out = EncodeTopK::apply(x, W_enc, b_enc, std::move(k));
  return {out[0], out[1]};
}

at::Tensor sparse_decode_autograd(const at::Tensor& indices, const at::Tensor& values,
                                  const at::Tensor& W_dec, const std::optional<at::Tensor>& b_dec) {
  return SparseDecode::apply(indices, values, W_dec, b_dec);
}

}  // namespace

TORCH_LIBRARY_IMPL(thresher, Autograd, library) {
  library.impl("encode_topk", encode_topk_autograd);
  library.impl("sparse_decode", sparse_decode_autograd);
}

}  // namespace thresher::operators
