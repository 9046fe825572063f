#include "corpus/corpus.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <span>

#include "core/error.h"
#include "core/hash.h"
#include "corpus/document_reader.h"
#include "corpus/standard_input.h"
#include "corpus/text_files.h"

namespace thresher::corpus {
namespace {

/// The number in [0, 1) that decides a document's split; its own bytes decide it and nothing else.
double split_draw(std::string_view text) {
  return std::ldexp(static_cast<double>(xxh3_64(text) >> 11), -53);
}

/// Fields that say where text is and how to read it; what was read is in the fingerprint.
bool says_how_to_read(std::string_view field) {
  for (const std::string_view name :
       {"paths", "tokenizer", "format", "field", "bad_lines", "max_expansion"}) {
    if (field == name) return true;
  }
  return false;
}

}  // namespace

void CorpusConfig::declare(FieldVisitor& fields) {
  fields.field(
      "paths", paths,
      {.help = "Text in UTF-8, plain or JSON lines, packed with gzip or zstd or not: files, "
               "folders (every *.txt or *.jsonl below), or - for standard input",
       .is_required = true});
  fields.field(
      "context_tokens", context_tokens,
      {.help = "Length of the contexts that the host model sees", .unit = "tokens", .min = 2});
  fields.field(
      "held_out_fraction", held_out_fraction,
      {.help = "Share of the documents kept for evaluation; a hash of a document's bytes decides",
       .min = 0,
       .max = 0.9});
  fields.field(
      "document_separator", document_separator,
      {.help = "Text that separates the documents of a plain text file; empty: a file is one "
               "document"});
  fields.field("prepend_bos", prepend_bos,
               {.help = "Where the tokenizer's BOS token is put: never, or before each document",
                .choices = {"never", "document"}});
  fields.field(
      "max_tokens", max_tokens,
      {.help = "Training text that is used at most; 0 uses all", .unit = "tokens", .min = 0});
  fields.field("tokenizer", tokenizer,
               {.help = "A tokenizer.json, a folder with one, or a GGUF; empty: the tokenizer of "
                        "host_model.weights"});
  fields.field("format", format,
               {.help = "How files are read; auto goes by their names (.jsonl and .ndjson are JSON "
                        "lines, before .gz or .zst too)",
                .choices = {"auto", "text", "jsonl"}});
  fields.field("field", field,
               {.help = "Key of a JSON line's text; dots lead into objects (meta.text)"});
  fields.field(
      "bad_lines", bad_lines,
      {.help = "What becomes of a JSON line without that text: error, or skip and count it",
       .choices = {"error", "skip"}});
  fields.field("max_expansion", max_expansion,
               {.help = "Times its own size that a packed file may have after the first 16 MiB; a "
                        "guard against hostile files",
                .min = 1,
                .max = 1e6});
}

Corpus::Corpus(const CorpusConfig& config, const Tokenizer& tokenizer, std::uint64_t seed)
    : config_(config), tokenizer_(&tokenizer), seed_(seed) {
  if (config_.prepend_bos == "document" && !tokenizer_->bos_id()) {
    throw ConfigError(
        "corpus.prepend_bos: 'document', but the host model's tokenizer has no BOS token",
        "prepend_bos: never");
  }
  if (wants_standard_input(config_.paths)) {
    throw ConfigError("corpus.paths: '-' cannot be read here", "files or folders");
  }
  read_documents();
  split_documents();
}

void Corpus::read_documents() {
  files_ = find_text_files(config_.paths, config_.format);
  DocumentFormat format;
  format.separator = config_.document_separator;
  format.field = config_.field;
  format.skip_bad_lines = config_.bad_lines == "skip";
  format.max_expansion = config_.max_expansion;
  for (std::size_t i = 0; i < files_.size(); ++i) {
    format.is_json_lines = files_[i].is_json_lines;
    const FileReport report = corpus::read_documents(
        files_[i].path, format, [&](std::string_view text, std::int64_t number) {
          texts_.append(text);
          documents_.push_back({static_cast<std::uint32_t>(i), number});
          summary_.n_bytes += static_cast<std::int64_t>(text.size());
        });
    summary_.n_nul_bytes += report.n_nul_bytes;
    summary_.n_invalid_utf8_bytes += report.n_invalid_utf8_bytes;
    if (summary_.n_bad_lines == 0) summary_.first_bad_line = report.first_bad_line;
    summary_.n_bad_lines += report.n_bad_lines;
  }
  if (documents_.empty()) {
    throw ConfigError(fmt::format("corpus.paths: no text in {}", fmt::join(config_.paths, ", ")),
                      "at least one document that is not empty", summary_.first_bad_line);
  }
  if (documents_.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw ConfigError(fmt::format("corpus: {} documents", documents_.size()),
                      "at most 2,147,483,647", "choose another document_separator");
  }
}

void Corpus::split_documents() {
  for (std::size_t i = 0; i < documents_.size(); ++i) {
    Document& document = documents_[i];
    document.is_held_out = split_draw(texts_.text(i)) < config_.held_out_fraction;
    ++(document.is_held_out ? summary_.n_held_out_documents : summary_.n_training_documents);
  }
  summary_.n_documents = static_cast<std::int64_t>(documents_.size());
  const bool wants_held_out = config_.held_out_fraction > 0;
  if (summary_.n_training_documents > 0 && (!wants_held_out || summary_.n_held_out_documents > 0))
    return;
  throw ConfigError(
      fmt::format(
          "corpus.held_out_fraction: {} leaves no {} documents: all {} fall into the other split",
          config_.held_out_fraction, summary_.n_training_documents > 0 ? "held-out" : "training",
          summary_.n_documents),
      "documents in both splits (a hash of each document's bytes decides)",
      "use more documents, set corpus.document_separator, or another fraction; 0 holds nothing "
      "out");
}

std::string Corpus::document_name(std::int64_t document) const {
  THRESHER_CHECK(document >= 0 && document < summary_.n_documents,
                 fmt::format("document {}", document));
  const Document& found = documents_[static_cast<std::size_t>(document)];
  const TextFile& file = files_[found.file];
  return fmt::format("{}{}{}", file.path.string(), file.is_json_lines ? ':' : '#', found.number);
}

std::string Corpus::fingerprint() const {
  CorpusConfig config = config_;
  ConfigWriter writer;
  config.declare(writer);
  Json without_paths = Json::object();
  for (const auto& [key, value] : writer.json().as_object()) {
    if (!says_how_to_read(key)) without_paths[key] = value;
  }
  Sha256 hash;
  const auto add = [&hash](std::string_view text) {
    const std::string length = fmt::format("{}:", text.size());
    hash.update(std::as_bytes(std::span(length)));
    hash.update(std::as_bytes(std::span(text)));
  };
  add("corpus-1");
  add(without_paths.dump());
  add(tokenizer_->fingerprint());
  add(std::to_string(seed_));
  for (std::size_t i = 0; i < texts_.size(); ++i) add(texts_.text(i));
  return hash.hex();
}

}  // namespace thresher::corpus
