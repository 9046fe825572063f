#include "core/gguf_parse.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/gguf_cursor.h"

namespace thresher::gguf {
namespace {

constexpr std::uint64_t kMaxNameBytes = 64;
constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::uint64_t kDefaultAlignment = 32;
// Smallest possible entries: what a count in the header is checked against before anything is
// allocated.
constexpr std::uint64_t kMinMetadataBytes = 8 + 1 + 4 + 1;
constexpr std::uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

struct Counts {
  std::uint64_t tensors = 0;
  std::uint64_t metadata = 0;
};

Counts read_header(Cursor& cursor) {
  if (cursor.file_bytes() < 4 || cursor.read<std::uint32_t>("the magic number") != 0x46554747) {
    cursor.fail(0, "not a GGUF file", "the first four bytes spell GGUF");
  }
  const auto version = cursor.read<std::uint32_t>("the version");
  if (version != 2 && version != 3) {
    const bool is_big_endian = (version & 0xFFFFU) == 0 && version != 0;
    cursor.fail(4,
                is_big_endian ? std::string("a big-endian GGUF file")
                              : fmt::format("GGUF version {}", version),
                "a little-endian GGUF file of version 2 or 3");
  }
  Counts counts;
  counts.tensors = cursor.read<std::uint64_t>("the tensor count");
  counts.metadata = cursor.read<std::uint64_t>("the metadata count");
  const auto check = [&](std::uint64_t at, std::uint64_t count, std::uint64_t limit,
                         std::uint64_t min_bytes, std::string_view what) {
    const std::uint64_t room = cursor.remaining_in_file() / min_bytes;
    if (count > limit || count > room) {
      cursor.fail(
          at, fmt::format("{} {} are announced", count, what),
          fmt::format("at most {}, and at most the {} that the file has room for", limit, room));
    }
  };
  check(8, counts.tensors, kGgufMaxTensors, kMinTensorBytes, "tensors");
  check(16, counts.metadata, kGgufMaxMetadataEntries, kMinMetadataBytes, "metadata entries");
  return counts;
}

std::uint64_t read_alignment(const Cursor& cursor, const GgufHead& head) {
  const auto entry = head.metadata.find("general.alignment");
  if (entry == head.metadata.end()) return kDefaultAlignment;
  const GgufValue& value = entry->second;
  if (value.type != GgufValueType::kUint32) {
    cursor.fail(value.offset,
                fmt::format("general.alignment is of type {}", gguf_value_type_name(value)),
                "type uint32");
  }
  const auto alignment = static_cast<std::uint64_t>(std::get<std::int64_t>(value.data));
  if (!std::has_single_bit(alignment) || alignment < 8 || alignment > 65'536) {
    cursor.fail(value.offset, fmt::format("general.alignment = {}", alignment),
                "a power of two from 8 to 65536");
  }
  return alignment;
}

void read_shape(Cursor& cursor, GgufTensor& tensor) {
  const std::uint64_t at = cursor.offset();
  const auto dimensions = cursor.read<std::uint32_t>("a tensor's dimension count");
  if (dimensions < 1 || dimensions > kMaxDimensions) {
    cursor.fail(at, fmt::format("tensor {} has {} dimensions", printable(tensor.name), dimensions),
                fmt::format("1 to {}", kMaxDimensions));
  }
  tensor.elements = 1;
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const std::uint64_t size_at = cursor.offset();
    const auto size = cursor.read<std::uint64_t>("a tensor's dimension");
    constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (size < 1 || size > kLargest / tensor.elements) {
      cursor.fail(size_at,
                  fmt::format("tensor {} has a dimension of {}", printable(tensor.name), size),
                  "positive dimensions whose product is below 2^63");
    }
    tensor.elements *= size;
    tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(size));
  }
}

