#include <fmt/format.h>

#include <cstring>
#include <limits>

#include "core/gguf_cursor.h"

namespace thresher::gguf {
namespace {

constexpr std::uint64_t kMaxKeyBytes = 65'535;

std::uint64_t element_bytes(GgufValueType type) {
  switch (type) {
    case GgufValueType::kUint8:
    case GgufValueType::kInt8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kUint16:
    case GgufValueType::kInt16:
      return 2;
    case GgufValueType::kUint32:
    case GgufValueType::kInt32:
    case GgufValueType::kFloat32:
      return 4;
    case GgufValueType::kUint64:
    case GgufValueType::kInt64:
    case GgufValueType::kFloat64:
    case GgufValueType::kString:  // the length alone
      return 8;
    case GgufValueType::kArray:
      break;
  }
  return 0;
}

GgufValueType read_value_type(Cursor& cursor, const std::string& key) {
  const std::uint64_t at = cursor.offset();
  const auto type = cursor.read<std::uint32_t>("a metadata type");
  if (type > static_cast<std::uint32_t>(GgufValueType::kFloat64)) {
    cursor.fail(at, fmt::format("metadata {} has the unknown type {}", printable(key), type),
                "a type number from 0 to 12");
  }
  return static_cast<GgufValueType>(type);
}

bool read_bool(Cursor& cursor, const std::string& key) {
  const std::uint64_t at = cursor.offset();
  const auto value = cursor.read<std::uint8_t>("a bool");
  if (value > 1)
    cursor.fail(at, fmt::format("metadata {} is a bool with value {}", printable(key), value),
                "0 or 1");
  return value == 1;
}

std::int64_t read_small_integer(Cursor& cursor, GgufValueType type) {
  switch (type) {
    case GgufValueType::kUint8:
      return cursor.read<std::uint8_t>("a metadata value");
    case GgufValueType::kInt8:
      return cursor.read<std::int8_t>("a metadata value");
    case GgufValueType::kUint16:
      return cursor.read<std::uint16_t>("a metadata value");
    case GgufValueType::kInt16:
      return cursor.read<std::int16_t>("a metadata value");
    case GgufValueType::kUint32:
      return cursor.read<std::uint32_t>("a metadata value");
    case GgufValueType::kInt32:
      return cursor.read<std::int32_t>("a metadata value");
    default:
      return cursor.read<std::int64_t>("a metadata value");
  }
}

void read_scalar(Cursor& cursor, const std::string& key, GgufValue& value) {
  switch (value.type) {
    case GgufValueType::kFloat32:
      value.data = static_cast<double>(cursor.read<float>("a metadata value"));
      return;
    case GgufValueType::kFloat64:
      value.data = cursor.read<double>("a metadata value");
      return;
    case GgufValueType::kBool:
      value.data = read_bool(cursor, key);
      return;
    case GgufValueType::kString:
      value.data = cursor.string("a metadata string", kGgufMaxStringBytes);
      return;
    case GgufValueType::kUint64: {
      const auto wide = cursor.read<std::uint64_t>("a metadata value");
      if (wide > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        value.data = wide;
      } else {
        value.data = static_cast<std::int64_t>(wide);
      }
      return;
    }
    default:
      value.data = read_small_integer(cursor, value.type);
  }
}

void read_array_elements(Cursor& cursor, const std::string& key, std::uint64_t count,
                         GgufValue& value) {
  switch (value.element_type) {
    case GgufValueType::kString: {
      std::vector<std::string> strings;
      for (std::uint64_t i = 0; i < count; ++i) {
        strings.push_back(cursor.string("a string of an array", kGgufMaxStringBytes));
      }
      value.data = std::move(strings);
      return;
    }
    case GgufValueType::kFloat32: {
      const auto bytes = cursor.take(4 * count, "an array");
      std::vector<float> floats(count);
      if (count > 0) std::memcpy(floats.data(), bytes.data(), bytes.size());
      value.data = std::move(floats);
      return;
    }
    case GgufValueType::kBool:
      for (std::uint64_t i = 0; i < count; ++i) read_bool(cursor, key);
      return;
    case GgufValueType::kFloat64:
    case GgufValueType::kUint64:
      // No key of these types is read by anybody; the bytes are only known to be there.
      cursor.take(8 * count, "an array");
      return;
    default: {
      std::vector<std::int64_t> integers;
      for (std::uint64_t i = 0; i < count; ++i) {
        integers.push_back(read_small_integer(cursor, value.element_type));
      }
      value.data = std::move(integers);
    }
  }
}

void read_array(Cursor& cursor, const std::string& key, std::uint64_t& elements_so_far,
                GgufValue& value) {
  const std::uint64_t at = cursor.offset();
  value.element_type = read_value_type(cursor, key);
  if (value.element_type == GgufValueType::kArray) {
    cursor.fail(at, fmt::format("metadata {} is an array of arrays", printable(key)),
                "arrays of numbers, bools or strings");
  }
  const std::uint64_t count_at = cursor.offset();
  const auto count = cursor.read<std::uint64_t>("an array's length");
  const std::uint64_t room = cursor.remaining_in_file() / element_bytes(value.element_type);
  const std::uint64_t allowed = kGgufMaxArrayElements - elements_so_far;
  if (count > room || count > allowed) {
    cursor.fail(
        count_at, fmt::format("metadata {} is an array of {} elements", printable(key), count),
        fmt::format("at most {} (limit for the whole file: {}), and at most the {} that the file "
                    "has room for",
                    allowed, kGgufMaxArrayElements, room));
  }
  elements_so_far += count;
  read_array_elements(cursor, key, count, value);
}

}  // namespace

void read_metadata(Cursor& cursor, std::uint64_t count, GgufHead& head) {
  std::uint64_t array_elements = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t at = cursor.offset();
    std::string key = cursor.string("a metadata key", kMaxKeyBytes);
    if (key.empty()) cursor.fail(at, fmt::format("metadata entry {} has an empty key", i));
    GgufValue value;
    value.type = read_value_type(cursor, key);
    value.offset = cursor.offset();
    if (value.type == GgufValueType::kArray) {
      read_array(cursor, key, array_elements, value);
    } else {
      read_scalar(cursor, key, value);
    }
    if (head.metadata.contains(key)) {
      cursor.fail(at, fmt::format("metadata {} stands twice in the file", printable(key)),
                  "unique keys");
    }
    head.metadata.emplace(std::move(key), std::move(value));
  }
}

}  // namespace thresher::gguf
