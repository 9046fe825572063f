#include "activation_cache/own_activations.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "activation_cache/cache.h"
#include "core/error.h"
#include "core/visible_text.h"

namespace thresher::activation_cache {

namespace {

constexpr std::int64_t kMostRows = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxWidth = std::int64_t{1} << 24;
constexpr std::size_t kOpenTables = 4;  // of a column

void check_matrix(const TableFile& table) {
  if (table.shape().size() != 2) {
    throw DataError(fmt::format("{}: an array of shape {} is no matrix", table.where(),
                                shown_shape(table.shape())),
                    "[rows, width]: one row a position",
                    table.shape().size() > 2 ? "array.reshape(-1, array.shape[-1]) makes one" : "");
  }
  if (!is_floating(table.type())) {
    throw DataError(
        fmt::format("{}: its elements are {}", table.where(), number_name(table.type())),
        "float16, bfloat16, float32 or float64");
  }
  if (table.columns() < 1 || table.columns() > kMaxWidth) {
    throw DataError(fmt::format("{}: its rows have {} values", table.where(), table.columns()),
                    fmt::format("1 to {}", kMaxWidth));
  }
}

void check_numbers(const TableFile& table, const std::string& key) {
  const bool is_column =
      table.shape().size() == 1 || (table.shape().size() == 2 && table.columns() == 1);
  if (is_column && !is_floating(table.type())) return;
  throw DataError(fmt::format("{}: {} of shape {} cannot be {}", table.where(),
                              number_name(table.type()), shown_shape(table.shape()), key),
                  "whole numbers, one a row");
}

/// The one matrix of a file that names none.
std::string only_matrix(const std::filesystem::path& path) {
  const std::vector<TableName> tables = list_tables(path);
  std::vector<std::string> names;
  for (const TableName& table : tables) {
    if (table.is_matrix) names.push_back(table.name);
  }
  if (names.size() == 1) return names[0];
  std::string listed;
  for (std::size_t i = 0; i < std::min<std::size_t>(tables.size(), 12); ++i) {
    listed += (i > 0 ? ", " : "") + tables[i].shown;
  }
  throw ConfigError(
      fmt::format("{}: the file holds {} matrices, and activations.datasets names none",
                  display_path(path), names.size()),
      names.empty() ? "one matrix [rows, width] of floating-point numbers at least"
                    : "activations.datasets: [NAME]",
      listed.empty() ? "" : fmt::format("it holds {}", listed));
}

}  // namespace

OwnActivations::OwnActivations(const OwnActivationsConfig& config,
                               const std::vector<std::string>& hook_points)
    : config_(config) {
  THRESHER_CHECK(config.datasets.empty() ? hook_points.size() == 1
                                         : config.datasets.size() == hook_points.size(),
                 "a dataset for every hook point");
  const std::vector<std::filesystem::path> paths =
      find_table_files(config.paths, "activations.paths");
  for (std::size_t hook = 0; hook < hook_points.size(); ++hook) {
    matrices_.push_back(open_matrices(paths, config.datasets.empty() ? "" : config.datasets[hook]));
    hook_points_.push_back({hook_points[hook], matrices_.back().parts[0].columns});
    const std::int64_t rows = matrices_.back().first_rows.back();
    if (hook == 0) n_rows_ = rows;
    if (rows != n_rows_) {
      throw DataError(fmt::format("{}: {} rows in all", matrices_.back().parts[0].where, rows),
                      fmt::format("{}, as {} has", n_rows_, matrices_[0].parts[0].where),
                      "hook points share their rows");
    }
  }
  if (n_rows_ < 1 || n_rows_ > kMostRows) {
    throw DataError(fmt::format("{}: {} rows in all", matrices_[0].parts[0].where, n_rows_),
                    fmt::format("1 to {}", kMostRows));
  }
  if (!config.token_ids.empty()) token_ids_ = open_numbers(paths, config.token_ids, "token_ids");
  if (!config.document_ids.empty()) {
    document_ids_ = open_numbers(paths, config.document_ids, "document_ids");
  }
  set_threshold();
}

OwnActivations::Column OwnActivations::open_matrices(
    const std::vector<std::filesystem::path>& paths, const std::string& dataset) const {
  Column column;
  for (const std::filesystem::path& path : paths) {
    const bool is_npy = table_format(path) == TableFormat::kNpy;
    if (is_npy && !dataset.empty()) {
      throw ConfigError(
          fmt::format("activations.datasets: {} has no use, {} is one array without a name",
                      Json(dataset).dump(), display_path(path)),
          "",
          matrices_.empty() ? "leave activations.datasets out"
                            : "put several hook points into one .safetensors or HDF5 file");
    }
    const std::string name = is_npy || !dataset.empty() ? dataset : only_matrix(path);
    std::unique_ptr<TableFile> table = open_table(path, name);
    check_matrix(*table);
    if (!column.parts.empty() && table->columns() != column.parts[0].columns) {
      throw DataError(fmt::format("{}: its rows have {} values", table->where(), table->columns()),
                      fmt::format("{}, as {} has", column.parts[0].columns, column.parts[0].where));
    }
    column.add(path, name, std::move(table));
  }
  return column;
}

OwnActivations::Column OwnActivations::open_numbers(const std::vector<std::filesystem::path>& paths,
                                                    const std::string& source,
                                                    const std::string& key) const {
  const bool is_file = source.ends_with(".npy");
  Column column;
  for (const std::filesystem::path& path :
       is_file ? find_table_files({source}, "activations." + key) : paths) {
    if (!is_file && table_format(path) == TableFormat::kNpy) {
      throw ConfigError(fmt::format("activations.{}: {} is no .npy file, and {} has no datasets",
                                    key, Json(source).dump(), display_path(path)),
                        fmt::format("{}: FILE.npy, or a pattern of such files", key));
    }
    std::unique_ptr<TableFile> table = open_table(path, source);
    check_numbers(*table, key);
    column.add(path, source, std::move(table));
  }
  if (column.first_rows.back() != n_rows_) {
    throw DataError(
        fmt::format("{}: {} {} in all", column.parts[0].where, column.first_rows.back(), key),
        fmt::format("{}, one for each row of activations", n_rows_));
  }
  return column;
}

void OwnActivations::Column::add(const std::filesystem::path& path, const std::string& name,
                                 std::unique_ptr<TableFile> table) {
  // Two numbers below the limit have a sum that means something.
  first_rows.push_back(std::min(kMostRows + 1, first_rows.back()) +
                       std::min(kMostRows + 1, table->rows()));
  parts.push_back({path, name, table->where(), table->type(), table->rows(), table->columns()});
}

const TableFile& OwnActivations::Column::table(std::size_t index) const {
  const auto found = std::find_if(open.begin(), open.end(),
                                  [&](const auto& entry) { return entry.first == index; });
  if (found != open.end()) return *found->second;
  const Part& part = parts.at(index);
  std::unique_ptr<TableFile> table = open_table(part.path, part.name);
  if (table->type() != part.type || table->rows() != part.rows ||
      table->columns() != part.columns) {
    throw DataError(fmt::format("{}: the file has changed since it was first opened", part.where));
  }
  if (open.size() >= kOpenTables) open.erase(open.begin());
  open.emplace_back(index, std::move(table));
  return *open.back().second;
}

Dtype OwnActivations::dtype() const {
  bool has_float16 = false, has_bfloat16 = false;
  for (const Column& column : matrices_) {
    for (const Part& part : column.parts) {
      if (part.type != NumberType::kFloat16 && part.type != NumberType::kBfloat16) {
        return Dtype::kFloat32;
      }
      has_float16 = has_float16 || part.type == NumberType::kFloat16;
      has_bfloat16 = has_bfloat16 || part.type == NumberType::kBfloat16;
    }
  }
  if (has_float16 && has_bfloat16) return Dtype::kFloat32;
  return has_float16 ? Dtype::kFloat16 : Dtype::kBfloat16;
}

std::vector<std::filesystem::path> OwnActivations::files() const {
  std::vector<std::filesystem::path> all;
  std::set<std::filesystem::path> seen;
  const auto add = [&](const Column& column) {
    for (const Part& part : column.parts) {
      if (seen.insert(part.path).second) all.push_back(part.path);
    }
  };
  for (const Column& column : matrices_) add(column);
  if (token_ids_) add(*token_ids_);
  if (document_ids_) add(*document_ids_);
  return all;
}

std::uint64_t OwnActivations::activation_bytes() const {
  std::uint64_t bytes = 0;
  for (const Column& column : matrices_) {
    for (const Part& part : column.parts) {
      bytes += static_cast<std::uint64_t>(part.rows * part.columns * number_bytes(part.type));
    }
  }
  return bytes;
}

namespace {

/// Calls `visit(table index, first row inside it, rows, offset in the range)` for each part of rows
/// [first, first + n) of tables laid end to end.
template <class Visit>
void for_each_part(const std::vector<std::int64_t>& first_rows, std::int64_t first, std::int64_t n,
                   const Visit& visit) {
  auto table = static_cast<std::size_t>(
      std::upper_bound(first_rows.begin(), first_rows.end(), first) - first_rows.begin() - 1);
  for (std::int64_t done = 0; done < n; ++table) {
    THRESHER_CHECK(table + 1 < first_rows.size(), "rows outside the tables");
    const std::int64_t row = first + done;
    const std::int64_t count = std::min(n - done, first_rows[table + 1] - row);
    if (count > 0) visit(table, row - first_rows[table], count, done);
    done += count;
  }
}

}  // namespace

void OwnActivations::read(std::size_t hook, std::int64_t first, std::span<float> out) const {
  const auto width = static_cast<std::size_t>(hook_points_.at(hook).d_in);
  const auto n = static_cast<std::int64_t>(out.size() / width);
  const Column& column = matrices_[hook];
  for_each_part(column.first_rows, first, n,
                [&](std::size_t table, std::int64_t row, std::int64_t count, std::int64_t done) {
                  column.table(table).read_floats(
                      row, out.subspan(static_cast<std::size_t>(done) * width,
                                       static_cast<std::size_t>(count) * width));
                });
  const auto bad = std::find_if(out.begin(), out.end(), [](float v) { return !std::isfinite(v); });
  if (bad == out.end()) return;
  const auto index = static_cast<std::size_t>(bad - out.begin());
  throw DataError(fmt::format("{} holds {} in column {}",
                              place(hook, first + static_cast<std::int64_t>(index / width)), *bad,
                              index % width),
                  "finite numbers that fit float32",
                  "leave such rows out when you save activations");
}

void OwnActivations::read_numbers(const Column& column, const std::string& key, std::int64_t first,
                                  std::span<std::int32_t> out) const {
  std::vector<std::int64_t> wide(out.size());
  for_each_part(column.first_rows, first, static_cast<std::int64_t>(out.size()),
                [&](std::size_t table, std::int64_t row, std::int64_t count, std::int64_t done) {
                  const auto part = std::span(wide).subspan(static_cast<std::size_t>(done),
                                                            static_cast<std::size_t>(count));
                  column.table(table).read_integers(row, part);
                  for (std::size_t i = 0; i < part.size(); ++i) {
                    if (part[i] >= 0 && part[i] <= std::numeric_limits<std::int32_t>::max())
                      continue;
                    throw DataError(
                        fmt::format("{}: row {}: {} cannot be one of {}", column.parts[table].where,
                                    row + static_cast<std::int64_t>(i), part[i], key),
                        "0 to 2147483647");
                  }
                });
  std::transform(wide.begin(), wide.end(), out.begin(),
                 [](std::int64_t value) { return static_cast<std::int32_t>(value); });
}

void OwnActivations::read_token_ids(std::int64_t first, std::span<std::int32_t> out) const {
  if (!token_ids_) {
    std::fill(out.begin(), out.end(), -1);
    return;
  }
  read_numbers(*token_ids_, "token_ids", first, out);
}

void OwnActivations::read_documents(std::int64_t first, std::span<std::int32_t> out) const {
  if (document_ids_) return read_numbers(*document_ids_, "document_ids", first, out);
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<std::int32_t>((first + static_cast<std::int64_t>(i)) /
                                       config_.held_out_block_rows);
  }
}

std::string OwnActivations::place(std::size_t hook, std::int64_t row) const {
  const Column& column = matrices_.at(hook);
  std::string text;
  for_each_part(column.first_rows, row, 1,
                [&](std::size_t table, std::int64_t own_row, std::int64_t, std::int64_t) {
                  text = fmt::format("{}: row {}", column.parts[table].where, own_row);
                });
  return text;
}

Json OwnActivations::identity() const {
  const auto numbers = [](const std::string& source) {
    if (source.empty()) return Json();
    return source.ends_with(".npy") ? Json(".npy") : Json(source);
  };
  Json json = Json::object({{"kind", kOwnActivationsKind},
                            {"rows", n_rows_},
                            {"datasets", Json::array_of(config_.datasets)},
                            {"token_ids", numbers(config_.token_ids)},
                            {"document_ids", numbers(config_.document_ids)},
                            {"held_out_fraction", config_.held_out_fraction}});
  if (!document_ids_) json["held_out_block_rows"] = config_.held_out_block_rows;
  return json;
}

}  // namespace thresher::activation_cache
