#include "features/component.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "core/config.h"
#include "core/error.h"
#include "core/visible_text.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;
using Site = HookPoint::Site;

const std::map<std::string, Site, std::less<>> kSites = {{"resid_pre", Site::kResidPre},
                                                         {"attn_out", Site::kAttnOut},
                                                         {"resid_mid", Site::kResidMid},
                                                         {"mlp_out", Site::kMlpOut},
                                                         {"resid_post", Site::kResidPost}};

constexpr std::string_view kLatentPrefix = "latent:";
constexpr const char* kForms =
    "embed, resid_pre, attn_out, resid_mid, mlp_out, resid_post, a hook point, latent:NUMBER, "
    "latents or sae_error";

[[noreturn]] void fail_unknown(const std::string& name) {
  std::vector<std::string> known = {"embed", "latents", "sae_error"};
  for (const auto& [site, unused] : kSites) known.push_back(site);
  const std::string nearest = nearest_name(name, known);
  throw ConfigError(fmt::format("there is no component {}", visible_text(name)), kForms,
                    nearest.empty() ? "" : fmt::format("did you mean {}?", nearest));
}

std::int64_t latent_number(const std::string& name, const NamedSae& sae) {
  const std::string_view digits = std::string_view(name).substr(kLatentPrefix.size());
  std::int64_t number = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size()) fail_unknown(name);
  if (number < 0 || number >= sae.sae.n_latents()) {
    throw ConfigError(
        fmt::format("{}: the SAE {} has {} latents", name, sae.name, sae.sae.n_latents()),
        fmt::format("0 to {}", sae.sae.n_latents() - 1));
  }
  return number;
}

std::vector<std::int64_t> firing_latents(const NamedSae& sae, const ContextRun& run) {
  const std::vector<std::int64_t> kept = run.positions(/*with_sinks=*/false);
  const at::Tensor x =
      run.at(HookPoint::parse(sae.hook_point)).index_select(0, at::tensor(kept, at::kLong));
  const at::Tensor fires = sae.sae.encode_dense(x).gt(0).any(0).nonzero().reshape({-1});
  const auto* number = fires.const_data_ptr<std::int64_t>();
  return {number, number + fires.numel()};
}

/// Places in the order of computation.
std::pair<std::int64_t, int> order_of(const Component& component) {
  const HookPoint& point = component.point();
  if (point.site == Site::kFinalNormalized) return {std::int64_t{1} << 40, 0};
  return {point.block, static_cast<int>(point.site)};
}

void check_distinct(const std::vector<Component>& components) {
  std::set<std::string> names;
  for (const Component& one : components) {
    if (!names.insert(one.name()).second) {
      throw ConfigError(fmt::format("the component {} was named twice", one.name()), "each once");
    }
  }
}

}  // namespace

Component Component::hook_point(const HookPoint& point) {
  Component out;
  out.point_ = point;
  return out;
}

Component Component::latent(const NamedSae& sae, std::int64_t latent) {
  Component out = sae_error(sae);
  out.kind_ = Kind::kLatent;
  out.latent_ = latent;
  return out;
}

Component Component::sae_error(const NamedSae& sae) {
  Component out;
  out.kind_ = Kind::kSaeError;
  out.point_ = HookPoint::parse(sae.hook_point);
  out.sae_ = &sae;
  return out;
}

std::string Component::name() const {
  if (kind_ == Kind::kHookPoint) return point_.name();
  return kind_ == Kind::kLatent ? fmt::format("{} latent {}", sae_->name, latent_)
                                : fmt::format("{} error", sae_->name);
}

at::Tensor Component::values(const at::Tensor& x) const {
  if (kind_ == Kind::kHookPoint) return x;
  if (kind_ == Kind::kLatent) return sae_->sae.encode_dense(x).narrow(1, latent_, 1).contiguous();
  return x - sae_->sae.reconstruct(x);
}

at::Tensor Component::replace(const at::Tensor& x, const at::Tensor& values,
                              const at::Tensor& changed) const {
  if (kind_ == Kind::kHookPoint) return changed;
  const at::Tensor change = changed - values;
  if (kind_ == Kind::kSaeError) return x + change;
  return x + change * sae_->sae.W_dec.narrow(0, latent_, 1);
}

std::vector<Component> parse_components(const std::vector<std::string>& names,
                                        std::string_view sae_name, const Subject& subject,
                                        const ContextRun& run) {
  const std::int64_t n_blocks = subject.model->info().n_blocks;
  std::vector<Component> out;
  for (const std::string& name : names) {
    if (const auto site = kSites.find(name); site != kSites.end()) {
      for (std::int64_t block = 0; block < n_blocks; ++block) {
        out.push_back(Component::hook_point({site->second, block}));
      }
    } else if (name == "embed") {
      out.push_back(Component::hook_point({Site::kEmbed, -1}));
    } else if (name == "sae_error") {
      out.push_back(Component::sae_error(subject.sae(sae_name)));
    } else if (name == "latents") {
      const NamedSae& sae = subject.sae(sae_name);
      for (const std::int64_t latent : firing_latents(sae, run)) {
        out.push_back(Component::latent(sae, latent));
      }
    } else if (name.starts_with(kLatentPrefix)) {
      const NamedSae& sae = subject.sae(sae_name);
      out.push_back(Component::latent(sae, latent_number(name, sae)));
    } else if (name.find("hook_") != std::string::npos) {
      const HookPoint point = HookPoint::parse(name);
      if (point.block >= n_blocks) {
        throw ConfigError(fmt::format("{}: the model has {} blocks", point.name(), n_blocks),
                          fmt::format("blocks.0 to blocks.{}", n_blocks - 1));
      }
      out.push_back(Component::hook_point(point));
    } else {
      fail_unknown(name);
    }
  }
  check_distinct(out);
  std::stable_sort(out.begin(), out.end(), [](const Component& a, const Component& b) {
    return order_of(a) < order_of(b);
  });
  return out;
}

}  // namespace thresher::features
