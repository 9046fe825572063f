#include "features/sqlite.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <utility>

#include "core/error.h"
#include "core/visible_text.h"

namespace thresher::features {
namespace {

// A store holds no longer value; whoever says so wants memory.
constexpr int kLongestValue = 64 << 20;

int flags_of(SqliteDatabase::Mode mode) {
  switch (mode) {
    case SqliteDatabase::Mode::kRead:
      return SQLITE_OPEN_READONLY;
    case SqliteDatabase::Mode::kUpdate:
      return SQLITE_OPEN_READWRITE;
    case SqliteDatabase::Mode::kCreate:
      return SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    case SqliteDatabase::Mode::kMemory:
      break;
  }
  return SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MEMORY;
}

}  // namespace

SqliteDatabase::SqliteDatabase(const std::filesystem::path& path, Mode mode) : path_(path) {
  const int code = sqlite3_open_v2(path.c_str(), &handle_, flags_of(mode) | SQLITE_OPEN_NOMUTEX,
                                   /*zVfs=*/nullptr);
  try {
    if (code != SQLITE_OK) fail(code);
    sqlite3_extended_result_codes(handle_, 0);
    sqlite3_limit(handle_, SQLITE_LIMIT_LENGTH, kLongestValue);
    if (mode == Mode::kRead || mode == Mode::kUpdate) {
      sqlite3_db_config(handle_, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
      sqlite3_db_config(handle_, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
      sqlite3_db_config(handle_, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, nullptr);
      sqlite3_db_config(handle_, SQLITE_DBCONFIG_ENABLE_VIEW, 0, nullptr);
      sqlite3_busy_timeout(handle_, 10000);
      run("PRAGMA cell_size_check = ON");
      run("PRAGMA mmap_size = 0");
    }
    if (mode == Mode::kCreate) {
      run("PRAGMA page_size = 4096");
      run("PRAGMA journal_mode = OFF");
      run("PRAGMA synchronous = OFF");
      run("PRAGMA cache_size = -65536");
    }
  } catch (...) {
    sqlite3_close_v2(handle_);
    throw;
  }
}

SqliteDatabase::~SqliteDatabase() { sqlite3_close_v2(handle_); }

void SqliteDatabase::close() {
  const int code = sqlite3_close(handle_);
  if (code != SQLITE_OK) fail(code);
  handle_ = nullptr;
}

void SqliteDatabase::run(const std::string& sql) {
  const int code = sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) fail(code);
}

SqliteStatement SqliteDatabase::prepare(std::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  const int code =
      sqlite3_prepare_v2(handle_, sql.data(), static_cast<int>(sql.size()), &statement, nullptr);
  if (code != SQLITE_OK) fail(code);
  return {*this, statement};
}

void SqliteDatabase::fail(int code) const {
  const std::string words =
      escape_control(handle_ == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(handle_));
  const std::string problem = fmt::format("{}: {}", display_path(path_), words);
  switch (code) {
    case SQLITE_FULL:
      throw IoError(fmt::format("{}: disk full", display_path(path_)));
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      throw IoError(problem);
    case SQLITE_NOMEM:
      throw std::bad_alloc();
    default:
      throw DataError(problem, "a sound feature store", "`thresher features build` makes it anew");
  }
}

SqliteStatement::~SqliteStatement() { sqlite3_finalize(statement_); }

SqliteStatement::SqliteStatement(SqliteStatement&& other) noexcept
    : database_(other.database_), statement_(std::exchange(other.statement_, nullptr)) {}

void SqliteStatement::check(int code) const {
  if (code != SQLITE_OK && code != SQLITE_DONE && code != SQLITE_ROW) database_->fail(code);
}

SqliteStatement& SqliteStatement::bind(int parameter, std::int64_t value) {
  check(sqlite3_bind_int64(statement_, parameter, value));
  return *this;
}

SqliteStatement& SqliteStatement::bind(int parameter, double value) {
  check(sqlite3_bind_double(statement_, parameter, value));
  return *this;
}

SqliteStatement& SqliteStatement::bind(int parameter, std::string_view text) {
  check(sqlite3_bind_text64(statement_, parameter, text.data() == nullptr ? "" : text.data(),
                            text.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
  return *this;
}

SqliteStatement& SqliteStatement::bind_bytes(int parameter, std::string_view bytes) {
  check(sqlite3_bind_blob64(statement_, parameter, bytes.data() == nullptr ? "" : bytes.data(),
                            bytes.size(), SQLITE_TRANSIENT));
  return *this;
}

bool SqliteStatement::step() {
  const int code = sqlite3_step(statement_);
  check(code);
  return code == SQLITE_ROW;
}

void SqliteStatement::run() {
  step();
  reset();
}

void SqliteStatement::reset() { check(sqlite3_reset(statement_)); }

std::int64_t SqliteStatement::integer(int column) const {
  return sqlite3_column_int64(statement_, column);
}

double SqliteStatement::real(int column) const { return sqlite3_column_double(statement_, column); }

std::string SqliteStatement::text(int column) const {
  const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement_, column));
  const int size = sqlite3_column_bytes(statement_, column);
  return bytes == nullptr ? std::string() : std::string(bytes, static_cast<std::size_t>(size));
}

}  // namespace thresher::features
