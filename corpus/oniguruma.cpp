#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/utf8.h"
#include "corpus/regex.h"

namespace thresher::corpus {
namespace {

// Oniguruma's word characters: no joiners, but superscripts and fractions of Latin-1.
constexpr const char* kWordClass =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";
// Everything but Unicode's White_Space: a negated set cannot stand inside a set.
constexpr const char* kNotWhiteSpaceClass =
    R"(\x{0}-\x{8}\x{E}-\x{1F}\x{21}-\x{84}\x{86}-\x{9F}\x{A1}-\x{167F}\x{1681}-\x{1FFF})"
    R"(\x{200B}-\x{2027}\x{202A}-\x{202E}\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{10FFFF})";
constexpr const char* kHexClass = "0-9A-Fa-f";

constexpr std::array<std::string_view, 37> kCategories = {
    "C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",
    "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi",
    "Po", "Ps", "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs"};
constexpr std::array<std::pair<std::string_view, std::string_view>, 8> kLongNames = {
    {{"Letter", "L"},
     {"Mark", "M"},
     {"Number", "N"},
     {"Punctuation", "P"},
     {"Symbol", "S"},
     {"Separator", "Z"},
     {"Alphabetic", "Alphabetic"},
     {"Any", "Any"}}};

class Translator {
 public:
  Translator(std::string_view pattern, std::string_view where) : in_(pattern), where_(where) {}

