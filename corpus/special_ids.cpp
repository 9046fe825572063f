#include "corpus/special_ids.h"

#include <fmt/format.h>

#include "core/files.h"

namespace thresher::corpus {
namespace {

namespace fs = std::filesystem;
using IdOf = std::function<std::optional<std::int32_t>(std::string_view)>;

constexpr std::uint64_t kMaxConfigBytes = 16U << 20;

/// The JSON object in the file of that name beside the tokenizer.
std::optional<Json> read_beside(const fs::path& tokenizer, const char* name) {
  const fs::path path = tokenizer.parent_path() / name;
  if (!fs::exists(path)) return std::nullopt;
  return Json::parse(read_text_file(path, kMaxConfigBytes), path.string());
}

/// bos_token: "<s>", or {"content": "<s>", ...} as older files have it.
std::optional<std::int32_t> named_token(const JsonPlace& config, std::string_view key,
                                        const IdOf& id_of) {
  const auto named = config.find(key);
  if (!named) return std::nullopt;
  const JsonPlace content = named->is_object() ? named->at("content") : *named;
  const auto id = id_of(content.string());
  if (!id) {
    content.fail(fmt::format("token {} is not in the vocabulary",
                             Json(content.string().substr(0, 100)).dump()));
  }
  return id;
}

/// The special token that the template puts before a single text.
std::optional<std::int32_t> template_start(const JsonPlace& processor, const IdOf& id_of) {
  const auto type = processor.find("type");
  if (!type) return std::nullopt;
  if (type->string() == "Sequence") {
    for (const JsonPlace& part : processor.at("processors").items()) {
      if (const auto id = template_start(part, id_of)) return id;
    }
  }
  if (type->string() != "TemplateProcessing") return std::nullopt;
  const std::vector<JsonPlace> single = processor.at("single").items();
  if (single.empty()) return std::nullopt;
  const auto token = single.front().find("SpecialToken");
  return token ? named_token(*token, "id", id_of) : std::nullopt;
}

/// eos_token_id: a number, or a list of them.
std::vector<std::int32_t> numbered_tokens(const JsonPlace& config, std::string_view key,
                                          std::int64_t vocabulary_size) {
  std::vector<std::int32_t> out;
  const auto named = config.find(key);
  if (!named) return out;
  for (const JsonPlace& place :
       named->is_array() ? named->items() : std::vector<JsonPlace>{*named}) {
    const std::int64_t id = place.integer();
    if (id < 0 || id >= vocabulary_size) {
      place.fail(fmt::format("{} is not a token", id),
                 fmt::format("an id in [0, {})", vocabulary_size));
    }
    out.push_back(static_cast<std::int32_t>(id));
  }
  return out;
}

void read_tokenizer_config(const JsonPlace& config, const IdOf& id_of, SpecialIds& out) {
  out.bos = named_token(config, "bos_token", id_of);
  out.eos = named_token(config, "eos_token", id_of);
  if (out.bos) out.bos_source = "tokenizer_config.json";
  if (out.eos) {
    out.eos_source = "tokenizer_config.json";
    out.all_eos = {*out.eos};
  }
  out.adds_bos = out.bos && config.boolean_or("add_bos_token", false);
}

void read_model_config(const JsonPlace& config, std::int64_t vocabulary_size, SpecialIds& out) {
  if (!out.bos) {
    const auto ids = numbered_tokens(config, "bos_token_id", vocabulary_size);
    if (!ids.empty()) {
      out.bos = ids.front();
      out.bos_source = "config.json";
    }
  }
  if (!out.eos) {
    out.all_eos = numbered_tokens(config, "eos_token_id", vocabulary_size);
    if (!out.all_eos.empty()) {
      out.eos = out.all_eos.front();
      out.eos_source = "config.json";
    }
  }
}

}  // namespace

SpecialIds find_special_ids(const JsonPlace& tokenizer, const fs::path& path, const IdOf& id_of,
                            std::int64_t vocabulary_size) {
  SpecialIds out;
  if (const auto config = read_beside(path, "tokenizer_config.json")) {
    const std::string file = (path.parent_path() / "tokenizer_config.json").string();
    read_tokenizer_config(JsonPlace(*config, file), id_of, out);
  }
  if (const auto processor = tokenizer.find("post_processor")) {
    const auto start = template_start(*processor, id_of);
    if (start && !out.bos) {
      out.bos = start;
      out.bos_source = "the template in tokenizer.json";
    }
    out.adds_bos = out.adds_bos || (start && start == out.bos);
  }
  if (const auto config = read_beside(path, "config.json")) {
    const std::string file = (path.parent_path() / "config.json").string();
    read_model_config(JsonPlace(*config, file), vocabulary_size, out);
  }
  return out;
}

}  // namespace thresher::corpus
