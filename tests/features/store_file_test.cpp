#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "features/feature_store.h"
#include "features/store_format.h"

namespace thresher::features {
namespace {

namespace fs = std::filesystem;

fs::path fresh_path(const char* name) {
  const fs::path path = fs::path(testing::TempDir()) / name;
  fs::remove(path);
  return path;
}

/// Three latents over one context of three tokens: "cat", " (", " dog".
fs::path small_store(const char* name) {
  const fs::path path = fresh_path(name);
  SqliteDatabase database(path, SqliteDatabase::Mode::kCreate);
  create_schema(database);
  database.run(R"sql(
INSERT INTO facts VALUES('{"n_latents":3}');
INSERT INTO tokens VALUES(0, x'636174'), (1, x'2028'), (2, x'20646f67');
INSERT INTO contexts VALUES(7, x'000000000100000002000000');
INSERT INTO latents VALUES(0, 5, 0.5, 2.0, 3.0, '[[0,1]]', '[[48,5]]', '[[2,0.5]]', '[[1,-0.5]]', '[[1,0.9]]', '[[2,3,0.5,0.25]]');
INSERT INTO latents VALUES(1, 0, 0.0, 0.0, 0.0, '[]', '[]', '[]', '[]', '[[0,0.9]]', '[]');
INSERT INTO latents VALUES(2, 9, 0.9, 1.0, 1.0, '[[1,2]]', '[]', '[]', '[]', '[]', '[]');
INSERT INTO examples VALUES(0, 0, 0, 0, 3.0, 7, 0, 0, 3, '[[0,3.0],[2,1.5]]');
INSERT INTO latent_words(rowid, tokens, promoted, contexts) VALUES(0, 'cat', 'dog', 'cat ( dog'), (2, '(', '', 'Éclair dog');
)sql");
  database.close();
  return path;
}

void change(const fs::path& path, const std::string& sql) {
  SqliteDatabase database(path, SqliteDatabase::Mode::kCreate);
  database.run(sql);
  database.close();
}

std::vector<std::int64_t> found(const FeatureStore& store, std::string_view words) {
  std::vector<std::int64_t> out;
  for (const LatentSummary& one : store.search(words, 10)) out.push_back(one.latent);
  return out;
}

using Numbers = std::vector<std::int64_t>;

TEST(FeatureStore, GivesBackAFeature) {
  const FeatureStore store(small_store("feature.sqlite"));
  EXPECT_EQ(store.n_latents(), 3);
  const StoredFeature feature = store.feature(0);
  EXPECT_EQ(feature.summary.n_fired, 5);
  EXPECT_EQ(feature.summary.tokens, std::vector<std::string>{"cat"});
  ASSERT_EQ(feature.promoted.size(), 1U);
  EXPECT_EQ(feature.promoted[0].token, " dog");
  EXPECT_EQ(feature.co_firing.at(0).latent, 2);
  EXPECT_DOUBLE_EQ(feature.co_firing.at(0).pmi, 0.25);
  ASSERT_EQ(feature.examples.size(), 1U);
  EXPECT_EQ(feature.examples[0].tokens, (std::vector<std::string>{"cat", " (", " dog"}));
  EXPECT_EQ(feature.examples[0].activations, (std::vector<float>{3.0F, 0.0F, 1.5F}));
}

TEST(FeatureStore, ListsInEveryOrder) {
  const FeatureStore store(small_store("list.sqlite"));
  const auto numbers = [&](LatentOrder order, bool reverse, std::int64_t offset,
                           std::int64_t limit) {
    Numbers out;
    for (const LatentSummary& one : store.list(order, reverse, offset, limit)) {
      out.push_back(one.latent);
    }
    return out;
  };
  EXPECT_EQ(numbers(LatentOrder::kNumber, false, 0, 10), (Numbers{0, 1, 2}));
  EXPECT_EQ(numbers(LatentOrder::kNumber, true, 0, 2), (Numbers{2, 1}));
  EXPECT_EQ(numbers(LatentOrder::kDensity, false, 0, 10), (Numbers{2, 0, 1}));
  EXPECT_EQ(numbers(LatentOrder::kMaximum, false, 1, 1), (Numbers{2}));
  EXPECT_EQ(numbers(LatentOrder::kMean, true, 0, 10), (Numbers{1, 2, 0}));
}

TEST(FeatureStore, FindsWordsByTheirBeginningAndTokensBeforeContexts) {
  const FeatureStore store(small_store("search.sqlite"));
  EXPECT_EQ(found(store, "cat"), (Numbers{0}));
  EXPECT_EQ(found(store, "DO"), (Numbers{0, 2}));
  EXPECT_EQ(found(store, "cat dog"), (Numbers{0}));
  EXPECT_EQ(found(store, "eclair"), (Numbers{2}));
  EXPECT_EQ(found(store, "nothing"), (Numbers{}));
  EXPECT_EQ(found(store, "("), (Numbers{2}));
}

TEST(FeatureStore, ReadsNoCharacterOfASearchAsAnOperator) {
  const FeatureStore store(small_store("hostile-search.sqlite"));
  for (const std::string words :
       {"\"", "\"\"", "cat\"", "cat OR dog", "NEAR(cat dog", "cat*", "^cat", "tokens:cat", "-cat",
        "{tokens} : cat", "cat AND NOT", "'; DROP TABLE latents; --", "cat\xff\xfe", "%", "\\",
        "a(((((", "…", "\xe2\x80\xae"}) {
    EXPECT_NO_THROW(store.search(words, 5)) << words;
  }
  EXPECT_NO_THROW(store.search(std::string("cat\0dog", 7), 5));
  EXPECT_EQ(found(store, "cat OR giraffe"), (Numbers{}));
  EXPECT_EQ(found(store, "tokens:cat"), (Numbers{}));
  EXPECT_EQ(found(store, "cat*"), (Numbers{0}));
  EXPECT_EQ(store.n_latents(), 3);
  EXPECT_THROW(store.search(std::string(1001, 'a'), 5), UsageError);
  EXPECT_THROW(store.search(" \t\n", 5), UsageError);
}

TEST(FeatureStore, FindsExplanationsFirstAndReplacesThem) {
  const fs::path path = small_store("explained.sqlite");
  add_explanations(path, {{1, "all about dog breeds", "chat", "m", Json::object({{"f1", 0.5}})},
                          {2, "brackets", "chat", "m", Json::object()}});
  {
    const FeatureStore store(path);
    EXPECT_EQ(found(store, "dog"), (Numbers{1, 0, 2}));
    EXPECT_EQ(store.feature(1).explanations.at(0).scores.at("f1").as_double(), 0.5);
  }
  add_explanations(path, {{1, "tulips", "chat", "m", Json::object()}});
  const FeatureStore store(path);
  EXPECT_EQ(found(store, "breeds"), (Numbers{}));
  EXPECT_EQ(found(store, "tulips"), (Numbers{1}));
  EXPECT_EQ(store.feature(1).explanations.size(), 1U);
  EXPECT_EQ(store.summary(1).explanation, "tulips");
  EXPECT_THROW(add_explanations(path, {{3, "none", "chat", "m", Json::object()}}), UsageError);
  EXPECT_THROW(add_explanations(path, {{0, std::string(5000, 'x'), "chat", "m", Json::object()}}),
               DataError);
}

std::string first_line(const fs::path& path) {
  try {
    const FeatureStore store(path);
    for (std::int64_t latent = 0; latent < store.n_latents(); ++latent) store.feature(latent);
  } catch (const DataError& error) {
    return error.first_line().substr(path.string().size());
  }
  return "sound";
}

TEST(FeatureStore, RefusesWhatIsNoStore) {
  EXPECT_THROW(FeatureStore(fresh_path("absent.sqlite")), ConfigError);
  const fs::path text = fresh_path("text.sqlite");
  write_file_atomically(text, std::string_view("not a database, but long enough to be looked at"));
  EXPECT_EQ(first_line(text), ": file is not a database");
  const fs::path other = fresh_path("other.sqlite");
  change(other, "CREATE TABLE a(b)");
  EXPECT_EQ(first_line(other), ": this is no feature store");
  const fs::path newer = small_store("newer.sqlite");
  change(newer, "PRAGMA user_version = 3");
  EXPECT_EQ(first_line(newer), ": a feature store of version 3");
}

TEST(FeatureStore, KeepsHowWellOtherRunsFindALatentAgain) {
  const fs::path path = small_store("stability.sqlite");
  EXPECT_TRUE(FeatureStore(path).feature(1).stability.empty());
  add_stability(path, "runs/b", {4, 5, 6}, {0.1, 0.2, 0.3});
  add_stability(path, "runs/a", {0, 1, 2}, {0.7, 0.8, 0.9});
  add_stability(path, "runs/b", {7, 8, 9}, {0.4, -0.5, 0.6});
  const std::vector<LatentInOther> found = FeatureStore(path).feature(1).stability;
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].other, "runs/a");
  EXPECT_EQ(found[0].other_latent, 1);
  EXPECT_EQ(found[0].cosine, 0.8);
  EXPECT_EQ(found[1].other, "runs/b");
  EXPECT_EQ(found[1].other_latent, 8);
  EXPECT_EQ(found[1].cosine, -0.5);
  EXPECT_THROW(add_stability(path, "runs/c", {1, 2}, {0.5, 0.5}), UsageError);
}