  std::string run() {
    if (in_.starts_with("(?i)")) {
      out_ = "(?i)";
      at_ = 4;
    }
    while (at_ < in_.size()) step();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view construct, std::size_t at) const {
    throw DataError(
        fmt::format("{}: {} at byte {} of the regular expression is not supported", where_,
                    construct, at),
        "literals, ., sets, \\p{...}, \\s \\d \\w, groups, lookarounds, quantifiers, (?i:...)");
  }
  bool next_is(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  void copy(std::size_t bytes) {
    out_ += in_.substr(at_, bytes);
    at_ += bytes;
  }

  void step() {
    switch (in_[at_]) {
      case '\\':
        escape(false);
        return;
      case '[':
        set();
        return;
      case '(':
        group();
        return;
      case '{':
        braces();
        return;
      default:
        character();
    }
  }

  /// A character as it stands; one byte if it is none, which PCRE2 will refuse.
  void character() { copy(std::max<std::size_t>(utf8_sequence_length(in_, at_), 1)); }

  void group() {
    if (!next_is("(?")) return copy(1);
    for (const std::string_view plain :
         {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?-i:"}) {
      if (next_is(plain)) return copy(plain.size());
    }
    // Ruby's m lets . match a line break, which is s in PCRE2.
    if (next_is("(?m:")) {
      out_ += "(?s:";
      at_ += 4;
      return;
    }
    refuse(fmt::format("'{}'", in_.substr(at_, 4)), at_);
  }

  void braces() {
    const std::size_t end = in_.find('}', at_);
    const std::string_view inside =
        end == std::string_view::npos ? std::string_view() : in_.substr(at_ + 1, end - at_ - 1);
    const bool is_quantifier = !inside.empty() && inside != "," &&
                               inside.find_first_not_of("0123456789,") == std::string_view::npos;
    if (!is_quantifier) {
      out_ += "\\{";
      ++at_;
      return;
    }
    out_ += inside.front() == ',' ? fmt::format("{{0{}}}", inside) : fmt::format("{{{}}}", inside);
    at_ = end + 1;
    // {n}? and {n}+ mean other things in the two languages.
    const bool is_fixed = inside.find(',') == std::string_view::npos;
    if (next_is("+") || (is_fixed && next_is("?"))) refuse("a quantifier on {n}", at_);
  }

  void set() {
    const std::size_t begin = at_;
    copy(1);
    if (next_is("^")) copy(1);
    if (next_is("]")) refuse("']' as the first member of a set", at_);
    while (at_ < in_.size() && in_[at_] != ']') {
      if (in_[at_] == '[') refuse("a set within a set", at_);
      if (next_is("&&")) refuse("an intersection of sets", at_);
      set_member();
    }
    if (at_ == in_.size()) refuse("a set without an end", begin);
    copy(1);
  }

  /// Beside a class ("[\\w-x]", "[x-\\w]") a hyphen is a hyphen; written out, the class would turn
  /// it into a range.
  void set_member() {
    const auto is_class = [&](std::size_t at) {
      return at + 1 < in_.size() && in_[at] == '\\' &&
             std::string_view("sSwWhHdDpP").find(in_[at + 1]) != std::string_view::npos;
    };
    if (in_[at_] == '-' && is_class(at_ + 1)) {
      out_ += "\\-";
      ++at_;
    } else if (in_[at_] == '\\') {
      const bool was_class = is_class(at_);
      escape(true);
      if (!was_class || !next_is("-")) return;
      out_ += "\\-";
      ++at_;
    } else {
      character();
    }
  }

  void emit_set(bool is_in_set, std::string_view members, std::string_view others) {
    if (is_in_set) {
      if (members.empty()) refuse(fmt::format("'\\{}' within a set", in_[at_ + 1]), at_);
      out_ += members;
    } else {
      out_ += others.empty() ? fmt::format("[{}]", members) : fmt::format("[^{}]", others);
    }
    at_ += 2;
  }

  void escape(bool is_in_set) {
    if (at_ + 1 == in_.size()) refuse("'\\' at the end", at_);
    const char kind = in_[at_ + 1];
    switch (kind) {
      case 's':
        return emit_set(is_in_set, kWhiteSpaceClass, "");
      case 'S':
        return emit_set(is_in_set, kNotWhiteSpaceClass, "");
      case 'w':
        return emit_set(is_in_set, kWordClass, "");
      case 'W':
        return emit_set(is_in_set, "", kWordClass);
      case 'h':
        return emit_set(is_in_set, kHexClass, "");
      case 'H':
        return emit_set(is_in_set, "", kHexClass);
      case 'd':
        return emit_set(is_in_set, R"(\p{Nd})", "");
      case 'D':
        return emit_set(is_in_set, R"(\P{Nd})", "");
      case 'p':
      case 'P':
        return property();
      case 'x':
      case 'u':
        return code_point();
      case 'v':
        out_ += R"(\x{B})";
        at_ += 2;
        return;
      case 't':
      case 'n':
      case 'r':
      case 'f':
      case 'a':
      case 'e':
        return copy(2);
      case 'A':
      case 'z':
        if (!is_in_set) return copy(2);
        break;
      default:
        break;
    }
    const auto byte = static_cast<unsigned char>(kind);
    const bool is_letter_or_digit = (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') ||
                                    (byte >= 'a' && byte <= 'z');
    if (is_letter_or_digit) refuse(fmt::format("'\\{}'", kind), at_);
    if (byte < 0x80) return copy(2);
    ++at_;  // an escaped character outside ASCII is itself
    character();
  }

  void property() {
    const std::size_t begin = at_;
    const std::size_t end = in_.find('}', at_);
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || end == std::string_view::npos) {
      refuse(fmt::format("'\\{}' without {{...}}", in_[at_ + 1]), begin);
    }
    std::string_view name = in_.substr(at_ + 3, end - at_ - 3);
    bool is_negated = in_[at_ + 1] == 'P';
    if (name.starts_with('^')) {
      is_negated = !is_negated;
      name.remove_prefix(1);
    }
    std::string known;
    for (const std::string_view category : kCategories) {
      if (name == category) known = category;
    }
    for (const auto& [long_name, short_name] : kLongNames) {
      if (name == long_name) known = short_name;
    }
    if (known.empty()) {
      if (name.empty() ||
          name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_ ") !=
              std::string_view::npos) {
        refuse("this property's name", begin);
      }
      // PCRE2 takes a bare script's name for the script's extensions.
      known = fmt::format("sc:{}", name);
    }
    out_ += fmt::format("\\{}{{{}}}", is_negated ? 'P' : 'p', known);
    at_ = end + 1;
  }

  void code_point() {
    const std::size_t begin = at_;
    const bool is_wide = in_[at_ + 1] == 'u';
    const bool has_braces = !is_wide && at_ + 2 < in_.size() && in_[at_ + 2] == '{';
    std::string_view digits;
    if (has_braces) {
      const std::size_t end = in_.find('}', at_);
      if (end == std::string_view::npos) refuse("'\\x{' without an end", begin);
      digits = in_.substr(at_ + 3, end - at_ - 3);
      at_ = end + 1;
    } else {
      const std::size_t length = is_wide ? 4 : 2;
      digits = in_.substr(at_ + 2, length);
      at_ += 2 + digits.size();
      if (digits.size() != length) refuse("a short code point", begin);
    }
    const bool is_hexadecimal =
        !digits.empty() && digits.size() <= 6 &&
        digits.find_first_not_of("0123456789abcdefABCDEF") == std::string_view::npos;
    // Without braces \x is a byte of UTF-8.
    if (!is_hexadecimal || (!is_wide && !has_braces && digits.front() >= '8')) {
      refuse(fmt::format("'\\{}{}'", is_wide ? 'u' : 'x', digits), begin);
    }
    out_ += fmt::format("\\x{{{}}}", digits);
  }

  std::string_view in_;
  std::string_view where_;
  std::string out_;
  std::size_t at_ = 0;
};

}  // namespace

std::string pcre2_from_oniguruma(std::string_view pattern, std::string_view where) {
  return Translator(pattern, where).run();
}

}  // namespace thresher::corpus
