#include "tests/fuzz/parsers.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "activation_cache/cache.h"
#include "core/config.h"
#include "core/error.h"
#include "core/gguf_parse.h"
#include "core/json.h"
#include "core/npy.h"
#include "core/safetensors.h"
#include "core/safetensors_shards.h"
#include "corpus/corpus.h"
#include "corpus/document_reader.h"
#include "corpus/tokenizer.h"
#include "host_model/hf_config.h"
#include "tests/fuzz/memory_file.h"

namespace thresher::fuzz {
namespace {

using Bytes = std::span<const std::byte>;

void demand(bool condition, const char* what) {
  if (!condition) throw std::logic_error(what);
}

void parse_safetensors(Bytes bytes) {
  static const MemoryFile memory;
  const SafetensorsFile file(memory.write(bytes));
  std::uint64_t total = 0;
  for (const SafetensorsEntry& entry : file.entries()) {
    std::vector<std::byte> data(entry.end - entry.begin);
    file.read(entry, data);
    total += data.size();
  }
  demand(total <= bytes.size(), "more tensor bytes than the file has");
}

void parse_index(Bytes bytes) {
  for (const auto& [tensor, shard] : parse_safetensors_index(as_text(bytes), "index")) {
    demand(shard.find('/') == std::string::npos && shard != "..", "a shard outside the folder");
  }
}

void parse_gguf(Bytes bytes) {
  parse_gguf_head(bytes.first(bytes.size() / 2), bytes.size(), "model.gguf");
  const auto head = parse_gguf_head(bytes, bytes.size(), "model.gguf");
  demand(head.has_value(), "the whole file is not enough");
  for (const GgufTensor& tensor : head->tensors) {
    if (!gguf_can_dequantise(tensor.type)) continue;
    const GgufBlock block = *gguf_block(tensor.type);
    const std::uint64_t size = tensor.elements / block.elements * block.bytes;
    demand(tensor.offset <= bytes.size() && size <= bytes.size() - tensor.offset, "data outside");
    std::vector<float> values(tensor.elements);
    gguf_dequantise(static_cast<GgufType>(tensor.type), bytes.subspan(tensor.offset, size), values);
  }
}

void use(const corpus::Tokenizer& tokenizer) {
  for (const bool parse_special : {false, true}) {
    const auto ids =
        tokenizer.encode("Hello  w\xC3\xB6rld's\n<|im_start|>12345 ab\xFF ", parse_special);
    tokenizer.decode(ids);
  }
  tokenizer.description();
}

void parse_gguf_tokenizer(Bytes bytes) {
  static const MemoryFile memory;
  use(*corpus::load_gguf_tokenizer(memory.write(bytes)));
}

void parse_tokenizer_json(Bytes bytes) {
  use(*corpus::parse_json_tokenizer(as_text(bytes), "/dev/null/tokenizer.json"));
}

template <class Section>
void read_section(const ConfigNode& root, const char* name) {
  Section section;
  ConfigReader reader(root.find(name), name);
  section.declare(reader);
  reader.finish();
}

void parse_yaml(Bytes bytes) {
  const ConfigNode root = parse_config(as_text(bytes), "a.yaml");
  read_section<corpus::CorpusConfig>(root, "corpus");
  read_section<activation_cache::CacheConfig>(root, "cache");
}

void parse_override(Bytes bytes) {
  ConfigNode root = parse_config("corpus: {paths: [a]}\nsae: [{type: topk, k: 4}]\n", "a.yaml");
  apply_override(root, as_text(bytes));
}

void parse_json_lines(Bytes bytes) {
  static const MemoryFile memory;
  corpus::DocumentFormat format;
  format.is_json_lines = true;
  format.skip_bad_lines = true;
  std::uint64_t total = 0;
  const auto take = [&](std::string_view text, std::int64_t) { total += text.size(); };
  corpus::read_documents(memory.write(bytes), format, take);
  format.skip_bad_lines = false;
  format.field = "meta.text";
  corpus::read_documents(memory.write(bytes), format, take);
}

void parse_json(Bytes bytes) {
  const Json json = Json::parse(as_text(bytes), "a.json");
  const std::string text = json.dump();
  demand(Json::parse(text, "again").dump() == text, "JSON does not survive writing and reading");
}

void parse_npy(Bytes bytes) {
  const NpyHeader header = parse_npy_header(
      bytes.first(std::min<std::size_t>(bytes.size(), kMaxNpyHeaderBytes)), bytes.size(), "a.npy");
  demand(header.data_offset <= bytes.size(), "data outside");
}

void parse_model_config(Bytes bytes) {
  static const MemoryFile memory;
  const host_model::HfConfig config(memory.write(bytes));
  config.model_type();
  host_model::read_llama_like_config(config);
}

constexpr std::array kParsers = {
    Parser{"safetensors", parse_safetensors},
    Parser{"safetensors_index", parse_index},
    Parser{"gguf", parse_gguf},
    Parser{"gguf_tokenizer", parse_gguf_tokenizer},
    Parser{"tokenizer_json", parse_tokenizer_json},
    Parser{"model_config", parse_model_config},
    Parser{"npy", parse_npy},
    Parser{"commit_log", parse_commit_log},
    Parser{"cache_manifest", parse_cache_manifest},
    Parser{"cache_identity", parse_cache_identity},
    Parser{"checkpoint_commit", parse_checkpoint_commit},
    Parser{"checkpoint_state", parse_checkpoint_state},
    Parser{"yaml", parse_yaml},
    Parser{"override", parse_override},
    Parser{"json", parse_json},
    Parser{"json_lines", parse_json_lines},
    Parser{"hdf5", parse_hdf5_tables},
};

}  // namespace

std::span<const Parser> parsers() { return kParsers; }

const Parser& parser_named(std::string_view name) {
  const auto found = std::find_if(kParsers.begin(), kParsers.end(),
                                  [&](const Parser& parser) { return parser.name == name; });
  THRESHER_CHECK(found != kParsers.end(), "no parser " + std::string(name));
  return *found;
}

bool accepts(const Parser& parser, Bytes bytes) {
  try {
    parser.parse(bytes);
    return true;
  } catch (const Error& error) {
    if (error.code() == ExitCode::kInternal) throw;
    return false;
  }
}

}  // namespace thresher::fuzz
