#include "core/visible_text.h"

#include <fmt/format.h>

#include "core/utf8.h"

namespace thresher {
namespace {

struct Range {
  char32_t first, last;
};
constexpr Range kUnseen[] = {
    {0xAD, 0xAD},        // soft hyphen
    {0x61C, 0x61C},      // Arabic letter mark
    {0x180E, 0x180E},    // Mongolian vowel separator
    {0x200B, 0x200F},    // zero-width characters, left-to-right and right-to-left marks
    {0x2028, 0x202E},    // line and paragraph separators, bidirectional embeddings and overrides
    {0x2060, 0x206F},    // invisible operators, bidirectional isolates
    {0xFDD0, 0xFDEF},    // non-characters
    {0xFEFF, 0xFEFF},    // byte order mark
    {0xFFF9, 0xFFFB},    // interlinear annotation
    {0xE0000, 0xE007F},  // tags
};

bool is_unseen(char32_t point) {
  if ((point & 0xFFFEU) == 0xFFFE) return true;  // the last two of every plane
  for (const Range& range : kUnseen) {
    if (point >= range.first && point <= range.last) return true;
  }
  return false;
}

char32_t decode(std::string_view sequence) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(sequence[i]); };
  constexpr unsigned kFirstByteMask[] = {0x7F, 0x1F, 0x0F, 0x07};
  char32_t point = byte(0) & kFirstByteMask[sequence.size() - 1];
  for (std::size_t i = 1; i < sequence.size(); ++i) point = (point << 6U) | (byte(i) & 0x3FU);
  return point;
}

struct Keeps {
  bool backslashes = false, lines = false;
};

std::string bytes_in_hex(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return out;
}

std::string escape(std::string_view bytes, Keeps keeps) {
  std::string out;
  for (std::size_t i = 0; i < bytes.size();) {
    const std::size_t length = utf8_sequence_length(bytes, i);
    const auto first = static_cast<unsigned char>(bytes[i]);
    if (length == 0) {
      out += bytes_in_hex(bytes.substr(i, 1));
      ++i;
      continue;
    }
    const std::string_view sequence = bytes.substr(i, length);
    i += length;
    if (length > 1) {
      const char32_t point = decode(sequence);
      if (point < 0xA0) {  // C1 controls
        out += bytes_in_hex(sequence);
      } else if (is_unseen(point)) {
        out += fmt::format("\\u{{{:x}}}", static_cast<std::uint32_t>(point));
      } else {
        out += sequence;
      }
    } else if (keeps.lines && (first == '\n' || first == '\t')) {
      out += sequence;
    } else if (first == '\n') {
      out += "\\n";
    } else if (first == '\t') {
      out += "\\t";
    } else if (first == '\r') {
      out += "\\r";
    } else if (first == '\\' && !keeps.backslashes) {
      out += "\\\\";
    } else if (first < 0x20 || first == 0x7F) {
      out += bytes_in_hex(sequence);
    } else {
      out += sequence;
    }
  }
  return out;
}

}  // namespace

std::string visible_text(std::string_view bytes) { return escape(bytes, {}); }

std::string escape_control(std::string_view bytes) { return escape(bytes, {.backslashes = true}); }

std::string display_path(const std::filesystem::path& path) {
  return escape_control(path.native());
}

std::string harmless_text(std::string_view bytes) {
  return escape(bytes, {.backslashes = true, .lines = true});
}

std::size_t display_width(std::string_view text) {
  std::size_t width = 0;
  for (const char c : text) width += (static_cast<unsigned char>(c) & 0xC0U) != 0x80U ? 1 : 0;
  return width;
}

}  // namespace thresher
