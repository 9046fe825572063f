#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "features/feature_store.h"

namespace thresher::features {

struct DashboardOptions {
  std::int64_t n_top = 10;          // examples of each latent that the page holds
  std::int64_t n_per_quantile = 2;  // of each quantile group
};

/// Writes one HTML file that shows a store without any network: no outside script, style, font or
/// request, and a content security policy that forbids them. All texts are hostile: the script
/// writes them as text nodes only, made visible beforehand (core/visible_text.h); tokens longer
/// than 200 characters are cut with a note of their length. Latents lie in the page in chunks that
/// the browser reads when they are opened. The same store gives the same bytes.
void write_dashboard(const FeatureStore& store, const DashboardOptions& options,
                     const std::filesystem::path& path);
/// The same bytes in memory, for a server.
std::string dashboard_html(const FeatureStore& store, const DashboardOptions& options);

}  // namespace thresher::features
