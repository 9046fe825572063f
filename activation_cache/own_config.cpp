#include <fmt/format.h>
#include <glob.h>

#include <algorithm>
#include <set>
#include <system_error>

#include "activation_cache/own_activations.h"
#include "core/error.h"
#include "core/files.h"
#include "core/visible_text.h"

namespace thresher::activation_cache {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kEndings = "*.npy, *.safetensors, *.h5 or *.hdf5";

void sort_by_bytes(std::vector<fs::path>& files) {
  std::sort(files.begin(), files.end(),
            [](const fs::path& a, const fs::path& b) { return a.native() < b.native(); });
}

std::vector<fs::path> files_of_folder(const fs::path& folder, const std::string& key) {
  std::vector<fs::path> files;
  for (fs::path& entry : list_folder(folder)) {
    std::error_code error;
    if (table_format(entry) == TableFormat::kUnknown || !fs::is_regular_file(entry, error))
      continue;
    files.push_back(std::move(entry));
  }
  if (!files.empty()) return files;
  throw ConfigError(fmt::format("{}: folder '{}' has no {}", key, display_path(folder), kEndings));
}

/// The regular files that a pattern names; none where it is no pattern.
std::vector<fs::path> files_of_pattern(const std::string& pattern) {
  std::vector<fs::path> files;
  if (pattern.find_first_of("*?[") == std::string::npos) return files;
  glob_t found{};
  const int result = ::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found);
  for (std::size_t i = 0; result == 0 && i < found.gl_pathc; ++i) {
    std::error_code error;
    if (fs::is_regular_file(found.gl_pathv[i], error)) files.emplace_back(found.gl_pathv[i]);
  }
  ::globfree(&found);
  sort_by_bytes(files);
  return files;
}

}  // namespace

void OwnActivationsConfig::declare(FieldVisitor& fields) {
  fields.field("paths", paths,
               {.help = "Files of activations (.npy, .safetensors, .h5, .hdf5), folders of such "
                        "files, or patterns like acts-*.npy; rows count through them in this "
                        "order, inside a folder or pattern in byte order of the path.",
                .is_required = true});
  fields.field("datasets", datasets,
               {.help = "Tensors or HDF5 datasets to read, one a hook point. May be left out where "
                        "every file holds one matrix."});
  fields.field("token_ids", token_ids,
               {.help = "Token id of every row: a dataset of the same files, or .npy files (a path "
                        "or a pattern). Empty: none."});
  fields.field("document_ids", document_ids,
               {.help = "Document number of every row, given like token_ids. Whole documents are "
                        "held out. Empty: none."});
  fields.field(
      "held_out_fraction", held_out_fraction,
      {.help = "Share of the documents (without document_ids: of blocks of rows) kept for "
               "evaluation; a hash of the number decides, and at least one is kept. 0 holds "
               "nothing out.",
       .min = 0,
       .max = 0.9});
  fields.field("held_out_block_rows", held_out_block_rows,
               {.help = "Rows that are held out together where there are no document_ids; "
                        "neighbouring rows often come from one text.",
                .unit = "rows",
                .min = 1,
                .max = 1 << 30});
}

std::vector<std::string> default_hook_points(const OwnActivationsConfig& config) {
  if (config.datasets.size() < 2) return {"activations"};
  std::vector<std::string> names;
  for (std::string name : config.datasets) {
    for (char& c : name) {
      const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      if (!is_letter && !(c >= '0' && c <= '9') && c != '_' && c != '-') c = '.';
    }
    names.push_back(std::move(name));
  }
  return names;
}

std::vector<fs::path> find_table_files(const std::vector<std::string>& paths,
                                       const std::string& key) {
  std::vector<fs::path> files;
  for (const std::string& path : paths) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    std::vector<fs::path> found;
    if (fs::is_directory(status)) {
      found = files_of_folder(path, key);
    } else if (fs::is_regular_file(status)) {
      found = {path};
    } else if (status.type() == fs::file_type::not_found) {
      found = files_of_pattern(path);
    } else {
      throw IoError(fmt::format("{}: '{}' is neither a file nor a folder that can be read", key,
                                escape_control(path)));
    }
    if (found.empty()) {
      throw IoError(
          fmt::format("{}: '{}' does not exist", key, escape_control(path)),
          "files, folders or patterns like acts-*.npy",
          fmt::format("relative paths start at '{}'", display_path(fs::current_path(error))));
    }
    for (fs::path& file : found) files.push_back(std::move(file));
  }
  std::set<fs::path> seen;
  for (const fs::path& file : files) {
    std::error_code error;
    fs::path real = fs::canonical(file, error);
    if (!seen.insert(error ? file : std::move(real)).second) {
      throw ConfigError(fmt::format("{}: '{}' is named twice", key, display_path(file)),
                        "each file once", "rows that are read twice would count twice");
    }
  }
  return files;
}

}  // namespace thresher::activation_cache