GgufTensor read_tensor(Cursor& cursor) {
  GgufTensor tensor;
  const std::uint64_t at = cursor.offset();
  tensor.name = cursor.string("a tensor name", kMaxNameBytes);
  if (tensor.name.empty()) cursor.fail(at, "a tensor has an empty name");
  read_shape(cursor, tensor);
  const std::uint64_t type_at = cursor.offset();
  tensor.type = cursor.read<std::uint32_t>("a tensor's type");
  const auto block = gguf_block(tensor.type);
  if (!block) {
    cursor.fail(type_at, fmt::format("tensor {} has the unknown type {}", printable(tensor.name),
                                     tensor.type));
  }
  const auto row = static_cast<std::uint64_t>(tensor.shape.back());
  if (row % block->elements != 0) {
    cursor.fail(type_at,
                fmt::format("tensor {} has rows of {} values in {} blocks", printable(tensor.name),
                            row, block->name),
                fmt::format("rows of a multiple of {} values", block->elements));
  }
  const std::uint64_t blocks = tensor.elements / block->elements;
  if (blocks > std::numeric_limits<std::uint64_t>::max() / block->bytes) {
    cursor.fail(type_at,
                fmt::format("tensor {} has {} blocks of {} bytes", printable(tensor.name), blocks,
                            block->bytes),
                "a size below 2^64 bytes");
  }
  tensor.bytes = blocks * block->bytes;
  tensor.offset = cursor.read<std::uint64_t>("a tensor's offset");
  return tensor;
}

/// Turns offsets within the data section into offsets within the file and checks that each tensor
/// lies inside it.
void place_tensors(const Cursor& cursor, std::uint64_t alignment,
                   std::vector<GgufTensor>& tensors) {
  const std::uint64_t head_end = cursor.offset();
  const std::uint64_t data_start = (head_end + alignment - 1) / alignment * alignment;
  for (GgufTensor& tensor : tensors) {
    if (tensor.offset % alignment != 0) {
      cursor.fail(
          head_end,
          fmt::format("tensor {} starts at {} of the data", printable(tensor.name), tensor.offset),
          fmt::format("a multiple of the alignment {}", alignment));
    }
    const std::uint64_t room =
        data_start <= cursor.file_bytes() ? cursor.file_bytes() - data_start : 0;
    if (tensor.offset > room || tensor.bytes > room - tensor.offset) {
      cursor.fail(head_end,
                  fmt::format("tensor {} of {} bytes at {} of the data goes past the end",
                              printable(tensor.name), tensor.bytes, tensor.offset),
                  fmt::format("tensors inside the {} bytes of data that the file holds", room));
    }
    tensor.offset += data_start;
  }
}

void check_overlaps(const Cursor& cursor, const std::vector<GgufTensor>& tensors) {
  std::vector<std::uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0U);
  std::sort(order.begin(), order.end(), [&](auto a, auto b) {
    return std::pair(tensors[a].offset, a) < std::pair(tensors[b].offset, b);
  });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const GgufTensor& before = tensors[order[i - 1]];
    const GgufTensor& after = tensors[order[i]];
    if (after.offset < before.offset + before.bytes) {
      cursor.fail(after.offset,
                  fmt::format("tensors {} and {} share bytes", printable(before.name),
                              printable(after.name)),
                  "every tensor has bytes of its own");
    }
  }
}

void index_names(const Cursor& cursor, GgufHead& head) {
  auto& order = head.tensors_by_name;
  order.resize(head.tensors.size());
  std::iota(order.begin(), order.end(), 0U);
  const auto name = [&](std::uint32_t index) -> const std::string& {
    return head.tensors[index].name;
  };
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return name(a) < name(b); });
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (name(order[i - 1]) == name(order[i])) {
      cursor.fail(cursor.offset(),
                  fmt::format("tensor {} stands twice in the table", printable(name(order[i]))),
                  "unique names");
    }
  }
}

GgufHead read_head(Cursor& cursor) {
  GgufHead head;
  const Counts counts = read_header(cursor);
  read_metadata(cursor, counts.metadata, head);
  const std::uint64_t alignment = read_alignment(cursor, head);
  for (std::uint64_t i = 0; i < counts.tensors; ++i) head.tensors.push_back(read_tensor(cursor));
  index_names(cursor, head);
  place_tensors(cursor, alignment, head.tensors);
  check_overlaps(cursor, head.tensors);
  return head;
}

}  // namespace
}  // namespace thresher::gguf

namespace thresher {

std::optional<GgufHead> parse_gguf_head(std::span<const std::byte> prefix, std::uint64_t file_bytes,
                                        const std::string& where) {
  THRESHER_CHECK(prefix.size() <= file_bytes,
                 "parse_gguf_head: the prefix is longer than its file");
  gguf::Cursor cursor(prefix, file_bytes, where);
  try {
    return gguf::read_head(cursor);
  } catch (const gguf::PrefixTooShort&) {
    return std::nullopt;
  }
}

}  // namespace thresher
