#include "features/feature_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_map>

#include "core/error.h"
#include "core/visible_text.h"
#include "features/store_format.h"
#include "features/store_search.h"

namespace thresher::features {
namespace {

constexpr double kMostCosine = 1.001;  // with float32 rounding
constexpr const char* kSummaryColumns =
    "l.id, l.n_fired, l.density, l.mean, l.maximum, l.tokens, "
    "(SELECT e.text FROM explanations e WHERE e.latent = l.id ORDER BY e.id DESC LIMIT 1)";

const char* column_of(LatentOrder order) {
  switch (order) {
    case LatentOrder::kDensity:
      return "l.density";
    case LatentOrder::kMaximum:
      return "l.maximum";
    case LatentOrder::kMean:
      return "l.mean";
    case LatentOrder::kNumber:
      break;
  }
  return "l.id";
}

}  // namespace

std::filesystem::path store_path(const std::filesystem::path& run_dir, std::string_view sae) {
  return run_dir / "features" / (std::string(sae) + ".sqlite");
}

double histogram_edge(std::int64_t bin) { return std::exp2(static_cast<double>(bin) / 4 - 12); }

std::int64_t histogram_bin(float activation) {
  // 2^(-3/4), 2^(-1/2), 2^(-1/4): where the quarters of a doubling begin in frexp's [0.5, 1).
  constexpr double kQuarters[] = {0.59460355750136053, 0.70710678118654752, 0.84089641525371454};
  int exponent = 0;
  const double mantissa = std::frexp(static_cast<double>(activation), &exponent);
  std::int64_t bin = 4 * (static_cast<std::int64_t>(exponent) + 11);
  for (const double quarter : kQuarters) bin += mantissa >= quarter ? 1 : 0;
  return std::clamp<std::int64_t>(bin, 0, kHistogramBins - 1);
}

struct FeatureStore::State {
  explicit State(const std::filesystem::path& path) : database(path, SqliteDatabase::Mode::kRead) {}

  std::string where() const { return display_path(database.path()); }
  [[noreturn]] void fail(std::string_view problem) const {
    throw DataError(fmt::format("{}: {}", where(), problem), "a sound feature store",
                    "`thresher features build` makes it anew");
  }

  void read_facts();
  const std::string& token(std::int64_t id);
  std::vector<std::int32_t> context(std::int64_t number);
  /// A JSON list of pairs [number, figure].
  std::vector<std::pair<std::int64_t, double>> pairs(const std::string& json) const;
  std::int64_t latent_number(std::int64_t number) const {
    if (number < 0 || number >= n_latents) fail(fmt::format("it speaks of latent {}", number));
    return number;
  }
  std::vector<TokenEffect> effects(const std::string& json);
  LatentSummary summary(const SqliteStatement& row);
  std::vector<LatentSummary> summaries(SqliteStatement rows);
  StoredExample example(const SqliteStatement& row);
  void read_examples(StoredFeature& feature);
  void read_explanations(StoredFeature& feature);
  void read_stability(StoredFeature& feature);

