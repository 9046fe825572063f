#include "corpus/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <cstdint>

#include "core/error.h"

namespace thresher::corpus {
namespace {

// A run of a million spaces before a letter takes about as many steps; exponential patterns pass
// this within a second.
constexpr std::uint32_t kMatchLimit = 50'000'000;
constexpr std::size_t kFirstJitStack = 32 * 1024, kLargestJitStack = 16 * 1024 * 1024;

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchDeleter {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};
struct MatchContextDeleter {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
struct CompileContextDeleter {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};
struct StackDeleter {
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};

std::string pcre2_message(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

PCRE2_SPTR bytes_of(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

}  // namespace

const char* const kWhiteSpaceClass =
    R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
const char* const kRustWordClass = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D})";

struct RegexScratch::State {
  std::unique_ptr<pcre2_match_data, MatchDeleter> match;
  std::unique_ptr<pcre2_match_context, MatchContextDeleter> context;
  std::unique_ptr<pcre2_jit_stack, StackDeleter> stack;
};

RegexScratch::RegexScratch() : state_(std::make_unique<State>()) {
  state_->match.reset(pcre2_match_data_create(1, nullptr));
  state_->context.reset(pcre2_match_context_create(nullptr));
  state_->stack.reset(pcre2_jit_stack_create(kFirstJitStack, kLargestJitStack, nullptr));
  THRESHER_CHECK(state_->match != nullptr && state_->context != nullptr, "PCRE2 is out of memory");
  pcre2_set_match_limit(state_->context.get(), kMatchLimit);
  // Where PCRE2 has no JIT there is no such stack, and none is needed.
  if (state_->stack) pcre2_jit_stack_assign(state_->context.get(), nullptr, state_->stack.get());
}
RegexScratch::~RegexScratch() = default;
RegexScratch::RegexScratch(RegexScratch&&) noexcept = default;

struct Regex::State {
  std::unique_ptr<pcre2_code, CodeDeleter> code;
  std::string where;
};

std::unique_ptr<Regex::State> Regex::compile(std::string_view pattern, std::string_view where,
                                             bool is_literal) {
  const std::unique_ptr<pcre2_compile_context, CompileContextDeleter> context(
      pcre2_compile_context_create(nullptr));
  THRESHER_CHECK(context != nullptr, "PCRE2 is out of memory");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  const std::uint32_t options =
      PCRE2_UTF |
      (is_literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto state = std::make_unique<State>();
  state->code.reset(
      pcre2_compile(bytes_of(pattern), pattern.size(), options, &error, &offset, context.get()));
  if (state->code == nullptr) {
    throw DataError(fmt::format("{}: not a regular expression at character {}: {}", where, offset,
                                pcre2_message(error)));
  }
  // Where PCRE2 has no JIT, it matches with its interpreter: slower, same matches.
  pcre2_jit_compile(state->code.get(), PCRE2_JIT_COMPLETE);
  state->where = where;
  return state;
}

Regex::Regex(std::string_view pattern, std::string_view where)
    : state_(compile(pattern, where, false)) {}
Regex::Regex(std::unique_ptr<State> state) : state_(std::move(state)) {}
Regex Regex::literal(std::string_view text, std::string_view where) {
  return Regex(compile(text, where, true));
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

std::optional<Regex::Match> Regex::find(std::string_view text, std::size_t begin,
                                        RegexScratch& scratch) const {
  RegexScratch::State& memory = *scratch.state_;
  const int found = pcre2_match(state_->code.get(), bytes_of(text), text.size(), begin,
                                PCRE2_NO_UTF_CHECK, memory.match.get(), memory.context.get());
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (found < 0) {
    throw DataError(
        fmt::format("{}: the regular expression gave up in a text of {} bytes: {}", state_->where,
                    text.size(), pcre2_message(found)),
        fmt::format("matches of at most {} steps", kMatchLimit),
        "the pattern backtracks without end on this text; the tokenizer's file is damaged or "
        "hostile");
  }
  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(memory.match.get());
  return Match{span[0], span[1]};
}

}  // namespace thresher::corpus
