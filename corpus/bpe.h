#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thresher::corpus {

/// GPT-2's reversible alphabet: every byte is written as one printable character in vocabularies
/// and merges. Returns the UTF-8 spelling of each byte.
const std::array<std::string, 256>& byte_alphabet();
/// The bytes that `spelling` stands for. False, with `bytes` unspecified, if it has a character
/// outside the alphabet.
bool decode_byte_spelling(std::string_view spelling, std::string& bytes);

/// Merges of a byte pair encoding over token ids.
class BpeMerges {
 public:
  static constexpr std::uint32_t kNone = UINT32_MAX;
  struct Merge {
    std::uint32_t rank = kNone;  // kNone: the pair is never merged
    std::int32_t id = -1;        // of the merged token
  };

  explicit BpeMerges(std::size_t n_merges);
  /// False if the pair is already there.
  bool insert(std::int32_t left, std::int32_t right, Merge merge);
  Merge find(std::int32_t left, std::int32_t right) const;

  /// Merges `symbols` until no pair is left, always the pair of lowest rank, the leftmost of equals
  /// first; appends the result to `ids`. O(n log n): a megabyte of one letter is as cheap per byte
  /// as text.
  void apply(std::span<const std::int32_t> symbols, std::vector<std::int32_t>& ids) const;

 private:
  struct Slot {
    std::uint64_t pair = UINT64_MAX;
    Merge merge;
  };
  std::size_t first_slot(std::uint64_t pair) const;

  std::vector<Slot> slots_;  // open addressing, a power of two, at most half full
  int shift_ = 0;
};

}  // namespace thresher::corpus
