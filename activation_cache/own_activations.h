#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "activation_cache/activation_source.h"
#include "activation_cache/table_file.h"
#include "core/config.h"
#include "core/dtype.h"
#include "core/json.h"

namespace thresher::activation_cache {

/// Section `activations` of an experiment: somebody's own matrices instead of a text and a host
/// model (docs/own-data.md).
struct OwnActivationsConfig {
  std::vector<std::string> paths;  // files, folders, patterns
  std::vector<std::string>
      datasets;              // one a hook point; may be empty where a file holds one matrix
  std::string token_ids;     // a dataset of the same files, or .npy files
  std::string document_ids;  // the same
  double held_out_fraction = 0.05;
  std::int64_t held_out_block_rows = 256;
  void declare(FieldVisitor& fields);
};

/// The hook points' names where cache.hook_points is left out: "activations", or the datasets'
/// names where there are several (what no hook point may be called by becomes '.').
std::vector<std::string> default_hook_points(const OwnActivationsConfig& config);

/// Files, folders (their .npy, .safetensors, .h5 and .hdf5 files) and patterns (*, ?, [...]) as
/// files: in the order given, those of a folder or a pattern in byte order of their paths. IoError
/// for a path that is not there, ConfigError for a folder or pattern without files and a file named
/// twice; `key` starts the message.
std::vector<std::filesystem::path> find_table_files(const std::vector<std::string>& paths,
                                                    const std::string& key);

/// Rows of activations that somebody brings: matrices of any number of files laid end to end, one a
/// hook point with the same rows, with token ids and document ids if there are any. Nothing but
/// document ids is held in memory at any time, and those only while they are looked at. Row numbers
/// count over all files. Not thread-safe; one object a rank.
///
/// Rows are held out for evaluation by whole documents, or by blocks of held_out_block_rows rows
/// where no document ids are given: a hash of the document's id (of the block's number) decides,
/// whatever the seed, so the same rows are held out of every run; at least one is.
class OwnActivations {
 public:
  /// Opens every file and compares shapes; reads document ids, but no activations. DataError for
  /// files and tables that cannot be read or do not fit each other; ConfigError for names that are
  /// not there and a rule that leaves no rows for training.
  OwnActivations(const OwnActivationsConfig& config, const std::vector<std::string>& hook_points);

  const std::vector<HookPointWidth>& hook_points() const { return hook_points_; }
  std::int64_t n_rows() const { return n_rows_; }
  std::int64_t n_held_out() const { return n_held_out_; }
  /// The narrowest type that holds every value as it is (float64 as float32).
  Dtype dtype() const;
  /// All files that are read, each once.
  std::vector<std::filesystem::path> files() const;
  /// Bytes of all activations as they stand in the files.
  std::uint64_t activation_bytes() const;

  /// Rows from `first` on: out [n, d_in]. DataError naming file, row and value for one that is not
  /// finite.
  void read(std::size_t hook_index, std::int64_t first, std::span<float> out) const;
  /// -1 where there are no token ids.
  void read_token_ids(std::int64_t first, std::span<std::int32_t> out) const;
  /// The number of the row's block where there are no document ids.
  void read_documents(std::int64_t first, std::span<std::int32_t> out) const;
  /// By the row's document, as read_documents gives it.
  bool is_held_out(std::int32_t document) const;
  /// Held-out rows, ascending: whole documents (blocks) with the smallest hashes, as many as make
  /// `most` rows, the last one cut.
  std::vector<std::int64_t> held_out_rows(std::int64_t most) const;

  /// "acts.npy: row 17", for messages.
  std::string place(std::size_t hook_index, std::int64_t row) const;

  /// What decides the rows and their split, but the files' content: for the cache's identity.
  Json identity() const;

 private:
  /// One table, known but not kept open: people save a file a batch, and a process may have a
  /// thousand open files.
  struct Part {
    std::filesystem::path path;
    std::string name;   // of the table
    std::string where;  // for messages
    NumberType type = NumberType::kFloat32;
    std::int64_t rows = 0, columns = 0;
  };
  /// Tables laid end to end.
  struct Column {
    std::vector<Part> parts;
    std::vector<std::int64_t> first_rows = {0};  // one more for the end
    mutable std::vector<std::pair<std::size_t, std::unique_ptr<TableFile>>> open;  // newest last
    void add(const std::filesystem::path& path, const std::string& name,
             std::unique_ptr<TableFile> table);
    const TableFile& table(std::size_t part) const;
  };
  Column open_matrices(const std::vector<std::filesystem::path>& paths,
                       const std::string& dataset) const;
  Column open_numbers(const std::vector<std::filesystem::path>& paths, const std::string& source,
                      const std::string& key) const;
  void set_threshold();
  void read_numbers(const Column& column, const std::string& key, std::int64_t first,
                    std::span<std::int32_t> out) const;

  OwnActivationsConfig config_;
  std::vector<HookPointWidth> hook_points_;
  std::vector<Column> matrices_;  // one a hook point
  std::optional<Column> token_ids_, document_ids_;
  std::int64_t n_rows_ = 0, n_held_out_ = 0;
  double threshold_ = 0;  // a document whose draw is below it is held out
};

}  // namespace thresher::activation_cache
