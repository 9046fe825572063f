#include "features/store_format.h"

#include <fmt/format.h>

#include <map>
#include <string>

#include "core/error.h"
#include "core/visible_text.h"

namespace thresher::features {
namespace {

// Latents, contexts and tokens are found by number; lists of pairs are JSON, which SQLite's own
// json_each reads.
constexpr const char* kSchema = R"sql(
CREATE TABLE facts(json TEXT NOT NULL);
CREATE TABLE tokens(id INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
CREATE TABLE contexts(id INTEGER PRIMARY KEY, token_ids BLOB NOT NULL);
CREATE TABLE latents(id INTEGER PRIMARY KEY, n_fired INTEGER NOT NULL, density REAL NOT NULL,
  mean REAL NOT NULL, maximum REAL NOT NULL, tokens TEXT NOT NULL, histogram TEXT NOT NULL,
  promoted TEXT NOT NULL, suppressed TEXT NOT NULL, neighbours TEXT NOT NULL,
  co_firing TEXT NOT NULL);
CREATE TABLE examples(latent INTEGER NOT NULL, kind INTEGER NOT NULL, quantile INTEGER NOT NULL,
  place INTEGER NOT NULL, activation REAL NOT NULL, context INTEGER NOT NULL,
  position INTEGER NOT NULL, start INTEGER NOT NULL, n_tokens INTEGER NOT NULL,
  activations TEXT NOT NULL, PRIMARY KEY(latent, kind, quantile, place)) WITHOUT ROWID;
CREATE TABLE explanations(id INTEGER PRIMARY KEY, latent INTEGER NOT NULL, method TEXT NOT NULL,
  model TEXT NOT NULL, text TEXT NOT NULL, scores TEXT NOT NULL, UNIQUE(latent, method, model));
CREATE TABLE stability(latent INTEGER NOT NULL, other TEXT NOT NULL, other_latent INTEGER NOT NULL,
  cosine REAL NOT NULL, PRIMARY KEY(latent, other)) WITHOUT ROWID;
CREATE INDEX latents_by_density ON latents(density, id);
CREATE INDEX latents_by_maximum ON latents(maximum, id);
CREATE INDEX latents_by_mean ON latents(mean, id);
CREATE VIRTUAL TABLE latent_words USING fts5(tokens, promoted, contexts, content='');
CREATE VIRTUAL TABLE explanation_words USING fts5(text);
)sql";

/// Of every table, index, trigger and view its kind and what made it; of the tables in which FTS5
/// keeps its index, whose text is SQLite's business, the kind alone.
std::map<std::string, std::string> schema_of(SqliteDatabase& database) {
  std::map<std::string, std::string> out;
  SqliteStatement rows = database.prepare("SELECT name, type, sql FROM sqlite_schema");
  while (rows.step()) {
    const std::string name = rows.text(0);
    const bool is_shadow =
        name.starts_with("latent_words_") || name.starts_with("explanation_words_");
    out[name] = is_shadow ? rows.text(1) : fmt::format("{} {}", rows.text(1), rows.text(2));
  }
  return out;
}

std::int64_t pragma(SqliteDatabase& database, const char* name) {
  SqliteStatement row = database.prepare(fmt::format("PRAGMA {}", name));
  return row.step() ? row.integer(0) : 0;
}

}  // namespace

void create_schema(SqliteDatabase& database) {
  database.run(fmt::format("PRAGMA application_id = {}; PRAGMA user_version = {};",
                           kStoreApplication, kStoreVersion));
  database.run(kSchema);
}

void check_schema(SqliteDatabase& database) {
  const std::string where = display_path(database.path());
  if (pragma(database, "application_id") != kStoreApplication) {
    throw DataError(fmt::format("{}: this is no feature store", where),
                    "a file that `thresher features build` made");
  }
  const std::int64_t version = pragma(database, "user_version");
  if (version != kStoreVersion) {
    throw DataError(fmt::format("{}: a feature store of version {}", where, version),
                    fmt::format("version {}", kStoreVersion),
                    "`thresher features build` makes it anew");
  }
  SqliteDatabase empty(":memory:", SqliteDatabase::Mode::kMemory);
  create_schema(empty);
  const auto found = schema_of(database), wanted = schema_of(empty);
  for (const auto& [name, made_by] : found) {
    const auto known = wanted.find(name);
    if (known == wanted.end() || known->second != made_by) {
      throw DataError(fmt::format("{}: the table or index {} is not one of a feature store", where,
                                  visible_text(name)),
                      "a file that `thresher features build` made");
    }
  }
  for (const auto& [name, made_by] : wanted) {
    if (found.contains(name)) continue;
    throw DataError(fmt::format("{}: the table or index {} is missing", where, name),
                    "a file that `thresher features build` made");
  }
}

}  // namespace thresher::features
