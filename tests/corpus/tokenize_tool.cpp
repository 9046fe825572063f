// Reads records from standard input and writes their token ids, for the tokenizer oracles. Binary,
// little-endian: a record is uint64 kind (0 text, 1 text with special tokens parsed, 2 int32 ids to
// decode, 3 text whose lost bytes are counted), uint64 n_bytes, bytes; the answer is uint64 n and
// n int32 ids, n bytes of text, or n = 1 and one int32 count.
#include <cstdint>
#include <cstdio>
#include <cstring>
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

/// `tokenize_tool FILE` (a GGUF, a tokenizer.json or a folder), or `tokenize_tool --vocabulary PRE`
/// with the vocabulary as the first records: number of tokens, then each token as a record, number
/// of merges, then each merge.
std::unique_ptr<thresher::corpus::Tokenizer> make_tokenizer(int argc, char** argv) {
  if (argc == 2) return thresher::corpus::load_tokenizer(argv[1]);
  if (argc != 3) throw std::runtime_error("usage: tokenize_tool FILE | --vocabulary PRE");
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

void answer(const void* items, std::uint64_t count, std::size_t item_size) {
  std::fwrite(&count, sizeof count, 1, stdout);
  std::fwrite(items, item_size, count, stdout);
}

void answer_record(const thresher::corpus::Tokenizer& tokenizer, std::uint64_t kind,
                   const std::string& record) {
  if (kind == 2) {
    std::vector<std::int32_t> ids(record.size() / sizeof(std::int32_t));
    if (!ids.empty()) std::memcpy(ids.data(), record.data(), ids.size() * sizeof(std::int32_t));
    const std::string text = tokenizer.decode(ids);
    answer(text.data(), text.size(), 1);
  } else if (kind == 3) {
    const auto lost = static_cast<std::int32_t>(tokenizer.n_lost_bytes(record));
    answer(&lost, 1, sizeof lost);
  } else {
    const std::vector<std::int32_t> ids = tokenizer.encode(record, kind == 1);
    answer(ids.data(), ids.size(), sizeof(std::int32_t));
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const auto tokenizer = make_tokenizer(argc, argv);
    std::uint64_t kind = 0, size = 0;
    while (read_u64(kind) && read_u64(size)) answer_record(*tokenizer, kind, read_bytes(size));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
