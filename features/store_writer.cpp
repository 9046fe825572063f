#include "features/store_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "core/utf8.h"
#include "features/feature_store.h"

namespace thresher::features {
namespace {

/// Text that FTS5 can read: bytes that are no UTF-8, and NUL, become spaces.
void append_words(std::string& out, std::string_view bytes) {
  for (std::size_t i = 0; i < bytes.size();) {
    const std::size_t length = utf8_sequence_length(bytes, i);
    if (length == 0 || bytes[i] == '\0') {
      out += ' ';
      ++i;
    } else {
      out += bytes.substr(i, length);
      i += length;
    }
  }
}

template <class List, class Item>
std::string json_list(const List& list, Item item) {
  std::string out = "[";
  for (const auto& one : list) {
    if (out.size() > 1) out += ',';
    out += item(one);
  }
  out += ']';
  return out;
}

std::string ranked_json(const Ranked& list) {
  return json_list(list,
                   [](const auto& one) { return fmt::format("[{},{}]", one.first, one.second); });
}

std::string histogram_json(const LatentTallies& tallies, std::int64_t latent) {
  std::vector<std::pair<std::int64_t, std::uint32_t>> bins;
  for (std::int64_t bin = 0; bin < kHistogramBins; ++bin) {
    const std::uint32_t count = tallies.histogram[latent * kHistogramBins + bin];
    if (count > 0) bins.emplace_back(bin, count);
  }
  return json_list(bins,
                   [](const auto& one) { return fmt::format("[{},{}]", one.first, one.second); });
}

std::string partners_json(const std::vector<CoFiringSample::Partner>& partners) {
  return json_list(partners, [](const CoFiringSample::Partner& one) {
    return fmt::format("[{},{},{},{}]", one.latent, one.n_both, one.jaccard, one.pmi);
  });
}

/// The window of `width` tokens in which `position` has `before` tokens before it, moved as far as
/// needed to stay inside the position's document.
std::pair<std::int64_t, std::int64_t> window(const std::vector<std::int32_t>& documents,
                                             std::int64_t position, std::int64_t before,
                                             std::int64_t width) {
  const auto size = static_cast<std::int64_t>(documents.size());
  std::int64_t first = position, end = position + 1;
  while (first > 0 && documents[first - 1] == documents[position]) --first;
  while (end < size && documents[end] == documents[position]) ++end;
  const std::int64_t start =
      std::max(first, std::min(position - before, std::max(first, end - width)));
  return {start, std::min(end, start + width)};
}

}  // namespace

StoreWriter::StoreWriter(const std::filesystem::path& path, const corpus::Tokenizer& tokenizer,
                         const StoreOptions& options, std::int64_t n_contexts,
                         std::int64_t context_tokens)
    : tokenizer_(&tokenizer),
      options_(options),
      n_contexts_(n_contexts),
      context_tokens_(context_tokens),
      database_(path, SqliteDatabase::Mode::kCreate),
      bytes_(static_cast<std::size_t>(tokenizer.vocabulary_size())) {
  create_schema(database_);
}

const std::string& StoreWriter::token(std::int32_t id) {
  if (id < 0 || id >= static_cast<std::int32_t>(bytes_.size())) {
    throw DataError(fmt::format("the text has token {}, the tokenizer knows {}", id, bytes_.size()),
                    "the tokenizer with which the text was cut");
  }
  std::string& bytes = bytes_[static_cast<std::size_t>(id)];
  if (used_tokens_.insert(id).second) bytes = tokenizer_->decode({&id, 1});
  return bytes;
}

std::vector<StoreWriter::Wanted> StoreWriter::wanted_examples(const LatentPass& pass) const {
  std::vector<Wanted> out;
  const RandomStream silent(options_.seed, "features.silent_contexts");
  const RandomStream middles(options_.seed, "features.silent_positions");
  const auto n = static_cast<std::int32_t>(pass.tallies().n_fired.size());
  for (std::int32_t latent = 0; latent < n; ++latent) {
    const auto add = [&](const ContextPeak& peak, StoredKind kind, std::int64_t quantile,
                         std::int64_t place) {
      out.push_back({peak.context, latent, kind, static_cast<std::int32_t>(quantile),
                     static_cast<std::int32_t>(place), peak.position, peak.activation});
    };
    std::int64_t place = 0;
    for (const ContextPeak& peak : pass.lists().top(latent)) {
      add(peak, StoredKind::kTop, 0, place++);
    }
    const std::vector<ContextPeak> sampled = pass.lists().sampled(latent);
    const auto n_sampled = static_cast<std::int64_t>(sampled.size());
    for (std::int64_t i = 0; i < n_sampled; ++i) {
      const std::int64_t group = options_.n_quantiles - 1 - i * options_.n_quantiles / n_sampled;
      add(sampled[static_cast<std::size_t>(i)], StoredKind::kQuantile, group, i);
    }
    for (std::int64_t i = 0; i < options_.n_silent; ++i) {
      const auto draw = static_cast<std::uint64_t>(latent * options_.n_silent + i);
      const auto context = static_cast<std::int64_t>(silent.below(draw, n_contexts_));
      const auto position = static_cast<std::int32_t>(middles.below(draw, context_tokens_));
      add({0, position, context}, StoredKind::kSilent, 0, i);
    }
  }
  std::sort(out.begin(), out.end(), [](const Wanted& a, const Wanted& b) {
    return std::tie(a.context, a.latent, a.kind, a.quantile, a.place) <
           std::tie(b.context, b.latent, b.kind, b.quantile, b.place);
  });
  return out;
}

std::pair<std::int64_t, std::int64_t> StoreWriter::window_at(
    StoredKind kind, const std::vector<std::int32_t>& documents, std::int64_t position) const {
  const std::int64_t before =
      kind == StoredKind::kSilent ? options_.window_tokens / 2 : options_.window_before;
  return window(documents, position, before, options_.window_tokens);
}

std::optional<std::int64_t> StoreWriter::silent_position(std::int64_t from,
                                                         const ContextFirings& context,
                                                         std::span<const Firing> firings) const {
  const auto size = static_cast<std::int64_t>(context.documents.size());
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int64_t position = (from + i) % size;
    const auto [start, end] = window_at(StoredKind::kSilent, context.documents, position);
    const bool is_silent =
        std::none_of(firings.begin(), firings.end(), [start = start, end = end](const Firing& one) {
          return one.position >= start && one.position < end;
        });
    if (is_silent) return position;
  }
  return std::nullopt;
}