  SqliteDatabase database;
  Json facts;
  std::int64_t n_latents = 0;
  std::unordered_map<std::int64_t, std::string> tokens;
};

void FeatureStore::State::read_facts() {
  SqliteStatement rows = database.prepare("SELECT json FROM facts");
  if (!rows.step()) fail("it says nothing of itself");
  facts = Json::parse(rows.text(0), where() + ": facts");
  n_latents = facts.at("n_latents").as_int("n_latents");
  if (n_latents < 1 || n_latents > kMaxLatents) fail(fmt::format("{} latents", n_latents));
  SqliteStatement count = database.prepare("SELECT count(*), min(id), max(id) FROM latents");
  count.step();
  if (count.integer(0) != n_latents || count.integer(1) != 0 || count.integer(2) != n_latents - 1) {
    fail(fmt::format("{} latents are there, {} should be", count.integer(0), n_latents));
  }
}

const std::string& FeatureStore::State::token(std::int64_t id) {
  const auto known = tokens.find(id);
  if (known != tokens.end()) return known->second;
  SqliteStatement row = database.prepare("SELECT bytes FROM tokens WHERE id = ?");
  row.bind(1, id);
  if (!row.step()) fail(fmt::format("token {} is missing", id));
  return tokens.emplace(id, row.text(0)).first->second;
}

std::vector<std::int32_t> FeatureStore::State::context(std::int64_t number) {
  SqliteStatement row = database.prepare("SELECT token_ids FROM contexts WHERE id = ?");
  row.bind(1, number);
  if (!row.step()) fail(fmt::format("context {} is missing", number));
  const std::string bytes = row.text(0);
  if (bytes.empty() || bytes.size() % sizeof(std::int32_t) != 0 ||
      bytes.size() / sizeof(std::int32_t) > static_cast<std::size_t>(kMaxContextTokens)) {
    fail(fmt::format("context {} has {} bytes", number, bytes.size()));
  }
  std::vector<std::int32_t> ids(bytes.size() / sizeof(std::int32_t));
  std::memcpy(ids.data(), bytes.data(), bytes.size());
  return ids;
}

std::vector<std::pair<std::int64_t, double>> FeatureStore::State::pairs(
    const std::string& json) const {
  std::vector<std::pair<std::int64_t, double>> out;
  const Json list = Json::parse(json, where());
  for (const Json& item : list.as_array(where())) {
    const Json::Array& pair = item.as_array(where());
    if (pair.size() < 2 || out.size() >= static_cast<std::size_t>(kMaxListEntries)) {
      fail("a list is not as it should be");
    }
    out.emplace_back(pair[0].as_int(where()), pair[1].as_double(where()));
  }
  return out;
}

std::vector<TokenEffect> FeatureStore::State::effects(const std::string& json) {
  std::vector<TokenEffect> out;
  for (const auto& [id, effect] : pairs(json)) {
    out.push_back({static_cast<std::int32_t>(id), token(id), static_cast<float>(effect)});
  }
  return out;
}

LatentSummary FeatureStore::State::summary(const SqliteStatement& row) {
  LatentSummary out;
  out.latent = latent_number(row.integer(0));
  out.n_fired = row.integer(1);
  out.density = row.real(2);
  out.mean = row.real(3);
  out.maximum = static_cast<float>(row.real(4));
  for (const auto& [id, count] : pairs(row.text(5))) out.tokens.push_back(token(id));
  out.explanation = row.text(6);
  return out;
}

std::vector<LatentSummary> FeatureStore::State::summaries(SqliteStatement rows) {
  std::vector<LatentSummary> out;
  while (rows.step()) out.push_back(summary(rows));
  return out;
}

StoredExample FeatureStore::State::example(const SqliteStatement& row) {
  StoredExample out;
  const std::int64_t kind = row.integer(0);
  if (kind < 0 || kind > 2) fail(fmt::format("an example of kind {}", kind));
  out.kind = static_cast<StoredExample::Kind>(kind);
  out.quantile = row.integer(1);
  out.activation = static_cast<float>(row.real(2));
  out.context = row.integer(3);
  out.position = row.integer(4);
  out.start = row.integer(5);
  const std::int64_t n_tokens = row.integer(6);
  const std::vector<std::int32_t> ids = context(out.context);
  const auto size = static_cast<std::int64_t>(ids.size());
  if (out.start < 0 || n_tokens < 1 || out.start >= size || n_tokens > size - out.start) {
    fail(fmt::format("an example has tokens {} to {} of a context of {}", out.start,
                     out.start + n_tokens, size));
  }
  out.token_ids.assign(ids.begin() + out.start, ids.begin() + out.start + n_tokens);
  for (const std::int32_t id : out.token_ids) out.tokens.push_back(token(id));
  out.activations.assign(out.token_ids.size(), 0.0F);
  for (const auto& [offset, value] : pairs(row.text(7))) {
    if (offset < 0 || offset >= n_tokens) fail("an activation outside its example");
    out.activations[static_cast<std::size_t>(offset)] = static_cast<float>(value);
  }
  return out;
}

void FeatureStore::State::read_examples(StoredFeature& feature) {
  SqliteStatement rows = database.prepare(
      "SELECT kind, quantile, activation, context, position, start, n_tokens, activations "
      "FROM examples WHERE latent = ? ORDER BY kind, quantile DESC, place LIMIT ?");
  rows.bind(1, feature.summary.latent).bind(2, kMaxListEntries);
  while (rows.step()) feature.examples.push_back(example(rows));
}

void FeatureStore::State::read_explanations(StoredFeature& feature) {
  SqliteStatement rows = database.prepare(
      "SELECT text, method, model, scores FROM explanations WHERE latent = ? ORDER BY id DESC "
      "LIMIT ?");
  rows.bind(1, feature.summary.latent).bind(2, kMaxListEntries);
  while (rows.step()) {
    feature.explanations.push_back({feature.summary.latent, rows.text(0), rows.text(1),
                                    rows.text(2), Json::parse(rows.text(3), where())});
  }
}

void FeatureStore::State::read_stability(StoredFeature& feature) {
  SqliteStatement rows = database.prepare(
      "SELECT other, other_latent, cosine FROM stability WHERE latent = ? ORDER BY other LIMIT ?");
  rows.bind(1, feature.summary.latent).bind(2, kMaxListEntries);
  while (rows.step()) {
    LatentInOther one{rows.text(0), rows.integer(1), rows.real(2)};
    if (one.other_latent < 0 || one.other_latent >= kMaxLatents ||
        !(std::abs(one.cosine) <= kMostCosine)) {
      fail("a comparison with another SAE is not as it should be");
    }
    feature.stability.push_back(std::move(one));
  }
}

FeatureStore::FeatureStore(const std::filesystem::path& path) {
  if (!std::filesystem::is_regular_file(path)) {
    throw ConfigError(fmt::format("{}: there is no feature store", display_path(path)),
                      "a file that `thresher features build` made",
                      "`thresher features build RUN` makes it");
  }
  state_ = std::make_unique<State>(path);
  check_schema(state_->database);
  state_->read_facts();
}

FeatureStore::~FeatureStore() = default;
FeatureStore::FeatureStore(FeatureStore&&) noexcept = default;
FeatureStore& FeatureStore::operator=(FeatureStore&&) noexcept = default;

const Json& FeatureStore::facts() const { return state_->facts; }
std::int64_t FeatureStore::n_latents() const { return state_->n_latents; }
const std::string& FeatureStore::token(std::int32_t id) const { return state_->token(id); }

std::vector<std::int32_t> FeatureStore::context(std::int64_t number) const {
  return state_->context(number);
}

LatentSummary FeatureStore::summary(std::int64_t latent) const {
  if (latent < 0 || latent >= state_->n_latents) {
    throw UsageError(fmt::format("latent {}: there is no such latent", latent),
                     fmt::format("0 to {}", state_->n_latents - 1));
  }
  SqliteStatement row = state_->database.prepare(
      fmt::format("SELECT {} FROM latents l WHERE l.id = ?", kSummaryColumns));
  row.bind(1, latent);
  if (!row.step()) state_->fail(fmt::format("latent {} is missing", latent));
  return state_->summary(row);
}

StoredFeature FeatureStore::feature(std::int64_t latent) const {
  StoredFeature out;
  out.summary = summary(latent);
  SqliteStatement row = state_->database.prepare(
      "SELECT histogram, promoted, suppressed, neighbours, co_firing FROM latents WHERE id = ?");
  row.bind(1, latent);
  if (!row.step()) state_->fail(fmt::format("latent {} is missing", latent));
  for (const auto& [bin, count] : state_->pairs(row.text(0))) {
    if (bin < 0 || bin >= kHistogramBins) state_->fail("a histogram has a bin that is none");
    out.histogram.emplace_back(bin, static_cast<std::int64_t>(count));
  }
  out.promoted = state_->effects(row.text(1));
  out.suppressed = state_->effects(row.text(2));
  for (const auto& [other, cosine] : state_->pairs(row.text(3))) {
    out.neighbours.push_back({state_->latent_number(other), static_cast<float>(cosine)});
  }
  const Json partners = Json::parse(row.text(4), state_->where());
  for (const Json& partner : partners.as_array()) {
    const Json::Array& fields = partner.as_array();
    if (fields.size() != 4) state_->fail("a list of co-firing latents is not as it should be");
    out.co_firing.push_back({state_->latent_number(fields[0].as_int()), fields[1].as_int(),
                             fields[2].as_double(), fields[3].as_double()});
  }
  state_->read_examples(out);
  state_->read_explanations(out);
  state_->read_stability(out);
  return out;
}

std::vector<LatentSummary> FeatureStore::list(LatentOrder order, bool reverse, std::int64_t offset,
                                              std::int64_t limit) const {
  const bool descends = (order != LatentOrder::kNumber) != reverse;
  SqliteStatement rows = state_->database.prepare(
      fmt::format("SELECT {} FROM latents l ORDER BY {} {}, l.id LIMIT ? OFFSET ?", kSummaryColumns,
                  column_of(order), descends ? "DESC" : "ASC"));
  rows.bind(1, std::max<std::int64_t>(0, limit)).bind(2, std::max<std::int64_t>(0, offset));
  return state_->summaries(std::move(rows));
}

std::vector<LatentSummary> FeatureStore::search(std::string_view words, std::int64_t limit) const {
  std::vector<LatentSummary> out;
  for (const std::int64_t latent : search_store(state_->database, words, limit)) {
    out.push_back(summary(state_->latent_number(latent)));
  }
  return out;
}

}  // namespace thresher::features
