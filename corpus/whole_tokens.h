#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>

namespace thresher::corpus {

/// Finds tokens that are matched in text as a whole: the leftmost, of several at one place the
/// longest.
class WholeTokens {
 public:
  struct Match {
    std::size_t begin = std::string_view::npos;
    std::size_t length = 0;
    std::int32_t id = -1;
  };
  /// `text` is not empty. False, and nothing changes, if it is there already.
  bool insert(const std::string& text, std::int32_t id);
  /// begin is npos when there is none from `begin` on.
  Match find(std::string_view text, std::size_t begin) const;

 private:
  std::unordered_map<std::string, std::int32_t> ids_;
  std::set<std::size_t, std::greater<>> lengths_;
  std::bitset<256> first_bytes_;
};

}  // namespace thresher::corpus
