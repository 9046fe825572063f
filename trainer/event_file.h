#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace thresher::trainer {

/// Records of TensorBoard's event files. A file is a row of records; a record is
///
///     uint64 length, uint32 masked CRC-32C of the length, bytes, uint32 masked CRC-32C of the
///     bytes
///
/// all little-endian (TFRecord), and its bytes are one protobuf message tensorflow.Event. What is
/// written here is the part of Event that scalars and histograms need; field numbers are those of
/// event.proto and summary.proto.

/// The first record of every file: file_version "brain.Event:2".
std::string version_record(double wall_time);
/// Tells a reader who follows the folder to forget every event from `step` on: a run went on from
/// an earlier point.
std::string session_start_record(double wall_time, std::int64_t step);

struct EventScalar {
  std::string tag;
  float value = 0;
};
std::string scalars_record(double wall_time, std::int64_t step,
                           std::span<const EventScalar> scalars);

/// `counts[i]` values between `edges[i]` and `edges[i + 1]`; moments are taken at the bins'
/// middles.
std::string histogram_record(double wall_time, std::int64_t step, std::string_view tag,
                             std::span<const double> edges, std::span<const std::int64_t> counts);

/// When the events of each step were written: {step: wall time} of the whole records at the start
/// of `file`. What follows a torn or damaged record is left out; nothing in here throws.
std::map<std::int64_t, double> event_times(std::string_view file);

}  // namespace thresher::trainer
