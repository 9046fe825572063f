#include "core/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <memory>
#include <mutex>

#include "core/console.h"
#include "core/error.h"

namespace thresher {
namespace {

class ConsoleSink : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    console_print(std::string_view(line.data(), line.size()));
  }
  void flush_() override {}
};

struct Logger {
  Logger() : spdlog_logger("thresher", std::make_shared<ConsoleSink>()) {
    spdlog_logger.set_pattern("%H:%M:%S %l %v");
    spdlog_logger.set_level(spdlog::level::trace);  // is_logged() decides
  }
  spdlog::logger spdlog_logger;
  std::atomic<LogLevel> level{LogLevel::kInfo};
  std::atomic<int> rank{0};
  std::atomic<int> world_size{1};
};

Logger& logger() {
  static Logger instance;
  return instance;
}

void log(LogLevel level, spdlog::level::level_enum spdlog_level, std::string_view text) {
  if (!is_logged(level)) return;
  Logger& to = logger();
  if (to.world_size > 1) {
    to.spdlog_logger.log(spdlog_level, "[rank {}/{}] {}", to.rank.load(), to.world_size.load(),
                         text);
  } else {
    to.spdlog_logger.log(spdlog_level, "{}", text);
  }
}

}  // namespace

void set_log_level(LogLevel level) { logger().level = level; }

LogLevel parse_log_level(std::string_view name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "info") return LogLevel::kInfo;
  if (name == "warning") return LogLevel::kWarning;
  if (name == "error") return LogLevel::kError;
  throw UsageError(fmt::format("log level \"{}\" is not known", name),
                   "debug, info, warning or error");
}

void set_log_rank(int rank, int world_size) {
  logger().rank = rank;
  logger().world_size = world_size;
}

bool is_logged(LogLevel level) {
  const bool is_quiet_rank = logger().rank != 0;
  return level >= logger().level.load() && (level >= LogLevel::kWarning || !is_quiet_rank);
}

void log_debug(std::string_view text) { log(LogLevel::kDebug, spdlog::level::debug, text); }
void log_info(std::string_view text) { log(LogLevel::kInfo, spdlog::level::info, text); }
void log_warning(std::string_view text) { log(LogLevel::kWarning, spdlog::level::warn, text); }
void log_error(std::string_view text) { log(LogLevel::kError, spdlog::level::err, text); }

}  // namespace thresher
