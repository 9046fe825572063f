#include "core/error.h"

#include <fmt/format.h>

namespace thresher {
namespace {

std::string compose(std::string_view problem, std::string_view expected, std::string_view hint) {
  std::string text(problem);
  if (!expected.empty()) text += fmt::format("\n  expected: {}", expected);
  if (!hint.empty()) text += fmt::format("\n  hint: {}", hint);
  return text;
}

}  // namespace

Error::Error(ExitCode code, std::string_view problem, std::string_view expected, std::string_view hint)
    : std::runtime_error(compose(problem, expected, hint)), code_(code) {}

std::string Error::first_line() const {
  const std::string text = what();
  return text.substr(0, text.find('\n'));
}

namespace detail {

void check_failed(const char* condition, const char* file, int line, std::string_view message) {
  throw InternalError(fmt::format("{}:{}: {} (check failed: {})", file, line, message, condition), {},
                      "this is a bug in Thresher, please report it with this line");
}

}  // namespace detail
}  // namespace thresher
