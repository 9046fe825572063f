// Reads records from standard input and writes their token ids, for tokenizer_oracle.py. Binary,
// little-endian: a record is uint64 parse_special, uint64 n_bytes, bytes; the answer is uint64
// n_ids, int32 ids.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "corpus/byte_level_tokenizer.h"
#include "corpus/tokenizer.h"

namespace {

bool read_u64(std::uint64_t& value) { return std::fread(&value, sizeof value, 1, stdin) == 1; }

std::string read_bytes(std::uint64_t size) {
  std::string bytes(size, '\0');
  if (size > 0 && std::fread(bytes.data(), 1, size, stdin) != size)
    throw std::runtime_error("short record");
  return bytes;
}

/// `tokenize_tool MODEL.gguf`, or `tokenize_tool --vocabulary PRE` with the vocabulary as the first
/// records: number of tokens, then each token as a record, number of merges, then each merge.
std::unique_ptr<thresher::corpus::Tokenizer> make_tokenizer(int argc, char** argv) {
  if (argc == 2) return thresher::corpus::load_gguf_tokenizer(argv[1]);
  if (argc != 3) throw std::runtime_error("usage: tokenize_tool MODEL.gguf | --vocabulary PRE");
  thresher::corpus::ByteLevelVocabulary vocabulary;
  vocabulary.where = "standard input";
  vocabulary.pretokenizer = argv[2];
  for (auto* list : {&vocabulary.tokens, &vocabulary.merges}) {
    std::uint64_t count = 0, size = 0;
    if (!read_u64(count)) throw std::runtime_error("short vocabulary");
    for (std::uint64_t i = 0; i < count && read_u64(size); ++i) list->push_back(read_bytes(size));
  }
  vocabulary.token_types.assign(vocabulary.tokens.size(), 1);
  return thresher::corpus::make_byte_level_tokenizer(vocabulary);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const auto tokenizer = make_tokenizer(argc, argv);
    std::uint64_t parse_special = 0, size = 0;
    while (read_u64(parse_special) && read_u64(size)) {
      const std::vector<std::int32_t> ids = tokenizer->encode(read_bytes(size), parse_special != 0);
      const std::uint64_t n_ids = ids.size();
      std::fwrite(&n_ids, sizeof n_ids, 1, stdout);
      std::fwrite(ids.data(), sizeof(std::int32_t), ids.size(), stdout);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
