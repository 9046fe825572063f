// Writes the binary seeds of the fuzz corpora, and those that hold checksums:
//   make_fuzz_seeds tests/fuzz/corpus
// The others are written by hand.
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "tests/activation_cache/cache_testing.h"
#include "tests/core/gguf_builder.h"
#include "tests/corpus/small_vocabulary.h"
#include "tests/fuzz/sample_cache.h"
#include "trainer/checkpoint_format.h"

namespace thresher::fuzz {
namespace {

using testing::GgufBuilder;
using testing::raw;

void write(const std::filesystem::path& path, const std::string& bytes) {
  write_file_atomically(path, bytes);
}

std::string gguf_of_every_kind() {
  GgufBuilder builder;
  builder.string("general.architecture", "llama").uint32("general.alignment", 32);
  builder.entry("u8", 0, "a")
      .entry("i16", 3, "ab")
      .entry("f64", 12, raw(1.0))
      .entry("yes", 7, "\1");
  builder.entry("u64", 10, raw<std::uint64_t>(9)).float32("f32", 2.0F);
  builder.strings("tokens", {"a", "b", "", "\xC4\xA0the"})
      .array("types", 5, 3, std::string(12, '\1'));
  builder.array("scores", 6, 2, raw(1.0F) + raw(2.0F)).array("flags", 7, 2, std::string("\0\1", 2));
  builder.float32_tensor("f32", {2, 3}, {1, 2, 3, 4, 5, 6});
  builder.tensor({.name = "f16", .dimensions = {4}, .type = 1, .data = "abcdefgh"});
  builder.tensor({.name = "bf16", .dimensions = {3}, .type = 30, .data = "abcdef"});
  builder.tensor({.name = "q4_1", .dimensions = {32, 2}, .type = 3, .data = std::string(40, 'q')});
  builder.tensor({.name = "q8_0", .dimensions = {64}, .type = 8, .data = std::string(68, 'r')});
  builder.tensor({.name = "q6_K", .dimensions = {256}, .type = 14, .data = std::string(210, 's')});
  return builder.bytes();
}

std::string gguf_tokenizer() {
  const corpus::ByteLevelVocabulary vocabulary = testing::small_vocabulary();
  std::string types;
  for (const std::int64_t type : vocabulary.token_types) {
    types += raw(static_cast<std::int32_t>(type));
  }
  GgufBuilder builder;
  builder.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "smollm");
  builder.strings("tokenizer.ggml.tokens", vocabulary.tokens)
      .array("tokenizer.ggml.token_type", 5, vocabulary.token_types.size(), types)
      .strings("tokenizer.ggml.merges", vocabulary.merges)
      .uint32("tokenizer.ggml.bos_token_id", testing::kEnd)
      .entry("tokenizer.ggml.add_bos_token", 7, std::string(1, '\1'));
  return builder.bytes();
}

std::string npy(const std::string& description, std::size_t data_bytes) {
  std::string header = description;
  header.resize(117, ' ');
  header += '\n';
  return std::string("\x93NUMPY\x01\x00", 8) + raw(static_cast<std::uint16_t>(header.size())) +
         header + std::string(data_bytes, '\0');
}

void write_cache_seeds(const std::filesystem::path& out) {
  const testing::ScratchFolder folder;
  const auto identity = sample_identity();
  activation_cache::testing::write_cache(folder.path(), identity);
  write(out / "commit_log/good", read_text_file(folder / "commits/w000.log"));
  write(out / "cache_manifest/good", read_text_file(folder / "MANIFEST.json"));
  write(out / "cache_identity/good", read_text_file(folder / "cache.json"));
}

void write_checkpoint_seeds(const std::filesystem::path& out) {
  Json files = Json::array();
  for (const char* name :
       {trainer::kModelFile, trainer::kOptimiserFile, trainer::kStateFile, trainer::kConfigFile}) {
    files.push_back(
        Json::object({{"name", name}, {"bytes", 12}, {"sha256", std::string(64, '0')}}));
  }
  const Json commit = Json::object({{"format", trainer::kCheckpointFormat},
                                    {"files", files},
                                    {"sha256", trainer::commit_hash(files)}});
  write(out / "checkpoint_commit/good", commit.dump(2) + "\n");
  const Json state =
      Json::object({{"format", trainer::kCheckpointFormat},
                    {"step", 1200},
                    {"tokens", 614400},
                    {"metrics_bytes", 4711},
                    {"identity", Json::object({{"run", Json::object({{"seed", 1}})}})},
                    {"figures", Json::object({{"topk", Json::object({{"fvu", 0.25}})}})}});
  write(out / "checkpoint_state/good", state.dump(2) + "\n");
}

void write_all_seeds(const std::filesystem::path& out) {
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  const std::vector<std::uint16_t> halves{0x3C00, 0xC000};
  const std::vector<SafetensorsTensor> tensors{
      {"W", "F32", {2, 3}, std::as_bytes(std::span(values))},
      {"b", "BF16", {2}, std::as_bytes(std::span(halves))},
      {"empty", "I64", {0, 4}, {}}};
  write_safetensors(out / "safetensors/good", tensors, {{"format", "pt"}});
  write(out / "gguf/good", gguf_of_every_kind());
  write(out / "gguf_tokenizer/good", gguf_tokenizer());
  write(out / "npy/good", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 24));
  write(out / "npy/good-row", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (5,), }", 5));
  write(out / "npy/object", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 8));
  write_cache_seeds(out);
  write_checkpoint_seeds(out);
}

}  // namespace
}  // namespace thresher::fuzz

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: make_fuzz_seeds FOLDER\n", stderr);
    return 64;
  }
  try {
    thresher::fuzz::write_all_seeds(argv[1]);
  } catch (const thresher::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
