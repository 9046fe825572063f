#include "corpus/json_decoder.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "core/utf8.h"
#include "corpus/bpe.h"
#include "corpus/json_normaliser.h"
#include "corpus/utf8.h"

namespace thresher::corpus {
namespace {

void join(std::vector<std::string>& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  tokens.assign(1, std::move(text));
}

class ByteLevelDecoder : public TokenDecoder {
 public:
  void apply(std::vector<std::string>& tokens, RegexScratch&) const override {
    std::string bytes;
    for (std::string& token : tokens) {
      if (decode_byte_spelling(token, bytes)) token = bytes;
    }
    join(tokens);
  }
};

class FuseDecoder : public TokenDecoder {
 public:
  void apply(std::vector<std::string>& tokens, RegexScratch&) const override { join(tokens); }
};

class ReplaceDecoder : public TokenDecoder {
 public:
  ReplaceDecoder(Regex pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::vector<std::string>& tokens, RegexScratch& scratch) const override {
    for (std::string& token : tokens) {
      std::string out;
      // Bytes of an earlier decoder need not be UTF-8, which patterns demand.
      for (std::size_t begin = 0; begin < token.size();) {
        const Utf8Run run = next_utf8_run(token, begin);
        out += run.is_valid ? replaced(run.bytes, pattern_, content_, scratch)
                            : std::string(run.bytes);
        begin += run.bytes.size();
      }
      token = std::move(out);
    }
  }

 private:
  Regex pattern_;
  std::string content_;
};

int hex_digit(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return -1;
}

class ByteFallbackDecoder : public TokenDecoder {
 public:
  void apply(std::vector<std::string>& tokens, RegexScratch&) const override {
    for (std::string& token : tokens) {
      if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') continue;
      const int high = hex_digit(token[3]), low = hex_digit(token[4]);
      if (high >= 0 && low >= 0) token.assign(1, static_cast<char>(high * 16 + low));
    }
  }
};

/// Takes up to `start` and `stop` of a character from a token's ends.
class StripDecoder : public TokenDecoder {
 public:
  StripDecoder(std::string content, std::size_t start, std::size_t stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}
  void apply(std::vector<std::string>& tokens, RegexScratch&) const override {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (std::size_t i = 0; i < start_ && rest.starts_with(content_); ++i) {
        rest.remove_prefix(content_.size());
      }
      for (std::size_t i = 0; i < stop_ && rest.ends_with(content_); ++i) {
        rest.remove_suffix(content_.size());
      }
      token = std::string(rest);
    }
  }

 private:
  std::string content_;
  std::size_t start_, stop_;
};

class MetaspaceDecoder : public TokenDecoder {
 public:
  MetaspaceDecoder(std::string replacement, bool drops_first)
      : replacement_(std::move(replacement)), drops_first_(drops_first) {}
  void apply(std::vector<std::string>& tokens, RegexScratch&) const override {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const std::string_view with = i == 0 && drops_first_ ? "" : " ";
      std::string out;
      std::string_view rest = tokens[i];
      for (std::size_t found; (found = rest.find(replacement_)) != std::string_view::npos;) {
        out += rest.substr(0, found);
        out += with;
        rest.remove_prefix(found + replacement_.size());
      }
      tokens[i] = out.append(rest);
    }
  }

 private:
  std::string replacement_;
  bool drops_first_;
};

class SequenceDecoder : public TokenDecoder {
 public:
  explicit SequenceDecoder(std::vector<std::unique_ptr<TokenDecoder>> parts)
      : parts_(std::move(parts)) {}
  void apply(std::vector<std::string>& tokens, RegexScratch& scratch) const override {
    for (const auto& part : parts_) part->apply(tokens, scratch);
  }

 private:
  std::vector<std::unique_ptr<TokenDecoder>> parts_;
};

std::string read_character(const JsonPlace& place) {
  const std::string& text = place.string();
  if (text.empty() || utf8_sequence_length(text, 0) != text.size()) {
    place.fail("is not one character", "one character");
  }
  return text;
}

std::size_t read_count(const JsonPlace& place) {
  const std::int64_t count = place.integer();
  if (count < 0 || count > 1'000'000) place.fail("is out of range", "0 to 1,000,000");
  return static_cast<std::size_t>(count);
}

}  // namespace

std::unique_ptr<TokenDecoder> read_decoder(const JsonPlace& place) {
  const std::string& type = place.at("type").string();
  if (type == "ByteLevel") return std::make_unique<ByteLevelDecoder>();
  if (type == "ByteFallback") return std::make_unique<ByteFallbackDecoder>();
  if (type == "Fuse") return std::make_unique<FuseDecoder>();
  if (type == "Replace") {
    return std::make_unique<ReplaceDecoder>(read_pattern(place.at("pattern")),
                                            place.at("content").string());
  }
  if (type == "Strip") {
    return std::make_unique<StripDecoder>(read_character(place.at("content")),
                                          read_count(place.at("start")),
                                          read_count(place.at("stop")));
  }
  if (type == "Metaspace") {
    const auto scheme = place.find("prepend_scheme");
    const bool never =
        (scheme && scheme->string() == "never") || !place.boolean_or("add_prefix_space", true);
    return std::make_unique<MetaspaceDecoder>(read_character(place.at("replacement")), !never);
  }
  if (type == "Sequence") {
    std::vector<std::unique_ptr<TokenDecoder>> parts;
    for (const JsonPlace& part : place.at("decoders").items()) parts.push_back(read_decoder(part));
    return std::make_unique<SequenceDecoder>(std::move(parts));
  }
  place.unsupported("decoder", type,
                    "ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace or Sequence");
}

}  // namespace thresher::corpus
