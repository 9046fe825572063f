#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

struct sqlite3;
struct sqlite3_stmt;

namespace thresher::features {

class SqliteStatement;

/// A SQLite file. Failures are DataError where the file is damaged or not what was expected,
/// IoError where the system refused, with SQLite's own words.
class SqliteDatabase {
 public:
  enum class Mode {
    kRead,    // as hostile input: defensive, nothing of the schema trusted, no writes
    kUpdate,  // the same, but data may be changed
    kCreate,  // a new file, written without a journal: whoever writes it renames it when it is done
    kMemory,
  };
  SqliteDatabase(const std::filesystem::path& path, Mode mode);
  ~SqliteDatabase();
  SqliteDatabase(const SqliteDatabase&) = delete;

  void run(const std::string& sql);
  SqliteStatement prepare(std::string_view sql);
  /// Closes the file; an error where something is still unwritten.
  void close();
  [[noreturn]] void fail(int code) const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  sqlite3* handle_ = nullptr;
};

/// A prepared statement; lives shorter than its database. Parameters count from 1, columns from 0.
class SqliteStatement {
 public:
  SqliteStatement(SqliteDatabase& database, sqlite3_stmt* statement)
      : database_(&database), statement_(statement) {}
  ~SqliteStatement();
  SqliteStatement(SqliteStatement&& other) noexcept;
  SqliteStatement(const SqliteStatement&) = delete;

  SqliteStatement& bind(int parameter, std::int64_t value);
  SqliteStatement& bind(int parameter, double value);
  SqliteStatement& bind(int parameter, std::string_view text);
  SqliteStatement& bind_bytes(int parameter, std::string_view bytes);
  /// True while there is a row.
  bool step();
  /// Runs a statement without rows, ready to be bound again.
  void run();
  void reset();

  std::int64_t integer(int column) const;
  double real(int column) const;
  std::string text(int column) const;  // also of a blob: its bytes

 private:
  void check(int code) const;
  SqliteDatabase* database_;
  sqlite3_stmt* statement_;
};

}  // namespace thresher::features
