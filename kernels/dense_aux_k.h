#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cpu_isa.h"
#include "kernels/sparse_decode.h"

namespace thresher::kernels {

/// What AuxK (docs/variants.md) is about: the reconstruction of a step's errors by its dead
/// latents.
struct AuxKProblem {
  std::int64_t d = 0;
  std::int64_t k = 0;                  // at least 1: activations a row, at most dead.size() matter
  std::span<const std::int32_t> dead;  // ascending
  const float* W_enc = nullptr;        // [n_latents, d], latent-major
  const float* b_enc = nullptr;        // [n_latents]
  const float* W_dec = nullptr;        // [n_latents, d]
  float factor = 0;                    // of the gradients: -2 w / (variance of the errors)
};

/// AuxK on dense products of the dead latents alone: where k is no small part of them, that is
/// several times as fast as pairs. With e the errors and x the inputs of a lane's rows:
///
///     z = x W_enc + b_enc                     of dead latents, within rounding of EncodeSelect's
///     f = max(z, 0) for the k largest z of a row (ties to the lower index, NaN never), else 0
///     r = e - f W_dec
///     q = [f > 0] r W_dec^T
///     W_dec[dead] = (its main pairs) + factor f^T r
///     W_enc[dead] = (its main pairs) + factor q^T x,  b_enc[dead] = (...) + factor sum q
///
/// Main pairs are those that accumulate_gradients would add, of a dead latent that comes back. Both
/// parts of a lane are added first, then the lanes along their tree, so ranks that own contiguous
/// subtrees get partial results that Communicator::all_reduce_sum completes to the same bits. Every
/// element of a product is one chain of multiply-adds in order: bits do not depend on threads.
///
/// A group of lanes is worked on at a time, as many as need no more than group_bytes of packed
/// activations and rows, and at least one; beside it the packed weights and log2(n_lanes) buffers
/// of the dead latents' gradients are in memory. The device is the CPU.
class DenseAuxK {
 public:
  static constexpr std::int64_t kGroupBytes = std::int64_t{64} << 20;

  explicit DenseAuxK(CpuIsa isa = cpu_isa(), std::int64_t group_bytes = kGroupBytes);
  ~DenseAuxK();
  DenseAuxK(DenseAuxK&&) noexcept;
  DenseAuxK& operator=(DenseAuxK&&) noexcept;

  /// Overwrites the dead latents' rows of W_dec, W_enc [n_latents, d] and b_enc [n_latents], which
  /// are gradients, and leaves the others alone. `lanes` are the main pairs, scaled as they shall
  /// count; `inputs` and `residuals` (both of n_inputs rows) are x and e. n_lanes is a power of
  /// two. Returns sum |r|^2 of every lane, in float64 and a fixed order.
  std::vector<double> accumulate(const AuxKProblem& problem, std::int64_t n_lanes,
                                 const LatentPairs* lanes, float* W_dec, float* W_enc,
                                 float* b_enc);

 private:
  struct Workspace;
  std::unique_ptr<Workspace> workspace_;
};

}  // namespace thresher::kernels
