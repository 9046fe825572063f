#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thresher::corpus {

/// Text to token ids and back. Several threads may use one object at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// Ids of `text`, any bytes: a maximal run of bytes that is not valid UTF-8 is encoded as a piece
  /// of its own. Text that spells a special token ("<|im_start|>") is ordinary text unless
  /// `parse_special`; a document must not be able to forge control tokens. No BOS or EOS is added.
  virtual std::vector<std::int32_t> encode(std::string_view text,
                                           bool parse_special = false) const = 0;
  /// The bytes of the tokens, not always valid UTF-8. (The `tokenizers` library puts U+FFFD for
  /// bytes that are not; otherwise the two agree.)
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
  /// Bytes of `text` that encode leaves out because the vocabulary has no token for them (SmolLM2
  /// has none for 21 byte values, all of them control characters or bytes of no common character);
  /// decode(encode(text)) gives back all others, unless the tokenizer normalises text or
  /// leaves parts of it out by its own rules.
  virtual std::int64_t n_lost_bytes(std::string_view text) const;
  virtual std::int64_t vocabulary_size() const = 0;
  virtual std::optional<std::int32_t> bos_id() const = 0;
  virtual std::optional<std::int32_t> eos_id() const = 0;
  virtual bool is_special(std::int32_t id) const = 0;
  /// True if the model's own tokenizer puts BOS before every text. encode never does.
  virtual bool adds_bos() const;
  /// Size, BOS and EOS and where they are from, for people; one line without control characters.
  virtual std::string description() const;
  /// SHA-256 over everything that decides ids: vocabulary, merges, pre-tokeniser, special tokens.
  virtual std::string fingerprint() const = 0;
};

/// Byte-level BPE from a GGUF's metadata (tokenizer.ggml.model = "gpt2"; tokens, merges,
/// token_type, pre). DataError if the file lacks them or names a pre-tokeniser that is not known
/// (the known ones are listed in the message).
std::unique_ptr<Tokenizer> load_gguf_tokenizer(const std::filesystem::path& gguf);

/// BPE from a Hugging Face tokenizer.json (at most 64 MiB), ids as the `tokenizers` library gives
/// them with add_special_tokens=False and, unless parse_special, encode_special_tokens=True. BOS
/// and EOS: see corpus/special_ids.h. Truncation, padding and templates are not applied. A maximal
/// run of valid UTF-8 is a text of its own to the tokenizer; bytes between are encoded by
/// themselves. Where the library lets merges or ignore_merges make a special token out of plain
/// text, this does not. DataError, naming the component and where it stands, for what is damaged or
/// not supported.
std::unique_ptr<Tokenizer> load_json_tokenizer(const std::filesystem::path& path);
/// The same from the text of a tokenizer.json that stands, or would stand, at `path`.
std::unique_ptr<Tokenizer> parse_json_tokenizer(std::string_view text,
                                                const std::filesystem::path& path);

/// The tokenizer in a GGUF, a tokenizer.json, or a folder with a tokenizer.json. ConfigError for a
/// folder without one.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

}  // namespace thresher::corpus
