#include "corpus/json_pretokenizer.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "core/utf8.h"
#include "corpus/bpe.h"
#include "corpus/json_normaliser.h"
#include "corpus/pretokenizer.h"
#include "corpus/text_pattern.h"

namespace thresher::corpus {
namespace {

// White_Space and punctuation as the library's tables of Unicode 9 have them: some characters
// became punctuation later, two ceased to be.
constexpr const char* kPunctuationPattern =
    R"([!-/:-@\[-`{-~\x{166D}\x{111C9}]|(?![\x{61D}\x{9FD}\x{A76}\x{C77}\x{C84}\x{1B7D}\x{1B7E})"
    R"(\x{2E43}-\x{2E4F}\x{2E52}-\x{2E5D}\x{10EAD}\x{10F55}-\x{10F59}\x{10F86}-\x{10F89})"
    R"(\x{1144B}-\x{1144F}\x{1145A}\x{1145B}\x{1145D}\x{11660}-\x{1166C}\x{116B9}\x{1183B})"
    R"(\x{11944}-\x{11946}\x{119E2}\x{11A3F}-\x{11A46}\x{11A9A}-\x{11A9C}\x{11A9E}-\x{11AA2})"
    R"(\x{11C41}-\x{11C45}\x{11C70}\x{11C71}\x{11EF7}\x{11EF8}\x{11FFF}\x{12FF1}\x{12FF2})"
    R"(\x{16E97}-\x{16E9A}\x{16FE2}\x{1E95E}\x{1E95F}])\p{P})";

/// Cuts at the matches of a pattern.
class SplitCutter : public PieceCutter {
 public:
  SplitCutter(Regex pattern, SplitBehaviour behaviour, bool invert)
      : pattern_(std::move(pattern)), behaviour_(behaviour), invert_(invert) {}
  void apply(Pieces& pieces, RegexScratch& scratch) const override {
    std::vector<std::string_view> out;
    std::vector<TextPart> parts;
    for (const std::string_view piece : pieces.views) {
      find_parts(pattern_, piece, scratch, parts);
      append_pieces(piece, parts, behaviour_, invert_, out);
    }
    pieces.views = std::move(out);
  }

 private:
  Regex pattern_;
  SplitBehaviour behaviour_;
  bool invert_;
};

/// Writes new pieces one after another into a text of their own.
class PieceWriter {
 public:
  std::string& text() { return text_; }
  void end_piece() { ends_.push_back(text_.size()); }
  void give_to(Pieces& pieces) {
    pieces.texts.push_back(std::move(text_));
    const std::string_view all = pieces.texts.back();
    pieces.views.clear();
    std::size_t begin = 0;
    for (const std::size_t end : ends_) {
      if (end > begin) pieces.views.push_back(all.substr(begin, end - begin));
      begin = end;
    }
  }

 private:
  std::string text_;
  std::vector<std::size_t> ends_;
};

class ByteLevelCutter : public PieceCutter {
 public:
  ByteLevelCutter(bool adds_space, bool use_regex, const std::string& where)
      : adds_space_(adds_space) {
    if (use_regex) {
      split_ =
          std::make_unique<SplitCutter>(Regex(pcre2_from_oniguruma(kGpt2Pattern, where), where),
                                        SplitBehaviour::kIsolated, false);
    }
  }
  void apply(Pieces& pieces, RegexScratch& scratch) const override {
    if (adds_space_) {
      PieceWriter spaced;
      for (const std::string_view piece : pieces.views) {
        if (piece.front() != ' ') spaced.text() += ' ';
        spaced.text() += piece;
        spaced.end_piece();
      }
      spaced.give_to(pieces);
    }
    if (split_) split_->apply(pieces, scratch);
    PieceWriter spelled;
    const std::array<std::string, 256>& alphabet = byte_alphabet();
    for (const std::string_view piece : pieces.views) {
      for (const char byte : piece) spelled.text() += alphabet[static_cast<unsigned char>(byte)];
      spelled.end_piece();
    }
    spelled.give_to(pieces);
  }
  bool is_byte_level() const override { return true; }

 private:
  bool adds_space_;
  std::unique_ptr<SplitCutter> split_;
};

enum class PrependScheme { kAlways, kFirst, kNever };

class MetaspaceCutter : public PieceCutter {
 public:
  MetaspaceCutter(std::string replacement, PrependScheme scheme, bool split,
                  const std::string& where)
      : replacement_(std::move(replacement)), scheme_(scheme) {
    if (split) {
      split_ = std::make_unique<SplitCutter>(Regex::literal(replacement_, where),
                                             SplitBehaviour::kMergedWithNext, false);
    }
  }
  void apply(Pieces& pieces, RegexScratch& scratch) const override {
    PieceWriter marked;
    bool is_first = pieces.is_at_start;
    for (const std::string_view piece : pieces.views) {
      const bool wants_prefix =
          scheme_ == PrependScheme::kAlways || (scheme_ == PrependScheme::kFirst && is_first);
      is_first = false;
      if (wants_prefix && piece.front() != ' ' && !piece.starts_with(replacement_)) {
        marked.text() += replacement_;
      }
      for (const char byte : piece) {
        if (byte == ' ') {
          marked.text() += replacement_;
        } else {
          marked.text() += byte;
        }
      }
      marked.end_piece();
    }
    marked.give_to(pieces);
    if (split_) split_->apply(pieces, scratch);
  }
  bool knows_start() const override { return scheme_ == PrependScheme::kFirst; }

