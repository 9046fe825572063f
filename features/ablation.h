#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "features/component.h"
#include "features/context_run.h"
#include "features/outputs.h"

namespace thresher::features {

/// What a component's value v is exchanged for.
enum class Method {
  kZero,      // 0
  kMean,      // the mean of v over the kept positions of a text
  kResample,  // v at a kept position of a text, drawn for each position; another one in the same
              // text
  kJitter,    // v + noise: a Gaussian direction scaled to a norm
  kPatch,     // v at the same position of another prompt
};
/// "zero", "mean", "resample", "jitter", "patch". ConfigError with a hint for another name.
Method parse_method(std::string_view name);
const char* method_name(Method method);

struct Change {
  Method method = Method::kZero;
  std::uint64_t seed = 42;
  /// Of what is drawn (kResample, kJitter); 1 otherwise.
  std::int64_t draws = 1;
  /// Of the noise (kJitter): `norm` in units of the value if it is above 0, else `fraction` of the
  /// value's own norm.
  double norm = 0, fraction = 0.1;
};

/// A component's values at all positions, as they are and exchanged: [tokens, width of the value].
struct Exchange {
  at::Tensor values, changed;
};

/// `source` is where other values come from: the text for kMean and kResample, the other prompt, of
/// the same length, for kPatch; not looked at otherwise. A draw depends on the seed, the
/// component's name, the draw's number and the position, so it is the same whatever else is
/// changed. ConfigError when the source has no position to take from.
Exchange exchange(const Component& component, const Change& change, const ContextRun& run,
                  const ContextRun& source, std::int64_t draw);

/// Difference from the unchanged run, over draws.
struct Effect {
  Outputs mean;
  Outputs spread;  // standard deviation (n - 1); NaN for one draw
};

/// Mean and spread over draws or texts.
Effect effect_of(const std::vector<Outputs>& draws);

/// Effects of components at positions.
struct AblationMap {
  std::vector<std::string> components;
  /// Each alone, then, as kAllPositions, all of them at once.
  std::vector<std::int64_t> positions;
  Outputs unchanged;
  /// Of the prompt that values come from (kPatch).
  std::optional<Outputs> source;
  std::vector<Effect> effects;  // [components, positions]
  const Effect& at(std::size_t component, std::size_t position) const {
    return effects[component * positions.size() + position];
  }
};
inline constexpr std::int64_t kAllPositions = -1;

struct AblationRequest {
  std::vector<Component> components;
  Change change;
  AnswerTokens tokens;
  bool with_sinks = false;    // change positions that the subject's rules leave out, too
  bool only_at_once = false;  // no single positions
};

/// Runs the context once more for each component, position and draw, from the changed activation
/// on, many at once; what would change nothing (a latent that does not fire) is not run. `source`
/// as for exchange; KL starts from the run's own distribution, with kPatch from the source's, and
/// with it only positions that both keep are changed. `progress`, called with (done, total), may be
/// empty. ConfigError when there is no position to change.
AblationMap ablate(const AblationRequest& request, const ContextRun& run, const ContextRun& source,
                   host_model::HostModel& model,
                   const std::function<void(std::int64_t, std::int64_t)>& progress);

/// Positions that `request` changes. ConfigError when there is none.
std::vector<std::int64_t> changed_positions(const AblationRequest& request, const ContextRun& run,
                                            const ContextRun& source);

/// a - b, figure by figure.
Outputs difference(const Outputs& a, const Outputs& b);

}  // namespace thresher::features
