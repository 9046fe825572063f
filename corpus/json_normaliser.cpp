#include "corpus/json_normaliser.h"

#include <utility>
#include <vector>

#include "corpus/text_pattern.h"
#include "corpus/unicode_normalisation.h"

namespace thresher::corpus {
namespace {

class UnicodeNormaliser : public Normaliser {
 public:
  explicit UnicodeNormaliser(NormalForm form) : form_(form) {}
  void apply(std::string& text, RegexScratch&) const override { text = normalised(text, form_); }

 private:
  NormalForm form_;
};

class LowercaseNormaliser : public Normaliser {
 public:
  void apply(std::string& text, RegexScratch&) const override { text = lower_case(text); }
};

class PrependNormaliser : public Normaliser {
 public:
  explicit PrependNormaliser(std::string prefix) : prefix_(std::move(prefix)) {}
  void apply(std::string& text, RegexScratch&) const override {
    if (!text.empty()) text.insert(0, prefix_);
  }
  bool may_move_start() const override { return true; }

 private:
  std::string prefix_;
};

class ReplaceNormaliser : public Normaliser {
 public:
  ReplaceNormaliser(Regex pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::string& text, RegexScratch& scratch) const override {
    text = replaced(text, pattern_, content_, scratch);
  }
  bool may_move_start() const override { return content_.empty(); }

 private:
  Regex pattern_;
  std::string content_;
};

class StripNormaliser : public Normaliser {
 public:
  StripNormaliser(bool left, bool right) : left_(left), right_(right) {}
  void apply(std::string& text, RegexScratch&) const override {
    if (right_) text.resize(text.size() - trailing_white_space(text));
    if (left_) text.erase(0, leading_white_space(text));
  }
  bool may_move_start() const override { return left_; }

 private:
  bool left_, right_;
};

class SequenceNormaliser : public Normaliser {
 public:
  explicit SequenceNormaliser(std::vector<std::unique_ptr<Normaliser>> parts)
      : parts_(std::move(parts)) {}
  void apply(std::string& text, RegexScratch& scratch) const override {
    for (const auto& part : parts_) part->apply(text, scratch);
  }
  bool may_move_start() const override {
    for (const auto& part : parts_) {
      if (part->may_move_start()) return true;
    }
    return false;
  }

 private:
  std::vector<std::unique_ptr<Normaliser>> parts_;
};

}  // namespace

Regex read_pattern(const JsonPlace& place) {
  if (const auto text = place.find("String")) return Regex::literal(text->string(), text->where());
  if (const auto text = place.find("Regex")) {
    return Regex(pcre2_from_oniguruma(text->string(), text->where()), text->where());
  }
  place.fail("is not a pattern", R"({"String": ...} or {"Regex": ...})");
}

std::string replaced(std::string_view text, const Regex& pattern, std::string_view content,
                     RegexScratch& scratch) {
  std::vector<TextPart> parts;
  find_parts(pattern, text, scratch, parts);
  std::string out;
  out.reserve(text.size());
  for (const TextPart& part : parts) {
    out += part.is_match ? content : text.substr(part.begin, part.end - part.begin);
  }
  return out;
}

std::unique_ptr<Normaliser> read_normaliser(const JsonPlace& place) {
  const std::string& type = place.at("type").string();
  if (type == "NFC") return std::make_unique<UnicodeNormaliser>(NormalForm::kNfc);
  if (type == "NFD") return std::make_unique<UnicodeNormaliser>(NormalForm::kNfd);
  if (type == "NFKC") return std::make_unique<UnicodeNormaliser>(NormalForm::kNfkc);
  if (type == "NFKD") return std::make_unique<UnicodeNormaliser>(NormalForm::kNfkd);
  if (type == "Lowercase") return std::make_unique<LowercaseNormaliser>();
  if (type == "Prepend") {
    return std::make_unique<PrependNormaliser>(place.at("prepend").string());
  }
  if (type == "Replace") {
    return std::make_unique<ReplaceNormaliser>(read_pattern(place.at("pattern")),
                                               place.at("content").string());
  }
  if (type == "Strip") {
    return std::make_unique<StripNormaliser>(place.at("strip_left").boolean(),
                                             place.at("strip_right").boolean());
  }
  if (type == "Sequence") {
    std::vector<std::unique_ptr<Normaliser>> parts;
    for (const JsonPlace& part : place.at("normalizers").items()) {
      parts.push_back(read_normaliser(part));
    }
    return std::make_unique<SequenceNormaliser>(std::move(parts));
  }
  place.unsupported("normalizer", type,
                    "NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip or Sequence");
}

}  // namespace thresher::corpus