 private:
  std::string replacement_;
  PrependScheme scheme_;
  std::unique_ptr<SplitCutter> split_;
};

class SequenceCutter : public PieceCutter {
 public:
  explicit SequenceCutter(std::vector<std::unique_ptr<PieceCutter>> parts)
      : parts_(std::move(parts)) {}
  void apply(Pieces& pieces, RegexScratch& scratch) const override {
    for (const auto& part : parts_) part->apply(pieces, scratch);
  }
  bool is_byte_level() const override {
    for (const auto& part : parts_) {
      if (part->is_byte_level()) return true;
    }
    return false;
  }
  bool knows_start() const override { return !parts_.empty() && parts_.front()->knows_start(); }

 private:
  std::vector<std::unique_ptr<PieceCutter>> parts_;
};

SplitBehaviour read_behaviour(const JsonPlace& place) {
  const std::string& name = place.string();
  if (name == "Removed") return SplitBehaviour::kRemoved;
  if (name == "Isolated") return SplitBehaviour::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehaviour::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehaviour::kMergedWithNext;
  if (name == "Contiguous") return SplitBehaviour::kContiguous;
  place.unsupported("behaviour", name,
                    "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

PrependScheme read_scheme(const JsonPlace& place) {
  PrependScheme scheme = PrependScheme::kAlways;
  if (const auto named = place.find("prepend_scheme")) {
    const std::string& name = named->string();
    if (name == "first") {
      scheme = PrependScheme::kFirst;
    } else if (name == "never") {
      scheme = PrependScheme::kNever;
    } else if (name != "always") {
      named->unsupported("scheme", name, "always, first or never");
    }
  }
  if (!place.boolean_or("add_prefix_space", true) && scheme != PrependScheme::kNever) {
    place.fail("add_prefix_space is false, but prepend_scheme is not never",
               "two settings that agree");
  }
  return scheme;
}

std::unique_ptr<PieceCutter> read_metaspace(const JsonPlace& place) {
  const JsonPlace replacement = place.at("replacement");
  const std::string& mark = replacement.string();
  if (mark.empty() || utf8_sequence_length(mark, 0) != mark.size()) {
    replacement.fail("is not one character", "one character");
  }
  return std::make_unique<MetaspaceCutter>(mark, read_scheme(place),
                                           place.boolean_or("split", true), place.where());
}

std::unique_ptr<PieceCutter> read_sequence(const JsonPlace& place) {
  std::vector<std::unique_ptr<PieceCutter>> parts;
  for (const JsonPlace& part : place.at("pretokenizers").items()) {
    parts.push_back(read_pretokenizer(part));
    // The library asks where a piece stood in the text; we only know it of the first.
    if (parts.size() > 1 && parts.back()->knows_start()) {
      part.fail("prepend_scheme first is not supported behind another pre-tokenizer",
                "always, never, or the first place in the sequence");
    }
  }
  return std::make_unique<SequenceCutter>(std::move(parts));
}

std::unique_ptr<PieceCutter> cutter_at(const std::string& pattern, SplitBehaviour behaviour,
                                       bool invert, const JsonPlace& place) {
  return std::make_unique<SplitCutter>(Regex(pattern, place.where()), behaviour, invert);
}

}  // namespace

std::unique_ptr<PieceCutter> read_pretokenizer(const JsonPlace& place) {
  const std::string& type = place.at("type").string();
  if (type == "ByteLevel") {
    return std::make_unique<ByteLevelCutter>(place.at("add_prefix_space").boolean(),
                                             place.boolean_or("use_regex", true), place.where());
  }
  if (type == "Split") {
    return std::make_unique<SplitCutter>(read_pattern(place.at("pattern")),
                                         read_behaviour(place.at("behavior")),
                                         place.at("invert").boolean());
  }
  if (type == "Digits") {
    return cutter_at(R"(\p{N})",
                     place.at("individual_digits").boolean() ? SplitBehaviour::kIsolated
                                                             : SplitBehaviour::kContiguous,
                     false, place);
  }
  if (type == "Whitespace") {
    return cutter_at(fmt::format("[{0}]+|[^{0}{1}]+", kRustWordClass, kWhiteSpaceClass),
                     SplitBehaviour::kRemoved, true, place);
  }
  if (type == "WhitespaceSplit") {
    return cutter_at(fmt::format("[{}]", kWhiteSpaceClass), SplitBehaviour::kRemoved, false, place);
  }
  if (type == "Punctuation") {
    const auto behaviour = place.find("behavior");
    return cutter_at(kPunctuationPattern,
                     behaviour ? read_behaviour(*behaviour) : SplitBehaviour::kIsolated, false,
                     place);
  }
  if (type == "Metaspace") return read_metaspace(place);
  if (type == "Sequence") return read_sequence(place);
  place.unsupported("pre-tokenizer", type,
                    "ByteLevel, Split, Digits, Whitespace, WhitespaceSplit, Punctuation, Metaspace "
                    "or Sequence");
}

}  // namespace thresher::corpus
