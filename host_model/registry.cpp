#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"
#include "core/gguf.h"
#include "core/hash.h"
#include "host_model/host_model.h"
#include "host_model/llama.h"

namespace thresher::host_model {
namespace {

struct Family {
  const char* name;  // GGUF general.architecture
  std::unique_ptr<HostModel> (*load)(const GgufFile& file, HostModelInfo info);
};

/// A new family is one line here and one file beside llama.cpp.
constexpr std::array<Family, 1> kFamilies = {{{"llama", load_llama}}};

}  // namespace

void HostModelConfig::declare(FieldVisitor& fields) {
  fields.field(
      "weights", weights,
      {.help = "GGUF file of the transformer whose activations are read", .is_required = true});
  fields.field("dtype", dtype, {.help = "number type of the forward pass", .choices = {"float32"}});
}

std::vector<std::string> host_families() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.name);
  return names;
}

std::unique_ptr<HostModel> load_host_model(const HostModelConfig& config) {
  const GgufFile file(config.weights);
  const std::string& architecture = file.string("general.architecture");
  const auto family =
      std::find_if(kFamilies.begin(), kFamilies.end(),
                   [&](const Family& candidate) { return candidate.name == architecture; });
  if (family == kFamilies.end()) {
    throw ConfigError(
        fmt::format("{}: host family '{}' is not known", config.weights, architecture),
        fmt::format("one of: {}", fmt::join(host_families(), ", ")));
  }
  HostModelInfo info;
  info.family = family->name;
  info.fingerprint = sha256_file(config.weights);
  return family->load(file, std::move(info));
}

}  // namespace thresher::host_model
