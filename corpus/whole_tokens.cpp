#include "corpus/whole_tokens.h"

namespace thresher::corpus {

bool WholeTokens::insert(const std::string& text, std::int32_t id) {
  if (!ids_.emplace(text, id).second) return false;
  lengths_.insert(text.size());
  first_bytes_.set(static_cast<unsigned char>(text.front()));
  return true;
}

WholeTokens::Match WholeTokens::find(std::string_view text, std::size_t begin) const {
  if (ids_.empty()) return {};
  std::string candidate;
  for (; begin < text.size(); ++begin) {
    if (!first_bytes_.test(static_cast<unsigned char>(text[begin]))) continue;
    for (const std::size_t length : lengths_) {
      if (length > text.size() - begin) continue;
      candidate.assign(text.substr(begin, length));
      const auto found = ids_.find(candidate);
      if (found != ids_.end()) return {begin, length, found->second};
    }
  }
  return {};
}

}  // namespace thresher::corpus
