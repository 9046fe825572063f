#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/config.h"
#include "corpus/document_store.h"
#include "corpus/text_files.h"
#include "corpus/tokenizer.h"

namespace thresher::corpus {

struct CorpusConfig {
  /// Text files, or folders: see corpus/text_files.h.
  std::vector<std::string> paths;
  std::int64_t context_tokens = 128;
  double held_out_fraction = 0.05;
  std::string document_separator;     // splits a file into documents; empty: a file is one document
  std::string prepend_bos = "never";  // never | document
  std::int64_t max_tokens = 0;        // of training text; 0: all
  std::string tokenizer;              // a path; empty: the host model's own
  std::string format = "auto";        // auto | text | jsonl
  std::string field = "text";         // of a JSON line
  std::string bad_lines = "error";    // error | skip
  double max_expansion = 200;         // of packed files
  void declare(FieldVisitor& fields);
};

enum class Split { kTraining, kHeldOut };

/// Fixed-length contexts cut from the documents of one split, one after another without padding.
/// The tail that fills no context is dropped and counted.
struct PackedContexts {
  std::int64_t context_tokens = 0;
  std::int64_t n_contexts = 0;
  std::int64_t n_dropped_tokens = 0;
  /// Bytes that became no token because the vocabulary has none for them (Tokenizer::n_lost_bytes).
  std::int64_t n_lost_bytes = 0;
  std::vector<std::int32_t> token_ids;  // [n_contexts, context_tokens]
  /// Position inside its document's piece in this context: restarts at 0 with each document and
  /// each context.
  std::vector<std::int32_t> positions;  // [n_contexts, context_tokens]
  /// Number of the document in the corpus (over both splits, in reading order).
  std::vector<std::int32_t> documents;  // [n_contexts, context_tokens]
};

struct CorpusSummary {
  std::int64_t n_documents = 0, n_training_documents = 0, n_held_out_documents = 0;
  std::int64_t n_bytes = 0;
  /// Bytes that are allowed but seldom meant; people should see them when they are not 0.
  std::int64_t n_nul_bytes = 0, n_invalid_utf8_bytes = 0;
  std::int64_t n_bad_lines = 0;  // left out
  std::string first_bad_line;    // "path:line: what is wrong with it"
};

/// Reads, splits and packs text. Documents go to the held-out split by a hash of their bytes (never
/// by order), so adding text moves no document; document order inside a split is a permutation
/// keyed by `seed`. Text is taken byte by byte as it stands (the tokenizer may normalise it); empty
/// documents are left out. The documents are held in memory, files and packed data are streamed.
class Corpus {
 public:
  /// IoError for a path that cannot be read; ConfigError for a path named twice, a folder without
  /// text, "-" (standard input must have been kept, corpus/standard_input.h), a corpus without
  /// text, without training documents or (held_out_fraction > 0) without held-out documents, and
  /// prepend_bos with a tokenizer that has no BOS; DataError for a file that is not text, a bad
  /// line, and damaged packed data. `tokenizer` must outlive the corpus.
  Corpus(const CorpusConfig& config, const Tokenizer& tokenizer, std::uint64_t seed);
  /// ConfigError when the split's text does not fill one context. The same result on every rank and
  /// every machine.
  PackedContexts pack(Split split) const;
  const CorpusSummary& summary() const { return summary_; }
  /// "path#n", of JSON lines "path:line", for people.
  std::string document_name(std::int64_t document) const;
  /// SHA-256 over config, tokenizer fingerprint, seed and every document's bytes in reading order.
  /// Of the config only what says how documents are used: the same text in another folder, packed,
  /// or as JSON lines is the same corpus.
  std::string fingerprint() const;

 private:
  struct Document {
    std::uint32_t file = 0;
    std::int64_t number = 0;  // in its file
    bool is_held_out = false;
  };
  void read_documents();
  void split_documents();

  CorpusConfig config_;
  const Tokenizer* tokenizer_;
  std::uint64_t seed_;
  std::vector<TextFile> files_;
  DocumentStore texts_;  // one a document
  std::vector<Document> documents_;
  CorpusSummary summary_;
};

}  // namespace thresher::corpus
