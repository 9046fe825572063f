#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/gguf.h"
#include "core/hash.h"
#include "core/json.h"
#include "host_model/families.h"
#include "host_model/host_model.h"

namespace thresher::host_model {
namespace {

struct Family {
  const char* name;  // general.architecture of a GGUF file, model_type of a folder's config.json
  std::unique_ptr<HostModel> (*load_gguf)(const GgufFile&, const LoadRequest&);
  std::unique_ptr<HostModel> (*load_folder)(const HfFolder&, const LoadRequest&);
};

/// A new family is one line here and one file beside llama.cpp; nullptr where a kind of file does
/// not exist.
constexpr std::array<Family, 3> kFamilies = {{
    {"llama", load_llama_gguf, load_llama_folder},
    {"mistral", nullptr, load_mistral_folder},
    {"qwen2", load_qwen2_gguf, load_qwen2_folder},
}};

/// The family of that name for which `has_loader` holds; ConfigError naming those that there are.
template <class HasLoader>
const Family& find_family(const std::string& where, const std::string& name,
                          const HasLoader& has_loader) {
  std::vector<std::string> known;
  for (const Family& family : kFamilies) {
    if (!has_loader(family)) continue;
    if (family.name == name) return family;
    known.emplace_back(family.name);
  }
  throw ConfigError(
      fmt::format("{}: host family {} is not known", where, Json(name.substr(0, 80)).dump()),
      fmt::format("one of: {}", fmt::join(known, ", ")));
}

std::unique_ptr<HostModel> load_gguf(const std::string& path, LoadRequest request) {
  const GgufFile file(path);
  const Family& family = find_family(path, file.string("general.architecture"),
                                     [](const Family& f) { return f.load_gguf != nullptr; });
  request.info.family = family.name;
  request.info.fingerprint = sha256_file(path);
  return family.load_gguf(file, request);
}

std::unique_ptr<HostModel> load_folder(const std::string& path, LoadRequest request) {
  const HfFolder folder(path);
  const Family& family = find_family(path, folder.config.model_type(),
                                     [](const Family& f) { return f.load_folder != nullptr; });
  request.info.family = family.name;
  request.info.fingerprint = folder.fingerprint();
  return family.load_folder(folder, request);
}

}  // namespace

void HostModelConfig::declare(FieldVisitor& fields) {
  fields.field("weights", weights,
               {.help = "The transformer whose activations are read: a GGUF file, or a folder with "
                        "config.json and *.safetensors as Hugging Face libraries save it.",
                .is_required = true});
  fields.field(
      "dtype", dtype,
      {.help = "Number type of weights and forward pass. bfloat16 halves the memory; whether "
               "it is faster depends on the processor (docs/host-models.md).",
       .choices = {"float32", "bfloat16"}});
}

std::vector<std::string> host_families() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.name);
  return names;
}

std::unique_ptr<HostModel> load_host_model(const HostModelConfig& config, Device device) {
  LoadRequest request;
  request.device = device;
  request.dtype = parse_dtype(config.dtype);
  THRESHER_CHECK(request.dtype != Dtype::kFloat16, "a host model in float16");
  return std::filesystem::is_directory(config.weights) ? load_folder(config.weights, request)
                                                       : load_gguf(config.weights, request);
}

}  // namespace thresher::host_model
