#include "activation_cache/activation_source.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/config.h"
#include "core/error.h"

namespace thresher::activation_cache {

std::size_t ActivationSource::hook_index(const std::string& hook_point) const {
  std::vector<std::string> names;
  for (const HookPointWidth& hook : hook_points()) {
    if (hook.hook_point == hook_point) return names.size();
    names.push_back(hook.hook_point);
  }
  const std::string nearest = nearest_name(hook_point, names);
  throw ConfigError(fmt::format("activation source: there is no hook point \"{}\"", hook_point),
                    fmt::format("one of: {}", fmt::join(names, ", ")),
                    nearest.empty() ? std::string("harvest it: add it to cache.hook_points")
                                    : fmt::format("did you mean \"{}\"?", nearest));
}

}  // namespace thresher::activation_cache