void StoreWriter::write_example(const Wanted& wanted, const ContextFirings& context,
                                SqliteStatement& insert) {
  const std::span<const Firing> firings = context.of_latent(wanted.latent);
  std::int64_t position = wanted.position;
  if (wanted.kind == StoredKind::kSilent) {
    const std::optional<std::int64_t> silent = silent_position(wanted.position, context, firings);
    if (!silent) return;
    position = *silent;
  }
  const auto [start, end] = window_at(wanted.kind, context.documents, position);
  std::vector<Firing> shown;
  for (const Firing& one : firings) {
    if (one.position >= start && one.position < end) shown.push_back(one);
  }
  const std::string activations = json_list(shown, [start = start](const Firing& one) {
    return fmt::format("[{},{}]", one.position - start, one.activation);
  });
  insert.bind(1, std::int64_t{wanted.latent}).bind(2, static_cast<std::int64_t>(wanted.kind));
  insert.bind(3, std::int64_t{wanted.quantile}).bind(4, std::int64_t{wanted.place});
  insert.bind(5, static_cast<double>(wanted.activation)).bind(6, wanted.context);
  insert.bind(7, position).bind(8, start).bind(9, end - start);
  insert.bind(10, std::string_view(activations)).run();
}

void StoreWriter::write_examples(std::vector<Wanted> wanted,
                                 const std::vector<std::filesystem::path>& logs) {
  SqliteStatement insert =
      database_.prepare("INSERT INTO examples VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  SqliteStatement insert_context = database_.prepare("INSERT INTO contexts VALUES(?, ?)");
  auto next = wanted.begin();
  for (const std::filesystem::path& log : logs) {
    FiringLogReader reader(log);
    while (const std::optional<ContextFirings> context = reader.next()) {
      const auto first = next;
      while (next != wanted.end() && next->context == context->context) {
        write_example(*next++, *context, insert);
      }
      if (first == next) continue;
      for (const std::int32_t id : context->token_ids) token(id);
      const auto bytes = std::as_bytes(std::span(context->token_ids));
      insert_context.bind(1, context->context);
      insert_context.bind_bytes(2, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
      insert_context.run();
    }
  }
  THRESHER_CHECK(next == wanted.end(), "every context that is shown was logged");
}

void StoreWriter::write_words(std::int64_t latent, const DecoderFacts& facts,
                              SqliteStatement& examples, SqliteStatement& context,
                              SqliteStatement& insert) {
  std::string fires_on, promoted, contexts;
  examples.bind(1, latent);
  while (examples.step()) {
    context.bind(1, examples.integer(1));
    context.step();
    const std::string bytes = context.text(0);
    context.reset();
    std::vector<std::int32_t> ids(bytes.size() / sizeof(std::int32_t));
    std::memcpy(ids.data(), bytes.data(), bytes.size());
    const std::int64_t start = examples.integer(2), count = examples.integer(3);
    for (std::int64_t i = start; i < start + count; ++i) append_words(contexts, token(ids[i]));
    contexts += '\n';
    if (examples.integer(0) != static_cast<std::int64_t>(StoredKind::kTop)) continue;
    append_words(fires_on, token(ids[examples.integer(4)]));
    fires_on += '\n';
  }
  examples.reset();
  for (const auto& [id, effect] : facts.promoted) {
    append_words(promoted, token(id));
    promoted += '\n';
  }
  for (const auto& [id, effect] : facts.suppressed) token(id);
  insert.bind(1, latent).bind(2, std::string_view(fires_on)).bind(3, std::string_view(promoted));
  insert.bind(4, std::string_view(contexts)).run();
}

void StoreWriter::write_latents(const LatentPass& pass,
                                const std::vector<DecoderFacts>& decoder_facts) {
  const LatentTallies& tallies = pass.tallies();
  SqliteStatement insert =
      database_.prepare("INSERT INTO latents VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  SqliteStatement insert_words = database_.prepare(
      "INSERT INTO latent_words(rowid, tokens, promoted, contexts) VALUES(?, ?, ?, ?)");
  SqliteStatement examples = database_.prepare(
      "SELECT kind, context, start, n_tokens, position FROM examples WHERE latent = ? AND kind < 2 "
      "ORDER BY kind, quantile, place");
  SqliteStatement peaks = database_.prepare(
      "SELECT context, position FROM examples WHERE "
      "latent = ? AND kind = 0 ORDER BY place");
  SqliteStatement context = database_.prepare("SELECT token_ids FROM contexts WHERE id = ?");
  const auto n = static_cast<std::int64_t>(tallies.n_fired.size());
  const auto write_one = [&](std::int64_t latent,
                             const std::vector<CoFiringSample::Partner>& with) {
    const DecoderFacts& facts = decoder_facts[static_cast<std::size_t>(latent)];
    write_words(latent, facts, examples, context, insert_words);
    std::map<std::int32_t, std::int64_t> counts;
    peaks.bind(1, latent);
    while (peaks.step()) {
      context.bind(1, peaks.integer(0));
      context.step();
      std::int32_t id = 0;
      std::memcpy(&id, context.text(0).data() + peaks.integer(1) * sizeof(id), sizeof(id));
      context.reset();
      ++counts[id];
    }
    peaks.reset();
    std::vector<std::pair<std::int32_t, std::int64_t>> frequent(counts.begin(), counts.end());
    std::stable_sort(frequent.begin(), frequent.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    const std::int64_t fired = tallies.n_fired[latent];
    const std::span<const ContextPeak> top = pass.lists().top(latent);
    insert.bind(1, latent).bind(2, fired);
    insert.bind(3, static_cast<double>(fired) /
                       static_cast<double>(std::max<std::int64_t>(1, tallies.n_tokens)));
    insert.bind(4, fired == 0 ? 0.0 : tallies.sum(latent) / static_cast<double>(fired));
    insert.bind(5, top.empty() ? 0.0 : static_cast<double>(top.front().activation));
    insert.bind(6, std::string_view(json_list(frequent, [](const auto& one) {
                  return fmt::format("[{},{}]", one.first, one.second);
                })));
    insert.bind(7, std::string_view(histogram_json(tallies, latent)));
    insert.bind(8, std::string_view(ranked_json(facts.promoted)));
    insert.bind(9, std::string_view(ranked_json(facts.suppressed)));
    insert.bind(10, std::string_view(ranked_json(facts.neighbours)));
    insert.bind(11, std::string_view(partners_json(with))).run();
  };
  pass.co_firing().count(n, options_.n_listed, write_one);
}

void StoreWriter::write_tokens() {
  SqliteStatement insert = database_.prepare("INSERT INTO tokens VALUES(?, ?)");
  for (const std::int32_t id : used_tokens_) {
    insert.bind(1, std::int64_t{id}).bind_bytes(2, bytes_[static_cast<std::size_t>(id)]).run();
  }
}

void StoreWriter::write(const Json& facts, const LatentPass& pass,
                        const std::vector<DecoderFacts>& decoder_facts,
                        const std::vector<std::filesystem::path>& logs) {
  database_.run("BEGIN");
  database_.prepare("INSERT INTO facts VALUES(?)").bind(1, std::string_view(facts.dump())).run();
  write_examples(wanted_examples(pass), logs);
  write_latents(pass, decoder_facts);
  write_tokens();
  database_.run("INSERT INTO latent_words(latent_words) VALUES('optimize')");
  database_.run("COMMIT");
  database_.close();
}

}  // namespace thresher::features
