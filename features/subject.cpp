#include "features/subject.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/config.h"
#include "core/error.h"
#include "core/visible_text.h"

namespace thresher::features {

const NamedSae& Subject::sae(std::string_view name) const {
  if (saes.empty()) {
    throw ConfigError("no SAE was named", "a run directory, or the folder of an SAE");
  }
  if (name.empty() && saes.size() == 1) return saes.front();
  std::vector<std::string> known;
  for (const NamedSae& one : saes) {
    if (one.name == name) return one;
    known.push_back(one.name);
  }
  const std::string expected = fmt::format("one of {}", fmt::join(known, ", "));
  if (name.empty()) {
    throw ConfigError(fmt::format("there are {} SAEs, and none was chosen", saes.size()), expected,
                      "--sae NAME");
  }
  const std::string nearest = nearest_name(std::string(name), known);
  throw ConfigError(fmt::format("there is no SAE {}", visible_text(std::string(name))), expected,
                    nearest.empty() ? "" : fmt::format("did you mean {}?", nearest));
}

}  // namespace thresher::features
