#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thresher::host_model {

/// How rotary frequencies f_i = base^(-2 i / d_head) are changed for contexts longer than the model
/// was first trained on. The formulas are those of `transformers` (modeling_rope_utils.py), in its
/// order of float32 operations.
struct RopeScaling {
  enum class Type {
    kNone,
    kLinear,    // f_i / factor
    kLlama3,    // f_i / factor for long waves, f_i for short ones, a blend between
    kDivisors,  // f_i / divisors[i], as a GGUF's rope_freqs.weight gives them
  };
  Type type = Type::kNone;
  double factor = 1;
  double low_freq_factor = 1;                // kLlama3
  double high_freq_factor = 4;               // kLlama3
  std::int64_t original_context_tokens = 0;  // kLlama3
  std::vector<float> divisors;               // kDivisors: d_head / 2 values
};

/// A decoder-only transformer of the pre-norm kind: RMSNorm, rotary positions (half-split),
/// grouped-query attention, gated MLP with SiLU. Everything that the forward pass depends on
/// besides the weights; a GGUF file and a config.json both become one of these.
struct TransformerShape {
  std::int64_t n_blocks = 0;
  std::int64_t d_model = 0;
  std::int64_t n_heads = 0;
  std::int64_t n_kv_heads = 0;
  std::int64_t d_head = 0;
  std::int64_t d_mlp = 0;
  std::int64_t n_vocabulary = 0;
  std::int64_t max_context_tokens = 0;
  double norm_epsilon = 0;
  double rope_base = 0;
  RopeScaling rope_scaling;
  bool has_qkv_bias = false;
  bool has_attn_out_bias = false;
  bool has_mlp_bias = false;
  /// The unembedding is the embedding. Where a file holds an unembedding all the same, the file
  /// decides.
  bool is_tied = false;
  /// Tokens that a query of a block sees, itself included; 0: all before it. Empty: 0 for every
  /// block.
  std::vector<std::int64_t> attention_windows;

  std::int64_t attention_window(std::int64_t block) const {
    return attention_windows.empty() ? 0 : attention_windows[static_cast<std::size_t>(block)];
  }
};

/// Ranges in which hyper-parameters are believed, whatever file they come from.
struct IntegerRange {
  std::int64_t min;
  std::int64_t max;
};
struct NumberRange {
  double min;
  double max;
};
namespace limits {
inline constexpr IntegerRange kBlocks{1, 512};
inline constexpr IntegerRange kModelWidth{1, 65'536};
inline constexpr IntegerRange kHeads{1, 1'024};
inline constexpr IntegerRange kHeadWidth{2, 4'096};
inline constexpr IntegerRange kMlpWidth{1, 1'048'576};
inline constexpr IntegerRange kContextTokens{1, 16'777'216};
inline constexpr IntegerRange kVocabulary{1, 4'194'304};
inline constexpr NumberRange kNormEpsilon{1e-12, 0.1};
inline constexpr NumberRange kRopeBase{1, 1e12};
inline constexpr NumberRange kRopeFactor{1, 1e6};
}  // namespace limits

/// `value` if it lies in the range; otherwise DataError "<where>: <key> = <value>".
std::int64_t in_range(std::string_view where, std::string_view key, std::int64_t value,
                      const IntegerRange& range);
double in_range(std::string_view where, std::string_view key, double value,
                const NumberRange& range);

/// Fills in d_head where it is 0 (d_model / n_heads) and checks that the parts fit together: heads
/// shared evenly, heads of an even width. DataError naming `where`.
void complete_shape(std::string_view where, TransformerShape& shape);

}  // namespace thresher::host_model
