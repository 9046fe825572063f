#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/log.h"
#include "corpus/added_tokens.h"
#include "corpus/bpe_model.h"
#include "corpus/json_decoder.h"
#include "corpus/json_normaliser.h"
#include "corpus/json_pretokenizer.h"
#include "corpus/special_ids.h"
#include "corpus/tokenizer.h"
#include "corpus/utf8.h"

namespace thresher::corpus {
namespace {

// The largest tokenizer.json of a known model has 35 MB.
constexpr std::uint64_t kMaxBytes = 64U << 20;

class JsonTokenizer : public Tokenizer {
 public:
  JsonTokenizer(const JsonPlace& file, const std::filesystem::path& path);

  std::vector<std::int32_t> encode(std::string_view text, bool parse_special) const override {
    std::vector<std::int32_t> ids;
    encode_counting(text, parse_special, ids);
    return ids;
  }
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::int64_t n_lost_bytes(std::string_view text) const override {
    if (loses_nothing_) return 0;
    std::vector<std::int32_t> ids;
    return encode_counting(text, false, ids);
  }
  std::int64_t vocabulary_size() const override { return std::max(model_.size(), added_.size()); }
  std::optional<std::int32_t> bos_id() const override { return special_.bos; }
  std::optional<std::int32_t> eos_id() const override { return special_.eos; }
  bool adds_bos() const override { return special_.adds_bos; }
  bool is_special(std::int32_t id) const override {
    return added_.is_special(id) || id == special_.bos ||
           std::find(special_.all_eos.begin(), special_.all_eos.end(), id) !=
               special_.all_eos.end();
  }
  std::string fingerprint() const override { return fingerprint_; }
  std::string description() const override;

 private:
  struct Scratch {
    RegexScratch regex;
    BpeModel::Symbols symbols;
  };
  std::int64_t encode_counting(std::string_view text, bool parse_special,
                               std::vector<std::int32_t>& ids) const;
  std::int64_t encode_valid(std::string_view text, bool parse_special, Scratch& scratch,
                            std::vector<std::int32_t>& ids) const;
  std::int64_t encode_section(std::string_view text, bool is_at_start, Scratch& scratch,
                              std::vector<std::int32_t>& ids) const;
  std::int64_t encode_invalid(std::string_view bytes, Scratch& scratch,
                              std::vector<std::int32_t>& ids) const;