TEST(FeatureStore, RefusesASchemaThatIsNotItsOwn) {
  const fs::path trigger = small_store("trigger.sqlite");
  change(trigger, "CREATE TRIGGER t AFTER INSERT ON explanations BEGIN DELETE FROM latents; END");
  EXPECT_EQ(first_line(trigger), ": the table or index t is not one of a feature store");
  const fs::path view = small_store("view.sqlite");
  change(view, "DROP TABLE latents; CREATE VIEW latents AS SELECT 1 AS id");
  EXPECT_EQ(first_line(view), ": the table or index latents is not one of a feature store");
  const fs::path missing = small_store("missing.sqlite");
  change(missing, "DROP TABLE contexts");
  EXPECT_EQ(first_line(missing), ": the table or index contexts is missing");
}

TEST(FeatureStore, NamesWhatIsDamaged) {
  const auto damaged = [](const std::string& sql) {
    const fs::path path = small_store("damaged.sqlite");
    change(path, sql);
    return first_line(path);
  };
  EXPECT_EQ(damaged("UPDATE facts SET json = '{\"n_latents\":4}'"),
            ": 3 latents are there, 4 should be");
  EXPECT_EQ(damaged("UPDATE facts SET json = '{\"n_latents\":-1}'"), ": -1 latents");
  EXPECT_EQ(damaged("DELETE FROM contexts"), ": context 7 is missing");
  EXPECT_EQ(damaged("DELETE FROM tokens WHERE id = 2"), ": token 2 is missing");
  EXPECT_EQ(damaged("UPDATE contexts SET token_ids = x'00'"), ": context 7 has 1 bytes");
  EXPECT_EQ(damaged("UPDATE examples SET n_tokens = 4000000000"),
            ": an example has tokens 0 to 4000000000 of a context of 3");
  EXPECT_EQ(damaged("UPDATE examples SET activations = '[[3,1.0]]'"),
            ": an activation outside its example");
  EXPECT_EQ(damaged("UPDATE examples SET kind = 9"), ": an example of kind 9");
  EXPECT_EQ(damaged("UPDATE latents SET neighbours = '[[77,0.5]]'"), ": it speaks of latent 77");
  EXPECT_EQ(damaged("INSERT INTO stability VALUES(0, 'a', -1, 0.5)"),
            ": a comparison with another SAE is not as it should be");
  EXPECT_NE(damaged("UPDATE latents SET histogram = '[[['"), "sound");
}

TEST(FeatureStore, SaysSoOfATruncatedFile) {
  const fs::path path = small_store("truncated.sqlite");
  fs::resize_file(path, fs::file_size(path) / 3);
  EXPECT_NE(first_line(path), "sound");
}

}  // namespace
}  // namespace thresher::features
