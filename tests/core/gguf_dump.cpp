// Prints, for every tensor of a GGUF file: name, shape, type and the SHA-256 of its values as
// float32. The oracle (gguf_oracle.py) compares the lines with what the `gguf` package makes of the
// same file. `gguf_dump check FOLDER` prints one line of JSON a file instead: what was refused, or
// keys and tensors (name, shape, type, offset).
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <span>
#include <string_view>

#include "core/error.h"
#include "core/files.h"
#include "core/gguf.h"
#include "core/hash.h"
#include "core/json.h"

namespace {

thresher::Json judge(const std::filesystem::path& path) {
  using thresher::Json;
  try {
    const thresher::GgufFile file(path);
    Json tensors = Json::array();
    for (const auto& tensor : file.tensors()) {
      tensors.push_back(
          Json::array({Json(tensor.name), Json::array_of(tensor.shape),
                       Json(static_cast<std::int64_t>(tensor.type)), Json(tensor.offset)}));
    }
    return Json::object({{"file", path.filename().string()},
                         {"n_keys", static_cast<std::int64_t>(file.keys().size())},
                         {"tensors", tensors}});
  } catch (const thresher::DataError& error) {
    return Json::object({{"file", path.filename().string()},
                         {"refused", error.first_line().substr(path.string().size() + 2)}});
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool is_check = argc == 3 && std::string_view(argv[1]) == "check";
  if (argc != 2 && !is_check) {
    std::fputs("usage: gguf_dump FILE.gguf | check FOLDER\n", stderr);
    return 64;
  }
  try {
    if (is_check) {
      for (const auto& path : thresher::list_folder(argv[2])) {
        fmt::print("{}\n", judge(path).dump());
      }
      return 0;
    }
    const thresher::GgufFile file(argv[1]);
    for (const auto& tensor : file.tensors()) {
      const auto values = file.read_float32(tensor);
      fmt::print("{} [{}] {} {}\n", tensor.name, fmt::join(tensor.shape, ","),
                 thresher::gguf_type_name(tensor.type),
                 thresher::sha256_hex(std::as_bytes(std::span(values))));
    }
  } catch (const thresher::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
