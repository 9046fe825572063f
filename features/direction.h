#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "features/subject.h"

namespace thresher::features {

/// Two texts whose activations are subtracted: first - second.
using TextPair = std::pair<std::string, std::string>;

/// A weighted sum of directions. As text, `1.5*pair:Love|Hate+-1*latent:123`: a `+` begins a term
/// where a term follows, so texts may hold one.
///
///     latent:N       the decoder row of latent N (unit norm)
///     search:WORDS   that of the latent which the feature store finds first
///     pair:A|B       activation of A minus that of B (activation addition, arXiv:2308.10248)
///     pairs:FILE     the mean of such differences, a pair "A|B" a line
///     means:FILE     mean over all positions of the first texts minus that of the second
///     file:PATH      one vector: .npy, or .safetensors with one tensor, or PATH#TENSOR
struct DirectionTerm {
  enum class Kind { kLatent, kSearch, kPair, kPairs, kMeans, kFile } kind = Kind::kLatent;
  double weight = 1;
  std::string argument;
};
/// UsageError for a text that is no such sum.
std::vector<DirectionTerm> parse_direction(std::string_view text);

/// "A|B". ConfigError, naming `where`, without exactly one bar between two texts.
TextPair parse_pair(std::string_view text, std::string_view where);

/// How pairs are read. Both texts stand behind the same prefix and are padded at their end, with
/// the token of a space, to the same length, so that every position is compared with its like. A
/// sink (features/intervention.h) is never read: the position is left out of both texts.
struct PairReading {
  /// Tokens before both texts. Without any the first token of a text would be a sink.
  std::vector<std::int32_t> prefix;
  enum class Over { kLast, kMean } over = Over::kMean;  // the last position, or the mean over all
};
/// The tokens of `text`; without one BOS, or a line break where the tokenizer has no BOS.
std::vector<std::int32_t> pair_prefix(const Subject& subject, std::string_view text);

using PointVectors = std::map<host_model::HookPoint, at::Tensor>;

/// What becomes of a pair none of whose positions can be read at some hook point: a ConfigError, or
/// it is left out.
enum class Unreadable { kRefuse, kLeaveOut };

/// The difference of every pair at the given hook points, [pairs, width] float32. ConfigError for a
/// text without tokens.
PointVectors pair_differences(const Subject& subject, const std::vector<TextPair>& pairs,
                              const std::vector<host_model::HookPoint>& points,
                              const PairReading& reading,
                              Unreadable unreadable = Unreadable::kRefuse);

/// Finds the number of a latent by words.
using LatentSearch = std::function<std::int64_t(std::string_view words)>;

/// The latent that a term of kind kLatent or kSearch means. UsageError for text that is no number;
/// ConfigError for kSearch without `search`.
std::int64_t latent_number(const DirectionTerm& term, const LatentSearch& search);

/// The vector [width] float32 at each hook point. `sae` names the SAE of latents, as in
/// Subject::sae. ConfigError for what does not fit the SAE or the model, a sum that is zero or not
/// finite, and kSearch without `search`; errors of files as their readers throw them.
PointVectors make_direction(const Subject& subject, const std::vector<DirectionTerm>& terms,
                            const std::vector<host_model::HookPoint>& points, std::string_view sae,
                            const PairReading& reading, const LatentSearch& search = {});

/// Pairs of different words, drawn by seed from those of the vocabulary that are one token: a space
/// and at least four lower-case letters. ConfigError for a vocabulary with fewer than two.
std::vector<TextPair> random_word_pairs(const corpus::Tokenizer& tokenizer, std::int64_t count,
                                        std::uint64_t seed);

}  // namespace thresher::features
