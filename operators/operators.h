#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

/// The kernels as PyTorch operators, namespace `thresher` (docs/operators.md):
///
///     torch.ops.load_library("build/cpu-release/lib/libthresher_operators.so")
///     values, indices = torch.ops.thresher.encode_topk(x, W_enc, b_enc, k)
///     recon = torch.ops.thresher.sparse_decode(indices, values, W_dec, b_dec)
///
/// All tensors are on the CPU or all on one CUDA device (which needs a build with THRESHER_CUDA),
/// in float32 where nothing else is said; another dtype, device or shape is a RuntimeError. On CUDA
/// the work goes to PyTorch's current stream and no call waits for it. Gradients of first order, of
/// all float arguments; neither operator makes a [rows, n_latents] matrix.
namespace thresher::operators {

/// x [rows, d] and W_enc [d, n_latents] in float32 or both in bfloat16 (tensor cores on CUDA; sums,
/// b_enc and values are float32 anyhow); W_enc best a transposed view of a contiguous [n_latents,
/// d] (else it is copied); b_enc [n_latents]. Returns the k largest of x W_enc + b_enc of every
/// row: values [rows, k], largest first, and indices [rows, k] int64; equal values are ordered by
/// index. If a pre-activation is NaN, which is never selected: a RuntimeError on the CPU; on CUDA,
/// where the call does not wait, all values are NaN.
std::tuple<at::Tensor, at::Tensor> encode_topk(const at::Tensor& x, const at::Tensor& W_enc,
                                               const at::Tensor& b_enc, std::int64_t k);

/// recon [rows, d] = b_dec + sum over k of values[r, k] * W_dec[indices[r, k]]. indices [rows, k]
/// int64, each in [0, n_latents) (else an IndexError, on CUDA a device-side assertion); a value of
/// exactly 0 adds nothing, whatever its index. W_dec [n_latents, d]; b_dec [d] or none.
at::Tensor sparse_decode(const at::Tensor& indices, const at::Tensor& values,
                         const at::Tensor& W_dec, const std::optional<at::Tensor>& b_dec);

/// Out [n_latents, d], row i the sum of coefficients[r, j] * rows[r] where indices[r, j] = i; the
/// order is fixed, so are the bits. What both gradients of the weights are made of.
at::Tensor sum_by_latent(const at::Tensor& indices, const at::Tensor& coefficients,
                         const at::Tensor& rows, std::int64_t n_latents);

/// Out [rows, k]: dot(rows[r], W[indices[r, j]]). W [n_latents, d].
at::Tensor dots_by_latent(const at::Tensor& indices, const at::Tensor& rows, const at::Tensor& W);

}  // namespace thresher::operators
