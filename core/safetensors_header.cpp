#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/byte_reader.h"
#include "core/checked.h"
#include "core/error.h"
#include "core/json.h"
#include "core/safetensors.h"

namespace thresher {
namespace {

constexpr std::size_t kMaxTensors = 1'000'000;
constexpr std::size_t kMaxRank = 8;
constexpr std::size_t kMaxNameBytes = 512;
constexpr std::string_view kMetadataKey = "__metadata__";

constexpr std::array<std::pair<std::string_view, std::uint64_t>, 15> kDtypes{{
    {"F64", 8},
    {"F32", 4},
    {"F16", 2},
    {"BF16", 2},
    {"I64", 8},
    {"I32", 4},
    {"I16", 2},
    {"I8", 1},
    {"U64", 8},
    {"U32", 4},
    {"U16", 2},
    {"U8", 1},
    {"BOOL", 1},
    {"F8_E4M3", 1},
    {"F8_E5M2", 1},
}};

// Names are hostile text: neither control characters nor megabytes must reach a terminal.
std::string in_quotes(std::string_view text) { return Json(text.substr(0, kMaxNameBytes)).dump(); }

// Receives the header's JSON as events. What may come next depends on where the last event left it:
// {"name": {"dtype": .., "shape": [..], "data_offsets": [..]}, "__metadata__": {"key": "value"}}
class HeaderHandler {
 public:
  HeaderHandler(std::string_view where, std::size_t header_start)
      : where_(where), header_start_(header_start) {}

  bool null() {
    if (place_ != Place::kRoot || field_ != kMetadataKey) unexpected("null");
    return true;
  }
  bool boolean(bool) { unexpected("true or false"); }
  bool number_integer(std::int64_t value) { unexpected(fmt::format("{}", value)); }
  bool number_float(double, const std::string& text) { unexpected(text); }
  bool binary(std::vector<std::uint8_t>&) { unexpected("binary"); }

  bool number_unsigned(std::uint64_t value) {
    if (place_ != Place::kShape && place_ != Place::kOffsets) unexpected(fmt::format("{}", value));
    numbers_.push_back(value);
    if (numbers_.size() > kMaxRank) {
      fail(fmt::format("{} has more than {} numbers", field_, kMaxRank));
    }
    return true;
  }

  bool string(std::string& value) {
    if (place_ == Place::kMetadata) {
      metadata_.emplace(std::move(field_), std::move(value));
      return true;
    }
    if (place_ != Place::kTensor || field_ != "dtype") unexpected("a string");
    entry_.dtype = std::move(value);
    has_dtype_ = true;
    return true;
  }

  bool key(std::string& name) {
    if (place_ == Place::kRoot) {
      start_member(name);
    } else if (place_ == Place::kMetadata) {
      if (metadata_.count(name) != 0) fail("duplicate key " + in_quotes(name));
    } else {
      const bool* has = name == "dtype"          ? &has_dtype_
                        : name == "shape"        ? &has_shape_
                        : name == "data_offsets" ? &has_offsets_
                                                 : nullptr;
      if (has == nullptr) fail("unknown key " + in_quotes(name), "dtype, shape and data_offsets");
      if (*has) fail("duplicate key " + in_quotes(name));
    }
    field_ = std::move(name);
    return true;
  }

