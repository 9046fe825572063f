#include "corpus/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <unordered_map>

#include "core/error.h"

namespace thresher::corpus {
namespace {

/// The code point that spells each byte: printable ones stand for themselves, the others follow
/// from U+0100.
std::array<std::uint32_t, 256> alphabet_code_points() {
  std::array<std::uint32_t, 256> points{};
  std::uint32_t next = 256;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool is_printable =
        (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    points[byte] = is_printable ? byte : next++;
  }
  return points;
}

/// All code points of the alphabet need one or two bytes.
std::string utf8(std::uint32_t code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | (code_point >> 6)),
          static_cast<char>(0x80 | (code_point & 0x3F))};
}

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

/// A symbol of the piece being merged, in a doubly linked list by position.
struct Symbol {
  std::int32_t id;
  std::int32_t previous;
  std::int32_t next;
};

/// Pairs waiting to be merged: rank in the high half, position of the left symbol in the low half,
/// smallest first.
class PairQueue {
 public:
  bool empty() const { return heap_.empty(); }
  void push(std::uint32_t rank, std::int32_t position) {
    heap_.push_back((static_cast<std::uint64_t>(rank) << 32) |
                    static_cast<std::uint32_t>(position));
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }
  std::uint64_t pop() {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    const std::uint64_t smallest = heap_.back();
    heap_.pop_back();
    return smallest;
  }

 private:
  std::vector<std::uint64_t> heap_;
};

constexpr std::int32_t kEnd = -1;
constexpr std::int32_t kMergedAway = -1;  // as an id

}  // namespace

const std::array<std::string, 256>& byte_alphabet() {
  static const std::array<std::string, 256> spellings = [] {
    std::array<std::string, 256> out;
    const auto points = alphabet_code_points();
    for (std::size_t byte = 0; byte < 256; ++byte) out[byte] = utf8(points[byte]);
    return out;
  }();
  return spellings;
}

bool decode_byte_spelling(std::string_view spelling, std::string& bytes) {
  static const std::unordered_map<std::string_view, unsigned char> byte_of = [] {
    std::unordered_map<std::string_view, unsigned char> out;
    for (std::size_t byte = 0; byte < 256; ++byte) {
      out.emplace(byte_alphabet()[byte], static_cast<unsigned char>(byte));
    }
    return out;
  }();
  bytes.clear();
  while (!spelling.empty()) {
    const std::size_t length = static_cast<unsigned char>(spelling.front()) < 0x80 ? 1 : 2;
    const auto found = byte_of.find(spelling.substr(0, length));
    if (found == byte_of.end()) return false;
    bytes.push_back(static_cast<char>(found->second));
    spelling.remove_prefix(length);
  }
  return true;
}

BpeMerges::BpeMerges(std::size_t n_merges) {
  const std::size_t size = std::bit_ceil(std::max<std::size_t>(2 * n_merges, 16));
  slots_.resize(size);
  shift_ = 64 - std::countr_zero(size);
}

std::size_t BpeMerges::first_slot(std::uint64_t pair) const {
  return static_cast<std::size_t>((pair * 0x9E3779B97F4A7C15ULL) >> shift_);
}

bool BpeMerges::insert(std::int32_t left, std::int32_t right, Merge merge) {
  const std::uint64_t pair = pair_key(left, right);
  std::size_t slot = first_slot(pair);
  while (slots_[slot].merge.rank != kNone) {
    if (slots_[slot].pair == pair) return false;
    slot = (slot + 1) & (slots_.size() - 1);
  }
  slots_[slot] = {pair, merge};
  return true;
}

BpeMerges::Merge BpeMerges::find(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_key(left, right);
  std::size_t slot = first_slot(pair);
  while (slots_[slot].merge.rank != kNone) {
    if (slots_[slot].pair == pair) return slots_[slot].merge;
    slot = (slot + 1) & (slots_.size() - 1);
  }
  return {};
}

void BpeMerges::apply(std::span<const std::int32_t> symbols, std::vector<std::int32_t>& ids) const {
  THRESHER_CHECK(symbols.size() < static_cast<std::size_t>(INT32_MAX), "a piece of 2 GiB");
  const auto size = static_cast<std::int32_t>(symbols.size());
  std::vector<Symbol> list(symbols.size());
  PairQueue queue;
  const auto offer = [&](std::int32_t position) {
    const std::int32_t next = list[position].next;
    if (next == kEnd) return;
    const Merge merge = find(list[position].id, list[next].id);
    if (merge.rank != kNone) queue.push(merge.rank, position);
  };
  for (std::int32_t i = 0; i < size; ++i)
    list[i] = {symbols[i], i - 1, i + 1 < size ? i + 1 : kEnd};
  for (std::int32_t i = 0; i < size; ++i) offer(i);

  while (!queue.empty()) {
    const std::uint64_t entry = queue.pop();
    const auto rank = static_cast<std::uint32_t>(entry >> 32);
    const auto position = static_cast<std::int32_t>(entry & UINT32_MAX);
    Symbol& left = list[position];
    if (left.id == kMergedAway || left.next == kEnd) continue;
    Symbol& right = list[left.next];
    const Merge merge = find(left.id, right.id);
    if (merge.rank != rank) continue;  // one of the two has changed since
    left.id = merge.id;
    left.next = right.next;
    right.id = kMergedAway;
    if (left.next != kEnd) list[left.next].previous = position;
    if (left.previous != kEnd) offer(left.previous);
    offer(position);
  }
  for (std::int32_t i = size > 0 ? 0 : kEnd; i != kEnd; i = list[i].next) ids.push_back(list[i].id);
}

}  // namespace thresher::corpus
