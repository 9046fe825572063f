#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

namespace thresher::corpus {

/// Documents in memory, one after another in large blocks that never move.
class DocumentStore {
 public:
  void append(std::string_view text);
  std::size_t size() const { return texts_.size(); }
  std::string_view text(std::size_t document) const { return texts_[document]; }

 private:
  std::deque<std::string> blocks_;
  std::vector<std::string_view> texts_;
};

}  // namespace thresher::corpus
