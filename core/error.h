#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace thresher {

/// What the program returns; launchers act on these (docs/exit-codes in README).
enum class ExitCode : int {
  kDone = 0,
  kUsage = 64,        // the command line is wrong
  kDamagedInput = 65, // an input file is damaged or hostile
  kInternal = 70,     // a bug, or a lost or silent rank
  kIo = 74,           // a read or write failed, disk full
  kStopped = 75,      // stopped by a signal with everything saved; run again to continue
  kConfig = 78,       // the configuration cannot work
};

/// A failure that a person reads. what() is the whole message:
///
///     <where>: <what is wrong, with its values>
///       expected: <what would have been right>
///       hint: <what to do>
///
/// The first line stands alone in a log search; `expected` and `hint` may be empty and are then left out.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, std::string_view problem, std::string_view expected = {},
        std::string_view hint = {});
  ExitCode code() const { return code_; }
  /// The message up to its first line break.
  std::string first_line() const;

 private:
  ExitCode code_;
};

/// The user's command line (64).
struct UsageError : Error {
  explicit UsageError(std::string_view problem, std::string_view expected = {}, std::string_view hint = {})
      : Error(ExitCode::kUsage, problem, expected, hint) {}
};
/// The user's configuration, or a state on disk that contradicts it (78).
struct ConfigError : Error {
  explicit ConfigError(std::string_view problem, std::string_view expected = {}, std::string_view hint = {})
      : Error(ExitCode::kConfig, problem, expected, hint) {}
};
/// A file's content is not what its format demands (65).
struct DataError : Error {
  explicit DataError(std::string_view problem, std::string_view expected = {}, std::string_view hint = {})
      : Error(ExitCode::kDamagedInput, problem, expected, hint) {}
};
/// The operating system refused: missing file, full disk, failed read (74).
struct IoError : Error {
  explicit IoError(std::string_view problem, std::string_view expected = {}, std::string_view hint = {})
      : Error(ExitCode::kIo, problem, expected, hint) {}
};
/// Another rank is lost, silent, or runs something else (70).
struct CommError : Error {
  explicit CommError(std::string_view problem, std::string_view expected = {}, std::string_view hint = {})
      : Error(ExitCode::kInternal, problem, expected, hint) {}
};
/// The device asked for is not there or not built in (78).
struct DeviceError : Error {
  explicit DeviceError(std::string_view problem, std::string_view expected = {}, std::string_view hint = {})
      : Error(ExitCode::kConfig, problem, expected, hint) {}
};
/// The run stopped on request with everything saved (75).
struct StoppedBySignal : Error {
  explicit StoppedBySignal(std::string_view problem, std::string_view expected = {}, std::string_view hint = {})
      : Error(ExitCode::kStopped, problem, expected, hint) {}
};
/// A bug in Thresher (70). Thrown by THRESHER_CHECK; never by a user's mistake.
struct InternalError : Error {
  explicit InternalError(std::string_view problem, std::string_view expected = {}, std::string_view hint = {})
      : Error(ExitCode::kInternal, problem, expected, hint) {}
};

namespace detail {
[[noreturn]] void check_failed(const char* condition, const char* file, int line, std::string_view message);
}  // namespace detail

}  // namespace thresher

/// States what must be true if the code is right. A failure is a bug: it names the condition, file and line.
#define THRESHER_CHECK(condition, message)                                             \
  do {                                                                                 \
    if (!(condition)) [[unlikely]]                                                     \
      ::thresher::detail::check_failed(#condition, __FILE__, __LINE__, (message));     \
  } while (false)