  std::unordered_set<std::string> special_contents_;
  BpeModel model_;
  std::unique_ptr<Normaliser> normaliser_;  // may be null, as the next two
  std::unique_ptr<PieceCutter> cutter_;
  std::unique_ptr<TokenDecoder> decoder_;
  AddedTokens added_;
  SpecialIds special_;
  bool is_byte_level_ = false, loses_nothing_ = false;
  std::string fingerprint_;
};

template <class Component>
std::unique_ptr<Component> read_optional(const JsonPlace& file, std::string_view key,
                                         std::unique_ptr<Component> (*read)(const JsonPlace&)) {
  const auto place = file.find(key);
  return place ? read(*place) : nullptr;
}

/// SHA-256 over everything in the file that decides ids, and over BOS and EOS.
std::string fingerprint_of(const JsonPlace& file, const SpecialIds& special) {
  Sha256 hash;
  const auto add = [&hash](std::string_view text) {
    const std::string framed = fmt::format("{}:{}", text.size(), text);
    hash.update(std::as_bytes(std::span(framed)));
  };
  add("tokenizer-json-1");
  for (const std::string_view key : {"added_tokens", "normalizer", "pre_tokenizer", "model"}) {
    const Json* part = file.value().find(key);
    add(part == nullptr ? "null" : part->dump());
  }
  add(special.bos ? std::to_string(*special.bos) : "none");
  for (const std::int32_t id : special.all_eos) add(std::to_string(id));
  return hash.hex();
}

JsonTokenizer::JsonTokenizer(const JsonPlace& file, const std::filesystem::path& path)
    : special_contents_(AddedTokens::special_contents(file.find("added_tokens"))),
      model_(file.at("model"), special_contents_),
      normaliser_(read_optional(file, "normalizer", read_normaliser)),
      cutter_(read_optional(file, "pre_tokenizer", read_pretokenizer)),
      decoder_(read_optional(file, "decoder", read_decoder)),
      added_(file.find("added_tokens"), model_, normaliser_.get()) {
  if (cutter_ && cutter_->knows_start() && normaliser_ && normaliser_->may_move_start()) {
    file.at("pre_tokenizer")
        .fail("prepend_scheme first is not supported together with this normalizer",
              "a normalizer that leaves the start of the text where it is");
  }
  is_byte_level_ = cutter_ && cutter_->is_byte_level();
  loses_nothing_ = is_byte_level_ ? model_.has_byte_alphabet() : model_.has_all_bytes();
  special_ = find_special_ids(
      file, path,
      [this](std::string_view token) {
        const auto added = added_.id_of(token);
        return added ? added : model_.id_of(token);
      },
      vocabulary_size());
  fingerprint_ = fingerprint_of(file, special_);
}

std::int64_t JsonTokenizer::encode_counting(std::string_view text, bool parse_special,
                                            std::vector<std::int32_t>& ids) const {
  Scratch scratch;
  std::int64_t n_lost = 0;
  ids.reserve(text.size() / 3);
  for (std::size_t begin = 0; begin < text.size();) {
    const Utf8Run run = next_utf8_run(text, begin);
    n_lost += run.is_valid ? encode_valid(run.bytes, parse_special, scratch, ids)
                           : encode_invalid(run.bytes, scratch, ids);
    begin += run.bytes.size();
  }
  return n_lost;
}

std::int64_t JsonTokenizer::encode_valid(std::string_view text, bool parse_special,
                                         Scratch& scratch, std::vector<std::int32_t>& ids) const {
  std::int64_t n_lost = 0;
  std::string normal;
  for (const AddedTokens::Section& raw : added_.cut(text, false, parse_special, scratch.regex)) {
    if (raw.id >= 0) {
      ids.push_back(raw.id);
      continue;
    }
    std::string_view section = text.substr(raw.begin, raw.end - raw.begin);
    if (normaliser_) {
      normal.assign(section);
      normaliser_->apply(normal, scratch.regex);
      section = normal;
    }
    for (const AddedTokens::Section& part :
         added_.cut(section, true, parse_special, scratch.regex)) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      n_lost += encode_section(section.substr(part.begin, part.end - part.begin),
                               raw.begin == 0 && part.begin == 0, scratch, ids);
    }
  }
  return n_lost;
}

std::int64_t JsonTokenizer::encode_section(std::string_view text, bool is_at_start,
                                           Scratch& scratch, std::vector<std::int32_t>& ids) const {
  Pieces pieces;
  pieces.views = {text};
  pieces.is_at_start = is_at_start;
  if (cutter_) cutter_->apply(pieces, scratch.regex);
  std::int64_t n_lost = 0;
  for (const std::string_view piece : pieces.views) {
    const BpeModel::Lost lost = model_.encode(piece, scratch.symbols, ids);
    n_lost += is_byte_level_ ? lost.characters : lost.bytes;
  }
  return n_lost;
}

std::int64_t JsonTokenizer::encode_invalid(std::string_view bytes, Scratch& scratch,
                                           std::vector<std::int32_t>& ids) const {
  if (!is_byte_level_) return model_.encode_bytes(bytes, scratch.symbols, ids).bytes;
  std::string spelled;
  for (const char byte : bytes) spelled += byte_alphabet()[static_cast<unsigned char>(byte)];
  return model_.encode(spelled, scratch.symbols, ids).characters;
}

std::string JsonTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const std::int32_t id : ids) {
    THRESHER_CHECK(id >= 0 && id < vocabulary_size(), fmt::format("token id {}", id));
    const std::string* added = added_.spelling(id);
    if (added != nullptr) {
      tokens.push_back(*added);
    } else if (const std::string_view token = model_.token(id); !token.empty()) {
      tokens.emplace_back(token);
    }
  }
  if (!decoder_) return fmt::format("{}", fmt::join(tokens, " "));
  RegexScratch scratch;
  decoder_->apply(tokens, scratch);
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

std::string JsonTokenizer::description() const {
  const auto named = [this](const char* name, const std::optional<std::int32_t>& id,
                            const std::string& source) {
    if (!id) return fmt::format("no {}", name);
    const std::string* added = added_.spelling(*id);
    const std::string_view text = added != nullptr ? *added : model_.token(*id);
    return fmt::format("{} {} {} ({})", name, *id, Json(text.substr(0, 60)).dump(), source);
  };
  return fmt::format("BPE of {} tokens; {}; {}", vocabulary_size(),
                     named("BOS", special_.bos, special_.bos_source),
                     named("EOS", special_.eos, special_.eos_source));
}

}  // namespace

std::unique_ptr<Tokenizer> load_json_tokenizer(const std::filesystem::path& path) {
  return parse_json_tokenizer(read_text_file(path, kMaxBytes), path);
}

std::unique_ptr<Tokenizer> parse_json_tokenizer(std::string_view text,
                                                const std::filesystem::path& path) {
  const Json json = Json::parse(text, path.string());
  const JsonPlace file(json, path.string());
  if (const auto version = file.find("version"); version && version->string() != "1.0") {
    version->unsupported("version", version->string(), "1.0");
  }
  return std::make_unique<JsonTokenizer>(file, path);
}

}  // namespace thresher::corpus
