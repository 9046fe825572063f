#include "corpus/tokenizer.h"

#include <fmt/format.h>

#include <array>

#include "core/error.h"
#include "core/files.h"

namespace thresher::corpus {
namespace {

bool is_gguf(const std::filesystem::path& path) {
  const FileDescriptor file = open_for_reading(path);
  std::array<char, 4> magic{};
  if (thresher::file_size(path) < magic.size()) return false;
  read_at(file, 0, std::as_writable_bytes(std::span(magic)), path);
  return std::string_view(magic.data(), magic.size()) == "GGUF";
}

}  // namespace

std::int64_t Tokenizer::n_lost_bytes(std::string_view) const { return 0; }
bool Tokenizer::adds_bos() const { return false; }

std::string Tokenizer::description() const {
  const auto named = [](const char* name, const std::optional<std::int32_t>& id) {
    return id ? fmt::format("{} {}", name, *id) : fmt::format("no {}", name);
  };
  return fmt::format("BPE of {} tokens; {}; {}", vocabulary_size(), named("BOS", bos_id()),
                     named("EOS", eos_id()));
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) {
    return is_gguf(path) ? load_gguf_tokenizer(path) : load_json_tokenizer(path);
  }
  const std::filesystem::path file = path / "tokenizer.json";
  if (std::filesystem::exists(file)) return load_json_tokenizer(file);
  const bool has_model = std::filesystem::exists(path / "tokenizer.model");
  throw ConfigError(fmt::format("{}: this folder has no tokenizer.json", path.string()),
                    "the file of a Hugging Face fast tokenizer",
                    has_model
                        ? "transformers makes one of tokenizer.model: "
                          "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
                        : "corpus.tokenizer names a tokenizer.json, a folder with one, or a GGUF");
}

}  // namespace thresher::corpus
