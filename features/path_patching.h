#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "features/ablation.h"
#include "features/component.h"
#include "features/context_run.h"
#include "features/outputs.h"

namespace thresher::features {

/// What reads the residual stream: the attention or the MLP of a block, through its norm, or the
/// final norm and unembedding.
struct Receiver {
  enum class Kind { kAttention, kMlp, kFinal } kind = Kind::kFinal;
  std::int64_t block = -1;
  std::string name() const;  // "blocks.3.attn", "blocks.3.mlp", "final"
  /// Whether it reads what `sender` writes without another component between.
  bool reads(const Component& sender) const;
};

/// The receivers of a model in the order of computation.
std::vector<Receiver> all_receivers(std::int64_t n_blocks);

/// The direct path from a sender to a receiver, and what becomes of the output when only that path
/// carries the sender's exchanged value.
struct Edge {
  std::string sender, receiver;
  Outputs effect;  // less the unchanged run's
};

/// Path patching (Wang et al. 2022, "Interpretability in the Wild", section 3 and appendix;
/// Goldowsky-Dill et al. 2023, "Localizing Model Behavior with Path Patching").
///
/// In a pre-norm residual model the input of every component is a sum of what those before it
/// wrote: x_r = embedding + sum of attn_out_i and mlp_out_i before r. With all components between
/// frozen at what they put out in the unchanged run, exchanging the sender's value v by v' changes
/// the receiver's input by just the sender's difference, d = write(v') - write(v) at the changed
/// positions, and nothing else:
///
///     out_r = f_r(x_r + d),   f_r = norm and attention, or norm and MLP, of the receiver's block
///
/// out_r then takes the place of the receiver's output in a run whose later components compute
/// freely; the stream itself does not carry d there, so paths around the receiver are not counted.
/// For the final receiver the logits are read from norm(x_final + d) with every component frozen:
/// the sender's direct effect.
///
/// Senders are components that write to the stream (hook_embed, hook_attn_out, hook_mlp_out,
/// latents, SAE errors); ConfigError for a whole residual stream. All positions of the request are
/// changed at once, with the first draw. Sorted by the magnitude of `by` in Outputs, largest first;
/// equal ones in the order of computation.
std::vector<Edge> patch_paths(const AblationRequest& request,
                              const std::vector<Receiver>& receivers, double Outputs::*by,
                              const ContextRun& run, const ContextRun& source,
                              host_model::HostModel& model,
                              const std::function<void(std::int64_t, std::int64_t)>& progress);

}  // namespace thresher::features
