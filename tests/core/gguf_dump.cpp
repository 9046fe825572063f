// Prints, for every tensor of a GGUF file: name, shape, type and the SHA-256 of its values as
// float32. The oracle (gguf_oracle.py) compares the lines with what the `gguf` package makes of the
// same file.
#include <fmt/format.h>

#include <cstdio>
#include <span>

#include "core/error.h"
#include "core/gguf.h"
#include "core/hash.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: gguf_dump FILE.gguf\n", stderr);
    return 64;
  }
  try {
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
