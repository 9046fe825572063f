// The C++ side of hostile_hdf5_test.py.
//   table_tool list FILE         prints one line a table, as messages show them
//   table_tool read FILE NAME    prints the type, the shape and the SHA-256 of the rows as float32
#include <fmt/format.h>

#include <cstdio>
#include <vector>

#include "activation_cache/table_file.h"
#include "core/error.h"
#include "core/hash.h"

namespace thresher::activation_cache {
namespace {

void list(const std::filesystem::path& path) {
  for (const TableName& table : list_tables(path)) fmt::print("{}\n", table.shown);
}

void read(const std::filesystem::path& path, const std::string& name) {
  const auto table = open_table(path, name);
  std::vector<float> rows(static_cast<std::size_t>(table->rows() * table->columns()));
  table->read_floats(0, rows);
  fmt::print("{} {} {}\n", number_name(table->type()), shown_shape(table->shape()),
             sha256_hex(std::as_bytes(std::span(rows))));
}

}  // namespace
}  // namespace thresher::activation_cache

int main(int argc, char** argv) {
  const std::string command = argc > 2 ? argv[1] : "";
  try {
    if (command == "list" && argc == 3) {
      thresher::activation_cache::list(argv[2]);
    } else if (command == "read" && argc == 4) {
      thresher::activation_cache::read(argv[2], argv[3]);
    } else {
      throw thresher::UsageError("usage: table_tool list FILE | read FILE NAME");
    }
  } catch (const thresher::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
