#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu_isa.h"
#include "kernels/topk.h"

namespace thresher::kernels {

/// The encoder's pre-activations z = x W_enc + b_enc, of which only what a selection keeps is ever
/// in memory: they are computed a block of registers at a time and compared with a bound that
/// rises as larger ones are found. Needs memory for one packed block of W_enc (at most
/// kPackedBytes) and for the candidates.
///
/// A pre-activation is one chain of fused multiply-adds in the order of d, then the bias, whatever
/// the shape, tile or number of threads: its bits depend on its row of x and its row of W_enc only.
/// (Portable code, for processors without fused multiply-add, rounds products too.)
struct EncoderProduct {
  std::int64_t rows = 0, d = 0, n_latents = 0;
  const float* x = nullptr;      // [rows, d]
  const float* W_enc = nullptr;  // [n_latents, d], latent-major
  const float* b_enc = nullptr;  // [n_latents]
};

/// Where the k largest of each row go: [rows, k], largest first, equal ones by index.
struct TopKSlots {
  std::int64_t k = 0;
  float* values = nullptr;
  std::int32_t* indices = nullptr;
};

/// Pairs of a row at [row_offsets[r], row_offsets[r + 1]), indices ascending.
struct SelectedPairs {
  std::vector<std::int64_t> row_offsets;  // [rows + 1]
  std::vector<float> values;
  std::vector<std::int32_t> indices;
};

/// The selections, with the working memory that they keep from call to call. One thread at a time
/// may use it; it uses num_threads() threads itself. The device is the CPU.
class EncodeSelect {
 public:
  static constexpr std::int64_t kPackedBytes = std::int64_t{8} << 20;

  explicit EncodeSelect(CpuIsa isa = cpu_isa());
  ~EncodeSelect();
  EncodeSelect(EncodeSelect&&) noexcept;
  EncodeSelect& operator=(EncodeSelect&&) noexcept;

  /// The k largest of every row and, from the same product, the masked->k largest among the latents
  /// where `mask` [n_latents] is not zero (both null: no second selection). The same pairs as
  /// topk() of the whole matrix would give, except that NaN is never selected: a row with fewer
  /// than k numbers is filled up with value 0 of latent 0. Returns the number of NaN
  /// pre-activations. InternalError unless 1 <= k <= n_latents and masked->k is between 1 and the
  /// number of open latents.
  std::int64_t topk(const EncoderProduct& product, const TopKSlots& main,
                    const std::uint8_t* mask = nullptr, const TopKSlots* masked = nullptr);

  /// Every pair with z >= bounds[latent] ([n_latents]; -infinity takes all, infinity only
  /// infinities). Returns the number of NaN pre-activations, which are left out.
  std::int64_t above(const EncoderProduct& product, const float* bounds, SelectedPairs& pairs);

  /// Every pair with z >= bound and, as in `topk`, the largest among masked latents. Returns the
  /// number of NaN pre-activations.
  std::int64_t above(const EncoderProduct& product, float bound, SelectedPairs& pairs,
                     const std::uint8_t* mask = nullptr, const TopKSlots* masked = nullptr);

 private:
  struct Workspace;
  void check(const EncoderProduct& product, const std::uint8_t* mask,
             const TopKSlots* masked) const;
  std::unique_ptr<Workspace> workspace_;
};

}  // namespace thresher::kernels
