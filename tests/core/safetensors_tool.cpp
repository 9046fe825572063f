// The C++ side of safetensors_oracle.py.
//   safetensors_tool dump FILE       prints one JSON document: metadata and, per tensor, dtype,
//   shape, sha256 safetensors_tool write FILE      writes tensors of every kind with known values
//   safetensors_tool check FOLDER    prints "name: accepted" or "name: <first line of the error>"
//   for each file

#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/json.h"
#include "core/safetensors.h"

namespace thresher {
namespace {

void dump(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  Json metadata = Json::object();
  for (const auto& [key, value] : file.metadata()) metadata[key] = value;
  Json tensors = Json::object();
  for (const SafetensorsEntry& entry : file.entries()) {
    std::vector<std::byte> bytes(entry.end - entry.begin);
    file.read(entry, bytes);
    tensors[entry.name] = Json::object({{"dtype", entry.dtype},
                                        {"shape", Json::array_of(entry.shape)},
                                        {"sha256", sha256_hex(std::span<const std::byte>(bytes))}});
  }
  fmt::print("{}\n", Json::object({{"metadata", metadata}, {"tensors", tensors}}).dump(2));
}

void write(const std::filesystem::path& path) {
  std::vector<float> values(24);
  std::vector<double> doubles(24);
  for (std::size_t i = 0; i < values.size(); ++i) {
    doubles[i] = std::ldexp(static_cast<double>(i) - 11.5, static_cast<int>(i) - 12);
    values[i] = static_cast<float>(doubles[i]);
  }
  std::vector<std::byte> half(48);
  std::vector<std::byte> brain(48);
  encode_values(Dtype::kFloat16, values, half);
  encode_values(Dtype::kBfloat16, values, brain);
  const std::vector<std::int64_t> longs{-1, 0, 1LL << 62};
  const std::vector<std::int32_t> ints{-1, 0, 1 << 30};
  const std::vector<std::uint8_t> small{0, 1, 255};
  const std::vector<std::uint8_t> truths{0, 1, 1};
  const std::vector<SafetensorsTensor> tensors{
      {"f64", "F64", {2, 3, 4}, std::as_bytes(std::span(doubles))},
      {"f32", "F32", {2, 3, 4}, std::as_bytes(std::span(values))},
      {"f16", "F16", {24}, half},
      {"bf16", "BF16", {4, 6}, brain},
      {"i64", "I64", {3}, std::as_bytes(std::span(longs))},
      {"i32", "I32", {3, 1}, std::as_bytes(std::span(ints))},
      {"u8", "U8", {3}, std::as_bytes(std::span(small))},
      {"bool", "BOOL", {3}, std::as_bytes(std::span(truths))},
      {"scalar", "F32", {}, std::as_bytes(std::span(values)).first(4)},
      {"empty", "F32", {0, 5}, {}},
      {"n\xC3\xA4me \"x\"", "U8", {1}, std::as_bytes(std::span(small)).first(1)}};
  write_safetensors(path, tensors, {{"format", "pt"}, {"note", "\xE2\x82\xAC \"q\"\n"}});
}

void check(const std::filesystem::path& folder) {
  for (const auto& path : list_folder(folder)) {
    std::string verdict = "accepted";
    try {
      const SafetensorsFile file(path);
    } catch (const DataError& error) {
      verdict = error.first_line().substr(path.string().size() + 2);
    }
    fmt::print("{}: {}\n", path.filename().string(), verdict);
  }
}

}  // namespace
}  // namespace thresher

int main(int argc, char** argv) {
  const std::string command = argc == 3 ? argv[1] : "";
  try {
    if (command == "dump") {
      thresher::dump(argv[2]);
    } else if (command == "write") {
      thresher::write(argv[2]);
    } else if (command == "check") {
      thresher::check(argv[2]);
    } else {
      throw thresher::UsageError("usage: safetensors_tool dump|write|check PATH");
    }
  } catch (const thresher::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
