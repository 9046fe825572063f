#include "tests/fuzz/mutate.h"

#include <array>
#include <cstring>
#include <string_view>

#include "core/random.h"

namespace thresher::fuzz {
namespace {

constexpr std::array<std::uint64_t, 18> kBoundaries = {0,
                                                       1,
                                                       2,
                                                       7,
                                                       8,
                                                       31,
                                                       127,
                                                       128,
                                                       255,
                                                       65'535,
                                                       65'536,
                                                       (1ULL << 31) - 1,
                                                       1ULL << 31,
                                                       0xFFFFFFFF,
                                                       1ULL << 32,
                                                       1ULL << 62,
                                                       (1ULL << 63) - 1,
                                                       ~0ULL};

using namespace std::string_view_literals;
constexpr std::array kTokens = {"{"sv,
                                "}"sv,
                                "["sv,
                                "]"sv,
                                "\""sv,
                                ","sv,
                                ":"sv,
                                "\n"sv,
                                "{}"sv,
                                "[]"sv,
                                "null"sv,
                                "true"sv,
                                "0"sv,
                                "-1"sv,
                                "1.5"sv,
                                "1e999"sv,
                                "18446744073709551615"sv,
                                "18446744073709551616"sv,
                                "9223372036854775807"sv,
                                "-9223372036854775808"sv,
                                "4294967296"sv,
                                ".nan"sv,
                                "\\u0000"sv,
                                "\\ud800"sv,
                                "../"sv,
                                "/"sv,
                                "*a"sv,
                                "&a "sv,
                                "!!int "sv,
                                "? "sv,
                                "- "sv,
                                "---\n"sv,
                                "\0"sv,
                                "\xFF"sv,
                                "\xC0\xAF"sv,
                                "\xEF\xBB\xBF"sv,
                                "\x1B[2J"sv,
                                "[[[[[[[["sv,
                                "\t"sv,
                                " "sv};

class Mutator {
 public:
  Mutator(const std::vector<std::string>& seeds, const std::string& purpose, std::uint64_t index)
      : seeds_(seeds), random_(index, purpose) {}

  std::string run(std::string bytes) {
    for (std::uint64_t edits = 1 + below(4); edits > 0; --edits) edit(bytes);
    return bytes;
  }

 private:
  std::uint64_t below(std::uint64_t bound) { return random_.below(draw_++, bound); }

  std::string_view run_of(std::string_view text) {
    if (text.empty()) return {};
    return text.substr(below(text.size()), 1 + below(64));
  }

  void edit(std::string& bytes) {
    if (bytes.empty()) {
      bytes = kTokens[below(kTokens.size())];
      return;
    }
    const std::size_t at = below(bytes.size());
    switch (below(11)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        return;
      case 1:
        bytes[at] = static_cast<char>(below(256));
        return;
      case 2:
        bytes.resize(at);
        return;
      case 3:
        bytes.erase(at, 1 + below(32));
        return;
      case 4:
        bytes.insert(at, std::string(run_of(bytes)));
        return;
      case 5:
        bytes.insert(at, run_of(seeds_[below(seeds_.size())]));
        return;
      case 6:
        bytes.insert(at, kTokens[below(kTokens.size())]);
        return;
      case 7:
        replace_number(bytes, at);
        return;
      case 8:
        repeat(bytes, at);
        return;
      default:
        set_field(bytes, at);
    }
  }

  /// Decimal digits from `at` on become another number.
  void replace_number(std::string& bytes, std::size_t at) {
    const std::size_t first = bytes.find_first_of("0123456789", at);
    if (first == std::string::npos) return;
    const std::size_t end = std::min(bytes.find_first_not_of("0123456789", first), bytes.size());
    bytes.replace(first, end - first, kTokens[12 + below(9)]);
  }

  void repeat(std::string& bytes, std::size_t at) {
    const std::string piece = bytes.substr(at, 1 + below(8));
    for (std::uint64_t n = below(40); n > 0; --n) bytes.insert(at, piece);
  }

  void set_field(std::string& bytes, std::size_t at) {
    const std::uint64_t value = kBoundaries[below(kBoundaries.size())];
    const std::size_t width = std::size_t{2} << below(3);
    std::memcpy(bytes.data() + at, &value, std::min(width, bytes.size() - at));
  }

  const std::vector<std::string>& seeds_;
  RandomStream random_;
  std::uint64_t draw_ = 0;
};

}  // namespace

std::string mutated(const std::vector<std::string>& seeds, const std::string& purpose,
                    std::uint64_t index) {
  return Mutator(seeds, "fuzz." + purpose, index).run(seeds[index % seeds.size()]);
}

}  // namespace thresher::fuzz
