#include "corpus/unicode_normalisation.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "core/error.h"
#include "core/utf8.h"

namespace thresher::corpus {
namespace {

struct Range {
  utf8proc_int32_t first, last;
};

/// Characters that utf8proc decomposes or reorders and the `tokenizers` library does not, found by
/// comparing the two over all of Unicode.
constexpr Range kLeftAlone[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},
    {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x10785}, {0x10787, 0x107B0},
    {0x107B2, 0x107BA}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
    {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11938, 0x11938},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
    {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E030, 0x1E06D},
    {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};

bool is_left_alone(utf8proc_int32_t code_point) {
  if (code_point < kLeftAlone[0].first) return false;
  const auto* range = std::upper_bound(
      std::begin(kLeftAlone), std::end(kLeftAlone), code_point,
      [](utf8proc_int32_t value, const Range& other) { return value < other.first; });
  return range != std::begin(kLeftAlone) && code_point <= (range - 1)->last;
}

bool is_white_space(utf8proc_int32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

utf8proc_int32_t next_code_point(std::string_view text, std::size_t& at) {
  utf8proc_int32_t code_point = 0;
  const auto length =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                       static_cast<utf8proc_ssize_t>(text.size() - at), &code_point);
  THRESHER_CHECK(length > 0, "text that is not UTF-8");
  at += static_cast<std::size_t>(length);
  return code_point;
}

/// Normalises a text part by part; parts end where nothing before can touch what follows.
class Normaliser {
 public:
  explicit Normaliser(NormalForm form)
      : decompose_(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE |
                   (form == NormalForm::kNfkc || form == NormalForm::kNfkd ? UTF8PROC_COMPAT : 0)),
        compose_(form == NormalForm::kNfc || form == NormalForm::kNfkc) {}

  std::string run(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
      const utf8proc_int32_t code_point = next_code_point(text, at);
      if (is_left_alone(code_point)) {
        flush(out);
        append_utf8(out, static_cast<char32_t>(code_point));
        continue;
      }
      // Nothing composes with an ASCII character that follows it.
      if (code_point < 0x80 && part_.size() >= kPart) flush(out);
      decompose(code_point);
    }
    flush(out);
    return out;
  }

 private:
  static constexpr std::size_t kPart = 4096;

  void decompose(utf8proc_int32_t code_point) {
    std::array<utf8proc_int32_t, 32> buffer{};
    int last_boundclass = 0;
    const auto length =
        utf8proc_decompose_char(code_point, buffer.data(), buffer.size(),
                                static_cast<utf8proc_option_t>(decompose_), &last_boundclass);
    THRESHER_CHECK(length >= 0 && static_cast<std::size_t>(length) <= buffer.size(),
                   "a character with a long decomposition");
    part_.insert(part_.end(), buffer.begin(), buffer.begin() + length);
  }

  void flush(std::string& out) {
    // utf8proc's own sort is quadratic in a run of marks.
    const auto combining_class = [](utf8proc_int32_t c) {
      return utf8proc_get_property(c)->combining_class;
    };
    for (auto begin = part_.begin(); begin != part_.end();) {
      auto end = begin + 1;
      if (*begin >= 0x300 && combining_class(*begin) != 0) {
        while (end != part_.end() && combining_class(*end) != 0) ++end;
        std::stable_sort(begin, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) {
          return combining_class(a) < combining_class(b);
        });
      }
      begin = end;
    }
    auto length = static_cast<utf8proc_ssize_t>(part_.size());
    if (compose_ && length > 0) {
      length = utf8proc_normalize_utf32(
          part_.data(), length, static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
      THRESHER_CHECK(length >= 0, utf8proc_errmsg(length));
    }
    for (utf8proc_ssize_t i = 0; i < length; ++i) {
      append_utf8(out, static_cast<char32_t>(part_[static_cast<std::size_t>(i)]));
    }
    part_.clear();
  }

  int decompose_;
  bool compose_;
  std::vector<utf8proc_int32_t> part_;
};

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char byte) { return static_cast<unsigned char>(byte) < 0x80; });
}

}  // namespace

void append_utf8(std::string& text, char32_t code_point) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes.data());
  text.append(reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(length));
}

std::string normalised(std::string_view text, NormalForm form) {
  return is_ascii(text) ? std::string(text) : Normaliser(form).run(text);
}

std::string lower_case(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const utf8proc_int32_t code_point = next_code_point(text, at);
    if (code_point == 0x130) {
      out += "i\u0307";  // the one character whose lower case is two
    } else {
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(code_point)));
    }
  }
  return out;
}

std::size_t leading_white_space(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    if (!is_white_space(next_code_point(text, at))) return begin;
  }
  return text.size();
}

std::size_t trailing_white_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0U) == 0x80U) --begin;
    std::size_t at = begin;
    if (!is_white_space(next_code_point(text.substr(0, end), at))) break;
    end = begin;
  }
  return text.size() - end;
}

}  // namespace thresher::corpus