  bool start_object(std::size_t) {
    if (place_ == Place::kStart) {
      place_ = Place::kRoot;
    } else if (place_ == Place::kRoot) {
      place_ = field_ == kMetadataKey ? Place::kMetadata : Place::kTensor;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool end_object() {
    if (place_ == Place::kTensor) finish_tensor();
    place_ = place_ == Place::kRoot ? Place::kStart : Place::kRoot;
    return true;
  }

  bool start_array(std::size_t) {
    if (place_ != Place::kTensor || field_ == "dtype") unexpected("an array");
    place_ = field_ == "shape" ? Place::kShape : Place::kOffsets;
    numbers_.clear();
    return true;
  }

  bool end_array() {
    if (place_ == Place::kShape) {
      take_shape();
    } else {
      take_offsets();
    }
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) {
    throw DataError(fmt::format("{}: header is not valid JSON at byte {}", where_,
                                header_start_ + std::max<std::size_t>(position, 1) - 1));
  }

  std::vector<SafetensorsEntry> take_entries() { return std::move(entries_); }
  std::map<std::string, std::string> take_metadata() { return std::move(metadata_); }

 private:
  enum class Place { kStart, kRoot, kMetadata, kTensor, kShape, kOffsets };

  [[noreturn]] void fail(std::string_view problem, std::string_view expected = {}) const {
    const std::string owner = entry_.name.empty() ? "" : "tensor " + in_quotes(entry_.name) + ": ";
    throw DataError(fmt::format("{}: {}{}", where_, owner, problem), expected);
  }

  [[noreturn]] void unexpected(std::string_view found) const {
    switch (place_) {
      case Place::kShape:
      case Place::kOffsets:
        fail(fmt::format("{} holds {}", field_, found), "integers of at least 0");
      case Place::kTensor:
        fail(fmt::format("{} is {}", field_, found),
             field_ == "dtype" ? "a string" : "an array of integers");
      case Place::kMetadata:
        fail(fmt::format("__metadata__ {} is {}", in_quotes(field_), found), "a string");
      default:
        fail(fmt::format("header holds {} where a tensor's object is due", found));
    }
  }

  void start_member(const std::string& name) {
    entry_ = SafetensorsEntry();
    has_dtype_ = has_shape_ = has_offsets_ = false;
    if (name == kMetadataKey) {
      if (has_metadata_) fail("duplicate key \"__metadata__\"");
      has_metadata_ = true;
      return;
    }
    if (name.size() > kMaxNameBytes) {
      fail(fmt::format("a tensor's name has {} bytes", name.size()),
           fmt::format("at most {} bytes", kMaxNameBytes));
    }
    if (entries_.size() >= kMaxTensors) {
      fail(fmt::format("header names more than {} tensors", kMaxTensors));
    }
    entry_.name = name;
  }

  void take_shape() {
    has_shape_ = true;
    for (const std::uint64_t size : numbers_) {
      if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        fail(fmt::format("shape holds {}", size), "sizes below 2^63");
      }
      entry_.shape.push_back(static_cast<std::int64_t>(size));
    }
  }

  void take_offsets() {
    has_offsets_ = true;
    if (numbers_.size() != 2 || numbers_[0] > numbers_[1]) {
      fail(fmt::format("data_offsets are [{}]", fmt::join(numbers_, ", ")),
           "[begin, end], begin <= end");
    }
    entry_.begin = numbers_[0];
    entry_.end = numbers_[1];
  }

  void finish_tensor() {
    if (!has_dtype_) fail("dtype is missing");
    if (!has_shape_) fail("shape is missing");
    if (!has_offsets_) fail("data_offsets are missing");
    const std::string owner = fmt::format("{}: tensor {}", where_, in_quotes(entry_.name));
    std::uint64_t bytes = 1;
    for (const std::int64_t size : entry_.shape) {
      bytes = checked_multiply(bytes, static_cast<std::uint64_t>(size), owner + ": element count");
    }
    const auto known = std::find_if(kDtypes.begin(), kDtypes.end(),
                                    [&](const auto& d) { return d.first == entry_.dtype; });
    if (known == kDtypes.end()) fail("dtype " + in_quotes(entry_.dtype) + " is not known");
    bytes = checked_multiply(bytes, known->second, owner + ": byte count");
    if (bytes != entry_.end - entry_.begin) {
      fail(fmt::format("{} [{}] needs {} bytes, data_offsets span {}", entry_.dtype,
                       fmt::join(entry_.shape, ", "), bytes, entry_.end - entry_.begin));
    }
    entries_.push_back(std::move(entry_));
    entry_ = SafetensorsEntry();
  }

  std::string where_;
  std::size_t header_start_;
  Place place_ = Place::kStart;
  std::string field_;
  SafetensorsEntry entry_;
  std::vector<std::uint64_t> numbers_;
  bool has_metadata_ = false, has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

void check_names_are_unique(const std::vector<SafetensorsEntry>& entries, std::string_view where) {
  std::vector<std::string_view> names;
  names.reserve(entries.size());
  for (const SafetensorsEntry& entry : entries) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  const auto twin = std::adjacent_find(names.begin(), names.end());
  if (twin != names.end()) {
    throw DataError(fmt::format("{}: duplicate tensor {}", where, in_quotes(*twin)));
  }
}

// No holes and no overlaps, so that no byte of the file means two things or nothing.
void check_layout(const std::vector<SafetensorsEntry>& entries, std::uint64_t data_bytes,
                  std::string_view where) {
  std::uint64_t next = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin != next) {
      throw DataError(fmt::format("{}: tensor {}: data begins at byte {}, the data before it ends "
                                  "at byte {}: {}",
                                  where, in_quotes(entry.name), entry.begin, next,
                                  entry.begin < next ? "an overlap" : "a hole"),
                      "tensors back to back");
    }
    next = entry.end;
  }
  if (next != data_bytes) {
    throw DataError(
        fmt::format("{}: the tensors end at byte {} of {} bytes of data", where, next, data_bytes),
        "the last tensor ends with the file", "the file is truncated or has something appended");
  }
}

}  // namespace

std::uint64_t safetensors_dtype_bytes(std::string_view dtype) {
  for (const auto& [name, bytes] : kDtypes) {
    if (name == dtype) return bytes;
  }
  throw DataError(fmt::format("safetensors dtype {} is not known", in_quotes(dtype)));
}

std::vector<SafetensorsEntry> SafetensorsFile::parse_header(
    std::span<const std::byte> head, std::uint64_t file_bytes, std::string_view where,
    std::map<std::string, std::string>* metadata) {
  ByteReader reader(head, std::string(where));
  const auto header_bytes = reader.read<std::uint64_t>("the header's length");
  if (header_bytes > kMaxHeaderBytes) {
    reader.fail(fmt::format("the header claims {} bytes", header_bytes),
                fmt::format("at most {} bytes", kMaxHeaderBytes));
  }
  if (file_bytes < 8 || header_bytes > file_bytes - 8) {
    reader.fail(
        fmt::format("the header claims {} bytes, the file has {}", header_bytes, file_bytes));
  }
  const auto header = reader.take(header_bytes, "the header");
  if (header.empty() || header.front() != std::byte{'{'}) {
    throw DataError(fmt::format("{}: the header does not start with '{{'", where), {},
                    "this is not a safetensors file");
  }
  const auto* text = reinterpret_cast<const char*>(header.data());
  HeaderHandler handler(where, 8);
  // nlohmann takes a NUL for the end of the text and would not look at what stands behind it.
  if (const void* nul = std::memchr(text, 0, header.size()); nul != nullptr) {
    throw DataError(fmt::format("{}: header is not valid JSON at byte {}", where,
                                8 + (static_cast<const char*>(nul) - text)));
  }
  nlohmann::json::sax_parse(text, text + header.size(), &handler);
  auto entries = handler.take_entries();
  check_names_are_unique(entries, where);
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  check_layout(entries, file_bytes - 8 - header_bytes, where);
  if (metadata != nullptr) *metadata = handler.take_metadata();
  return entries;
}

}  // namespace thresher
