#include "corpus/text_pattern.h"

#include <algorithm>

#include "core/utf8.h"

namespace thresher::corpus {
namespace {

/// Joins a delimiter to the part before it; in reverse order, to the one after it.
std::vector<TextPart> merged(const std::vector<TextPart>& parts) {
  std::vector<TextPart> out;
  bool was_match = false;
  for (const TextPart& part : parts) {
    if (part.is_match && !was_match && !out.empty()) {
      out.back().begin = std::min(out.back().begin, part.begin);
      out.back().end = std::max(out.back().end, part.end);
    } else {
      out.push_back(part);
    }
    was_match = part.is_match;
  }
  return out;
}

std::vector<TextPart> contiguous(const std::vector<TextPart>& parts) {
  std::vector<TextPart> out;
  bool was_match = false;
  for (const TextPart& part : parts) {
    if (part.is_match == was_match && !out.empty()) {
      out.back().end = part.end;
    } else {
      out.push_back(part);
    }
    was_match = part.is_match;
  }
  return out;
}

}  // namespace

void find_parts(const Regex& pattern, std::string_view text, RegexScratch& scratch,
                std::vector<TextPart>& parts) {
  parts.clear();
  std::size_t previous_end = 0;
  bool has_previous = false;
  for (std::size_t search = 0; search <= text.size() && !text.empty();) {
    const auto match = pattern.find(text, search, scratch);
    if (!match) break;
    if (match->begin == match->end && has_previous && match->end == previous_end) {
      search +=
          search < text.size() ? std::max<std::size_t>(utf8_sequence_length(text, search), 1) : 1;
      continue;
    }
    if (match->begin > previous_end) parts.push_back({previous_end, match->begin, false});
    parts.push_back({match->begin, match->end, true});
    previous_end = search = match->end;
    has_previous = true;
  }
  if (previous_end < text.size()) parts.push_back({previous_end, text.size(), false});
}

void append_pieces(std::string_view text, std::vector<TextPart> parts, SplitBehaviour behaviour,
                   bool invert, std::vector<std::string_view>& pieces) {
  if (invert) {
    for (TextPart& part : parts) part.is_match = !part.is_match;
  }
  switch (behaviour) {
    case SplitBehaviour::kIsolated:
      break;
    case SplitBehaviour::kRemoved:
      std::erase_if(parts, [](const TextPart& part) { return part.is_match; });
      break;
    case SplitBehaviour::kContiguous:
      parts = contiguous(parts);
      break;
    case SplitBehaviour::kMergedWithPrevious:
      parts = merged(parts);
      break;
    case SplitBehaviour::kMergedWithNext:
      std::reverse(parts.begin(), parts.end());
      parts = merged(parts);
      std::reverse(parts.begin(), parts.end());
      break;
  }
  for (const TextPart& part : parts) {
    if (part.end > part.begin) pieces.push_back(text.substr(part.begin, part.end - part.begin));
  }
}

}  // namespace thresher::corpus
