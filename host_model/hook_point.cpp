#include <fmt/format.h>

#include <array>
#include <charconv>
#include <utility>

#include "core/config.h"
#include "core/error.h"
#include "host_model/host_model.h"

namespace thresher::host_model {
namespace {

using Site = HookPoint::Site;

constexpr std::string_view kEmbedName = "hook_embed";
constexpr std::string_view kFinalName = "ln_final.hook_normalized";
constexpr std::string_view kBlockPrefix = "blocks.";
constexpr std::array<std::pair<Site, std::string_view>, 5> kBlockSites = {{
    {Site::kResidPre, "hook_resid_pre"},
    {Site::kAttnOut, "hook_attn_out"},
    {Site::kResidMid, "hook_resid_mid"},
    {Site::kMlpOut, "hook_mlp_out"},
    {Site::kResidPost, "hook_resid_post"},
}};

std::string known_forms() {
  std::string forms(kEmbedName);
  for (const auto& [site, name] : kBlockSites) forms += fmt::format(", {}L.{}", kBlockPrefix, name);
  return fmt::format("one of {}, {} (L counts from 0)", forms, kFinalName);
}

/// The block number at the start of `text`, without sign or leading zeros, and what follows its
/// dot.
bool split_block(std::string_view text, std::int64_t& block, std::string_view& rest) {
  const std::size_t dot = text.find('.');
  if (dot == std::string_view::npos || dot == 0 || dot > 4) return false;
  const std::string_view digits = text.substr(0, dot);
  if (digits.find_first_not_of("0123456789") != std::string_view::npos) return false;
  if (digits.size() > 1 && digits.front() == '0') return false;
  std::from_chars(digits.data(), digits.data() + digits.size(), block);
  rest = text.substr(dot + 1);
  return true;
}

[[noreturn]] void refuse(std::string_view name) {
  std::vector<std::string> candidates = {std::string(kEmbedName), std::string(kFinalName)};
  std::int64_t block = 0;
  std::string_view rest;
  if (name.starts_with(kBlockPrefix)) split_block(name.substr(kBlockPrefix.size()), block, rest);
  for (const auto& [site, suffix] : kBlockSites) {
    candidates.push_back(fmt::format("{}{}.{}", kBlockPrefix, block, suffix));
  }
  const std::string nearest = nearest_name(name, candidates);
  throw ConfigError(fmt::format("hook point '{}' is not known", name), known_forms(),
                    nearest.empty() ? std::string() : fmt::format("did you mean {}?", nearest));
}

}  // namespace

HookPoint HookPoint::parse(std::string_view name) {
  if (name == kEmbedName) return {Site::kEmbed, -1};
  if (name == kFinalName) return {Site::kFinalNormalized, -1};
  std::int64_t block = 0;
  std::string_view rest;
  if (name.starts_with(kBlockPrefix) &&
      split_block(name.substr(kBlockPrefix.size()), block, rest)) {
    for (const auto& [site, suffix] : kBlockSites) {
      if (rest == suffix) return {site, block};
    }
  }
  refuse(name);
}

std::string HookPoint::name() const {
  if (site == Site::kEmbed) return std::string(kEmbedName);
  if (site == Site::kFinalNormalized) return std::string(kFinalName);
  for (const auto& [candidate, suffix] : kBlockSites) {
    if (candidate == site) return fmt::format("{}{}.{}", kBlockPrefix, block, suffix);
  }
  THRESHER_CHECK(false, "hook point of an unknown site");
  return {};
}

}  // namespace thresher::host_model
