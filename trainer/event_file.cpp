#include "trainer/event_file.h"

#include <bit>
#include <cstring>
#include <optional>

#include "core/error.h"
#include "core/hash.h"

namespace thresher::trainer {
namespace {

// Wire types of protobuf.
enum Wire : std::uint64_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
// Fields of tensorflow.Event and what it holds.
enum Event : std::uint64_t {
  kWallTime = 1,
  kStep = 2,
  kFileVersion = 3,
  kSummary = 5,
  kSessionLog = 7
};
enum Summary : std::uint64_t { kValue = 1 };
enum Value : std::uint64_t { kTag = 1, kSimpleValue = 2, kHistogram = 5 };
enum HistogramField : std::uint64_t {
  kMin = 1,
  kMax = 2,
  kNum = 3,
  kSum = 4,
  kSumSquares = 5,
  kBucketLimit = 6,
  kBucket = 7
};
constexpr std::uint64_t kSessionStatus = 1, kSessionStart = 1;

template <class T>
void put_little_endian(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little, "written as the machine holds it");
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7U) out += static_cast<char>((value & 0x7FU) | 0x80U);
  out += static_cast<char>(value);
}

void put_key(std::string& out, std::uint64_t field, Wire wire) {
  put_varint(out, field << 3U | wire);
}

void put_integer(std::string& out, std::uint64_t field, std::int64_t value) {
  put_key(out, field, kVarint);
  put_varint(out, static_cast<std::uint64_t>(value));
}

void put_double(std::string& out, std::uint64_t field, double value) {
  put_key(out, field, kFixed64);
  put_little_endian(out, value);
}

void put_bytes(std::string& out, std::uint64_t field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

std::uint32_t masked_crc(std::string_view bytes) {
  const std::uint32_t crc = crc32c(std::as_bytes(std::span(bytes.data(), bytes.size())));
  return std::rotr(crc, 15) + 0xa282ead8U;
}

std::string record(std::string_view message) {
  std::string out;
  put_little_endian<std::uint64_t>(out, message.size());
  put_little_endian(out, masked_crc(out));
  out += message;
  put_little_endian(out, masked_crc(message));
  return out;
}

std::string event(double wall_time, std::int64_t step) {
  std::string out;
  put_double(out, kWallTime, wall_time);
  put_integer(out, kStep, step);
  return out;
}

std::string packed(std::span<const double> values) {
  std::string out;
  for (const double value : values) put_little_endian(out, value);
  return out;
}

template <class T>
T read_as(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

/// Wall time and step of an event as `event` wrote them.
std::optional<std::pair<std::int64_t, double>> time_of(std::string_view message) {
  constexpr std::size_t kHead = 1 + sizeof(double) + 1;
  if (message.size() <= kHead || message[0] != (kWallTime << 3U | kFixed64) ||
      message[kHead - 1] != (kStep << 3U | kVarint)) {
    return std::nullopt;
  }
  std::uint64_t step = 0;
  for (std::size_t i = kHead, shift = 0; i < message.size() && shift < 63; ++i, shift += 7) {
    const auto byte = static_cast<unsigned char>(message[i]);
    step |= static_cast<std::uint64_t>(byte & 0x7FU) << shift;
    if (byte < 0x80)
      return std::pair(static_cast<std::int64_t>(step), read_as<double>(message.substr(1)));
  }
  return std::nullopt;
}

}  // namespace

std::string version_record(double wall_time) {
  std::string out;
  put_double(out, kWallTime, wall_time);
  put_bytes(out, kFileVersion, "brain.Event:2");
  return record(out);
}

std::string session_start_record(double wall_time, std::int64_t step) {
  std::string session;
  put_integer(session, kSessionStatus, kSessionStart);
  std::string out = event(wall_time, step);
  put_bytes(out, kSessionLog, session);
  return record(out);
}

std::string scalars_record(double wall_time, std::int64_t step,
                           std::span<const EventScalar> scalars) {
  std::string summary;
  for (const EventScalar& scalar : scalars) {
    std::string value;
    put_bytes(value, kTag, scalar.tag);
    put_key(value, kSimpleValue, kFixed32);
    put_little_endian(value, scalar.value);
    put_bytes(summary, Summary::kValue, value);
  }
  std::string out = event(wall_time, step);
  put_bytes(out, kSummary, summary);
  return record(out);
}

std::string histogram_record(double wall_time, std::int64_t step, std::string_view tag,
                             std::span<const double> edges, std::span<const std::int64_t> counts) {
  THRESHER_CHECK(!counts.empty() && edges.size() == counts.size() + 1,
                 "a histogram has an edge more than bins");
  double num = 0, sum = 0, sum_squares = 0;
  std::vector<double> buckets;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto count = static_cast<double>(counts[i]);
    const double middle = (edges[i] + edges[i + 1]) / 2;
    num += count;
    sum += count * middle;
    sum_squares += count * middle * middle;
    buckets.push_back(count);
  }
  // TensorBoard takes `min` as the left edge of the first bucket that holds something.
  std::size_t first = 0, last = counts.size() - 1;
  while (first < last && counts[first] == 0) ++first;
  while (last > first && counts[last] == 0) --last;
  std::string histogram;
  put_double(histogram, kMin, edges[first]);
  put_double(histogram, kMax, edges[last + 1]);
  put_double(histogram, kNum, num);
  put_double(histogram, kSum, sum);
  put_double(histogram, kSumSquares, sum_squares);
  put_bytes(histogram, kBucketLimit, packed(edges.subspan(1)));
  put_bytes(histogram, kBucket, packed(buckets));
  std::string value;
  put_bytes(value, kTag, tag);
  put_bytes(value, kHistogram, histogram);
  std::string summary;
  put_bytes(summary, Summary::kValue, value);
  std::string out = event(wall_time, step);
  put_bytes(out, kSummary, summary);
  return record(out);
}

std::map<std::int64_t, double> event_times(std::string_view file) {
  constexpr std::size_t kHeader = sizeof(std::uint64_t) + sizeof(std::uint32_t);
  constexpr std::size_t kFooter = sizeof(std::uint32_t);
  std::map<std::int64_t, double> times;
  while (file.size() >= kHeader + kFooter) {
    const auto size = read_as<std::uint64_t>(file);
    if (size > file.size() - kHeader - kFooter) break;
    if (read_as<std::uint32_t>(file.substr(8)) != masked_crc(file.substr(0, 8))) break;
    const std::string_view message = file.substr(kHeader, size);
    if (read_as<std::uint32_t>(file.substr(kHeader + size)) != masked_crc(message)) break;
    if (const auto time = time_of(message)) times.insert(*time);
    file.remove_prefix(kHeader + size + kFooter);
  }
  return times;
}

}  // namespace thresher::trainer
