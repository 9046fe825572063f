#include "corpus/corpus.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <span>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "corpus/text_files.h"

namespace thresher::corpus {
namespace {

/// The number in [0, 1) that decides a document's split; its own bytes decide it and nothing else.
double split_draw(std::string_view text) {
  return std::ldexp(static_cast<double>(xxh3_64(text) >> 11), -53);
}

/// Non-empty pieces of `text` between separators, in order.
std::vector<std::string_view> cut_documents(std::string_view text, std::string_view separator) {
  std::vector<std::string_view> pieces;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t found =
        separator.empty() ? std::string_view::npos : text.find(separator, begin);
    const std::size_t end = std::min(found, text.size());
    if (end > begin) pieces.push_back(text.substr(begin, end - begin));
    begin = end + separator.size();
    if (found == std::string_view::npos) break;
  }
  return pieces;
}

}  // namespace

void CorpusConfig::declare(FieldVisitor& fields) {
  fields.field("paths", paths,
               {.help = "Text files in UTF-8, or folders of which every *.txt is read, in byte "
                        "order of the path",
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
      {.help = "Text that separates the documents of a file; empty: a file is one document"});
  fields.field("prepend_bos", prepend_bos,
               {.help = "Where the tokenizer's BOS token is put: never, or before each document",
                .choices = {"never", "document"}});
  fields.field(
      "max_tokens", max_tokens,
      {.help = "Training text that is used at most; 0 uses all", .unit = "tokens", .min = 0});
  fields.field("tokenizer", tokenizer,
               {.help = "A tokenizer.json, a folder with one, or a GGUF; empty: the tokenizer of "
                        "host_model.weights"});
}

Corpus::Corpus(const CorpusConfig& config, const Tokenizer& tokenizer, std::uint64_t seed)
    : config_(config), tokenizer_(&tokenizer), seed_(seed) {
  if (config_.prepend_bos == "document" && !tokenizer_->bos_id()) {
    throw ConfigError(
        "corpus.prepend_bos: 'document', but the host model's tokenizer has no BOS token",
        "prepend_bos: never");
  }
  read_documents();
  split_documents();
}

void Corpus::read_documents() {
  for (const std::filesystem::path& path : find_text_files(config_.paths)) {
    const std::string text = read_text_file(path);
    const TextOddities oddities = check_is_text(text, path);
    summary_.n_nul_bytes += oddities.n_nul_bytes;
    summary_.n_invalid_utf8_bytes += oddities.n_invalid_utf8_bytes;
    std::int64_t number = 0;
    for (const std::string_view piece : cut_documents(text, config_.document_separator)) {
      documents_.push_back({fmt::format("{}#{}", path.string(), number++), std::string(piece)});
      summary_.n_bytes += static_cast<std::int64_t>(piece.size());
    }
  }
  if (documents_.empty()) {
    throw ConfigError(fmt::format("corpus.paths: no text in {}", fmt::join(config_.paths, ", ")),
                      "at least one document that is not empty");
  }
  if (documents_.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw ConfigError(fmt::format("corpus: {} documents", documents_.size()),
                      "at most 2,147,483,647", "choose another document_separator");
  }
}

void Corpus::split_documents() {
  for (Document& document : documents_) {
    document.is_held_out = split_draw(document.text) < config_.held_out_fraction;
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

const std::string& Corpus::document_name(std::int64_t document) const {
  THRESHER_CHECK(document >= 0 && document < summary_.n_documents,
                 fmt::format("document {}", document));
  return documents_[document].name;
}

std::string Corpus::fingerprint() const {
  CorpusConfig config = config_;
  ConfigWriter writer;
  config.declare(writer);
  Json without_paths = Json::object();
  for (const auto& [key, value] : writer.json().as_object()) {
    if (key != "paths" && key != "tokenizer") without_paths[key] = value;
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
  for (const Document& document : documents_) add(document.text);
  return hash.hex();
}

}  // namespace thresher::corpus
