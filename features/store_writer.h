#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "corpus/tokenizer.h"
#include "features/decoder_facts.h"
#include "features/firing_log.h"
#include "features/latent_pass.h"
#include "features/sqlite.h"
#include "features/store_format.h"

namespace thresher::features {

/// Writes the file of a store. Rows go in in a fixed order, so the same content gives the same
/// bytes.
class StoreWriter {
 public:
  /// `path` is a temporary file that is not there yet.
  StoreWriter(const std::filesystem::path& path, const corpus::Tokenizer& tokenizer,
              const StoreOptions& options, std::int64_t n_contexts, std::int64_t context_tokens);
  void write(const Json& facts, const LatentPass& pass,
             const std::vector<DecoderFacts>& decoder_facts,
             const std::vector<std::filesystem::path>& logs);

 private:
  /// An example whose window is still to be fetched.
  struct Wanted {
    std::int64_t context = 0;
    std::int32_t latent = 0;
    StoredKind kind = StoredKind::kTop;
    std::int32_t quantile = 0, place = 0, position = 0;
    float activation = 0;
  };
  std::vector<Wanted> wanted_examples(const LatentPass& pass) const;
  void write_examples(std::vector<Wanted> wanted, const std::vector<std::filesystem::path>& logs);
  std::pair<std::int64_t, std::int64_t> window_at(StoredKind kind,
                                                  const std::vector<std::int32_t>& documents,
                                                  std::int64_t position) const;
  /// The first position from `from` on, round the context, whose window holds no firing.
  std::optional<std::int64_t> silent_position(std::int64_t from, const ContextFirings& context,
                                              std::span<const Firing> firings) const;
  void write_example(const Wanted& wanted, const ContextFirings& context, SqliteStatement& insert);
  void write_latents(const LatentPass& pass, const std::vector<DecoderFacts>& decoder_facts);
  void write_words(std::int64_t latent, const DecoderFacts& facts, SqliteStatement& examples,
                   SqliteStatement& context, SqliteStatement& insert);
  void write_tokens();
  const std::string& token(std::int32_t id);

  const corpus::Tokenizer* tokenizer_;
  StoreOptions options_;
  std::int64_t n_contexts_, context_tokens_;
  SqliteDatabase database_;
  std::vector<std::string> bytes_;  // of tokens, decoded when first asked for
  std::set<std::int32_t> used_tokens_;
};

}  // namespace thresher::features
