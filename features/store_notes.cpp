#include <fmt/format.h>

#include "core/error.h"
#include "core/visible_text.h"
#include "features/feature_store.h"
#include "features/store_format.h"

namespace thresher::features {
namespace {

void check(const StoredExplanation& one, std::int64_t n_latents,
           const std::filesystem::path& path) {
  if (one.latent < 0 || one.latent >= n_latents) {
    throw UsageError(
        fmt::format("latent {}: there is no such latent in {}", one.latent, display_path(path)),
        fmt::format("0 to {}", n_latents - 1));
  }
  if (one.text.empty() || one.text.size() > kMaxExplanationBytes) {
    throw DataError(
        fmt::format("the explanation of latent {} has {} bytes", one.latent, one.text.size()),
        fmt::format("1 to {}", kMaxExplanationBytes));
  }
}

}  // namespace

void add_explanations(const std::filesystem::path& path,
                      const std::vector<StoredExplanation>& explanations) {
  const std::int64_t n_latents = FeatureStore(path).n_latents();
  SqliteDatabase database(path, SqliteDatabase::Mode::kUpdate);
  check_schema(database);
  database.run("BEGIN IMMEDIATE");
  {
    SqliteStatement old = database.prepare(
        "SELECT id FROM explanations WHERE latent = ? AND method = ? AND model = ?");
    SqliteStatement forget = database.prepare("DELETE FROM explanations WHERE id = ?");
    SqliteStatement forget_words =
        database.prepare("DELETE FROM explanation_words WHERE rowid = ?");
    SqliteStatement insert = database.prepare(
        "INSERT INTO explanations(latent, method, model, text, scores) VALUES(?, ?, ?, ?, ?)");
    SqliteStatement words = database.prepare(
        "INSERT INTO explanation_words(rowid, text) VALUES(last_insert_rowid(), ?)");
    for (const StoredExplanation& one : explanations) {
      check(one, n_latents, path);
      old.bind(1, one.latent).bind(2, std::string_view(one.method));
      old.bind(3, std::string_view(one.model));
      const bool is_known = old.step();
      const std::int64_t id = is_known ? old.integer(0) : 0;
      old.reset();
      if (is_known) {
        forget.bind(1, id).run();
        forget_words.bind(1, id).run();
      }
      insert.bind(1, one.latent).bind(2, std::string_view(one.method));
      insert.bind(3, std::string_view(one.model)).bind(4, std::string_view(one.text));
      insert.bind(5, std::string_view(one.scores.dump())).run();
      words.bind(1, std::string_view(one.text)).run();
    }
  }
  database.run("COMMIT");
  database.close();
}

void add_stability(const std::filesystem::path& path, const std::string& other,
                   const std::vector<std::int64_t>& other_latent,
                   const std::vector<double>& cosine) {
  const auto n_latents = static_cast<std::size_t>(FeatureStore(path).n_latents());
  if (other_latent.size() != n_latents || cosine.size() != n_latents) {
    throw UsageError(fmt::format("{}: {} latents compared", display_path(path), cosine.size()),
                     fmt::format("the {} of the store", n_latents));
  }
  SqliteDatabase database(path, SqliteDatabase::Mode::kUpdate);
  check_schema(database);
  database.run("BEGIN IMMEDIATE");
  {
    SqliteStatement forget = database.prepare("DELETE FROM stability WHERE other = ?");
    forget.bind(1, std::string_view(other)).run();
    SqliteStatement insert = database.prepare(
        "INSERT INTO stability(latent, other, other_latent, cosine) VALUES(?, ?, ?, ?)");
    for (std::size_t latent = 0; latent < n_latents; ++latent) {
      insert.bind(1, static_cast<std::int64_t>(latent)).bind(2, std::string_view(other));
      insert.bind(3, other_latent[latent]).bind(4, cosine[latent]).run();
    }
  }
  database.run("COMMIT");
  database.close();
}

}  // namespace thresher::features
