#include <fmt/format.h>

#include "core/error.h"
#include "core/gguf.h"
#include "corpus/byte_level_tokenizer.h"
#include "corpus/tokenizer.h"

namespace thresher::corpus {
namespace {

std::optional<std::int64_t> optional_id(const GgufFile& file, std::string_view key) {
  if (!file.has(key)) return std::nullopt;
  return file.integer(key);
}

}  // namespace

std::unique_ptr<Tokenizer> load_gguf_tokenizer(const std::filesystem::path& gguf) {
  const GgufFile file(gguf);
  const std::string& model = file.string("tokenizer.ggml.model");
  if (model != "gpt2") {
    throw DataError(fmt::format("{}: tokenizer model '{}' is not supported", gguf.string(), model),
                    "tokenizer.ggml.model is 'gpt2' (byte-level BPE)");
  }
  constexpr std::string_view kSpacePrefix = "tokenizer.ggml.add_space_prefix";
  if (file.has(kSpacePrefix) && file.boolean(kSpacePrefix)) {
    throw DataError(fmt::format("{}: {} is true, which byte-level BPE does not support",
                                gguf.string(), kSpacePrefix),
                    "false or absent");
  }
  ByteLevelVocabulary vocabulary;
  vocabulary.where = gguf.string();
  vocabulary.pretokenizer = file.string("tokenizer.ggml.pre");
  vocabulary.tokens = file.strings("tokenizer.ggml.tokens");
  vocabulary.token_types = file.integers("tokenizer.ggml.token_type");
  vocabulary.merges = file.strings("tokenizer.ggml.merges");
  vocabulary.bos_id = optional_id(file, "tokenizer.ggml.bos_token_id");
  vocabulary.eos_id = optional_id(file, "tokenizer.ggml.eos_token_id");
  constexpr std::string_view kAddsBos = "tokenizer.ggml.add_bos_token";
  vocabulary.adds_bos = file.has(kAddsBos) && file.boolean(kAddsBos);
  return make_byte_level_tokenizer(vocabulary);
}

}  // namespace thresher::corpus
