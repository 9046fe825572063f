#include "evaluation/evaluation.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "activation_cache/cache.h"
#include "core/error.h"
#include "evaluation/evaluator.h"

namespace thresher::evaluation {

void EvaluationConfig::declare(FieldVisitor& fields) {
  fields.field("tokens", tokens,
               {.help = "Held-out text to measure on", .unit = "tokens", .min = 2});
  fields.field("baselines", baselines,
               {.help = "Measure PCA with as many components, the untrained SAE, and the SAE with "
                        "shuffled decoder "
                        "rows beside every SAE"});
}

Reconstruction Reconstruction::on_host() const {
  return {recon.to(at::kCPU), latent_acts.defined() ? latent_acts.to(at::kCPU) : latent_acts};
}

Candidate sae_candidate(const std::string& name, const std::string& hook_point,
                        const sae::InferenceSae& sae) {
  Candidate out;
  out.name = name;
  out.hook_point = hook_point;
  out.d_in = sae.d_in();
  out.n_latents = sae.n_latents();
  out.apply = [sae](const at::Tensor& x) {
    const at::Tensor latent_acts = sae.encode_dense(x.to(sae.W_enc.device()));
    return Reconstruction{sae.decode_dense(latent_acts), latent_acts};
  };
  return out;
}

EvaluationContext make_evaluation_context(const activation_cache::CacheConfig& cache,
                                          const activation_cache::ActivationSource& source) {
  EvaluationContext context;
  context.cache = cache;
  context.norm_limits =
      activation_cache::read_norm_limits(activation_cache::read_cache_identity(cache.dir));
  for (const std::string& hook_point : cache.hook_points) {
    context.training_means.push_back(source.statistics(source.hook_index(hook_point)).mean);
  }
  return context;
}

Json evaluate(const EvaluationConfig& config, const std::vector<Candidate>& candidates,
              const EvaluationContext& context, const corpus::PackedContexts& held_out,
              const corpus::Tokenizer& tokenizer, host_model::HostModel& model,
              comm::Communicator& comm) {
  return Evaluator(config, candidates, context, held_out, tokenizer, model, comm).run();
}

}  // namespace thresher::evaluation
