#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace thresher::corpus {

/// What a search needs besides the pattern: not for use by two threads at once.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(RegexScratch&&) noexcept;

 private:
  friend class Regex;
  struct State;
  std::unique_ptr<State> state_;
};

/// A PCRE2 pattern over valid UTF-8, with Unicode properties, `^` and `$` at line breaks ("\n"
/// only) and `.` for everything but "\n". Stateless after construction: several threads may use one
/// object, each with a scratch of its own.
class Regex {
 public:
  struct Match {
    std::size_t begin = 0, end = 0;
  };
  /// `where` starts error messages. DataError, with PCRE2's reason, for a pattern that cannot be.
  Regex(std::string_view pattern, std::string_view where);
  /// Finds `text` itself, whatever characters it has.
  static Regex literal(std::string_view text, std::string_view where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// The leftmost match that begins at `begin` or later; what stands before `begin` is seen by
  /// lookbehinds. DataError when a match attempt needs more than 50 million steps: the pattern
  /// backtracks without end on this text.
  std::optional<Match> find(std::string_view text, std::size_t begin, RegexScratch& scratch) const;

 private:
  struct State;
  explicit Regex(std::unique_ptr<State> state);
  static std::unique_ptr<State> compile(std::string_view pattern, std::string_view where,
                                        bool is_literal);
  std::unique_ptr<State> state_;
};

/// `pattern`, written for Oniguruma with Ruby's syntax as tokenizer.json files are, in PCRE2's
/// language. What differs between the two is put right: \s, \w, \h, \v, scripts by name, {,n}, /m.
/// DataError, starting with `where` and naming the construct and its offset, for what has no
/// counterpart here: sets within sets, intersections, POSIX brackets, backreferences, calls, named
/// groups, absent operators, isolated options inside a pattern.
std::string pcre2_from_oniguruma(std::string_view pattern, std::string_view where);

/// Unicode's White_Space as the inside of a PCRE2 character class. PCRE2's own \s also holds
/// U+180E, which the tokenizers that models were trained with do not count as a space.
extern const char* const kWhiteSpaceClass;
/// Word characters of Rust's `regex` library: Alphabetic, marks, decimal digits, connectors and
/// joiners.
extern const char* const kRustWordClass;

}  // namespace thresher::corpus
