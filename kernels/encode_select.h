#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu_isa.h"
#include "kernels/topk.h"

namespace thresher::kernels {

/// The encoder's pre-activations z = x W_enc + b_enc, of which only what a selection keeps is ever
/// in memory: blocks of limits tell which of them may be selected, and those are computed one by
/// one. Needs memory for packed columns and limits (at most kPackedBytes and some MiB a thread).
///
/// A pre-activation is a dot product in float32 and the bias: 16 partial sums, of the dimensions p
/// with the same p % 16, added as a tree (kernels/detail/lanes.h). Products are rounded before they
/// are added, so its bits depend on its row of x and its row of W_enc only, and are the same on
/// every processor.
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

/// Whether the limits come from a product in bytes (AVX-512 VNNI: about four times as fast) rather
/// than in float32, whose limits leave less open (docs/performance.md). What is selected, and every
/// bit of it, is the same either way.
///
/// kAuto: where the processor has such products, the shape is worth it, and bytes did not leave too
/// much open the last time. kOn: always, even by portable code. kOff: never.
enum class Screening { kAuto, kOn, kOff };

/// kAuto, unless the environment variable THRESHER_SCREENING says on or off. ConfigError if it says
/// anything else.
Screening default_screening();

/// Of all selections of this process so far: (row, latent) pairs that went through the product in
/// bytes, and those of them that were then computed in float32. `limit`: how far, on average, a
/// limit of the last such product lay above the product itself, as a part of |x| |w|.
struct ScreeningFigures {
  std::int64_t pairs = 0, survivors = 0;
  double limit = 0;
};
ScreeningFigures screening_figures();

/// The selections, with the working memory that they keep from call to call. One thread at a time
/// may use it; it uses num_threads() threads itself. The device is the CPU.
class EncodeSelect {
 public:
  static constexpr std::int64_t kPackedBytes = std::int64_t{32} << 20;

  explicit EncodeSelect(CpuIsa isa = cpu_isa(), Screening screening = default_screening());
  ~EncodeSelect();
  EncodeSelect(EncodeSelect&&) noexcept;
  EncodeSelect& operator=(EncodeSelect&&) noexcept;

  /// The k largest of every row and, from a second product of those latents alone, the masked->k
  /// largest among the latents where `mask` [n_latents] is not zero (both null: no second
  /// selection). The same pairs as topk() of the whole matrix would give, except that NaN is never
  /// selected: a row with fewer than k numbers is filled up with value 0 of latent 0. Returns the
  /// number of NaN pre-activations. InternalError unless 1 <= k <= n_latents and masked->k is
  /// between 1 and the number of open latents.
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
