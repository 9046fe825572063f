#include "activation_cache/commit_log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <ctime>
#include <optional>
#include <span>
#include <system_error>

#include "core/error.h"
#include "core/hash.h"

namespace thresher::activation_cache {

namespace {

constexpr std::uint64_t kHeaderBytes = 8;
constexpr std::uint64_t kMaxRecordBytes = 512ULL << 20;

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text.data();
}

/// The text of the frame at `offset`, or nothing when no sound frame starts there.
std::optional<std::string> read_frame(const FileDescriptor& file, std::uint64_t offset,
                                      std::uint64_t file_bytes, const std::filesystem::path& log) {
  if (file_bytes - offset < kHeaderBytes) return std::nullopt;
  std::array<std::uint32_t, 2> header{};
  read_at(file, offset, std::as_writable_bytes(std::span(header)), log);
  const std::uint64_t length = header[0];
  if (length == 0 || length > kMaxRecordBytes || length > file_bytes - offset - kHeaderBytes) {
    return std::nullopt;
  }
  std::string text(length, '\0');
  const auto bytes = std::as_writable_bytes(std::span(text.data(), text.size()));
  read_at(file, offset + kHeaderBytes, bytes, log);
  if (crc32c(bytes) != header[1]) return std::nullopt;
  return text;
}

UnitRecord parse_record(const std::string& text, std::uint64_t offset,
                        const std::filesystem::path& log, const CacheIdentity& identity) {
  const std::string where = fmt::format("{} at byte {}", log.string(), offset);
  return UnitRecord::from_json(Json::parse(text, where), identity, where);
}

}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  std::string text(name.data());
  for (char& c : text) {
    const bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                          (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    if (!is_plain) c = '_';
  }
  return text.substr(0, 64);
}

LogContent read_commit_log(const std::filesystem::path& log, const CacheIdentity& identity) {
  LogContent content;
  content.file_bytes = thresher::file_size(log);
  const FileDescriptor file = open_for_reading(log);
  while (const auto text = read_frame(file, content.sound_bytes, content.file_bytes, log)) {
    LoggedUnit unit{parse_record(*text, content.sound_bytes, log, identity), log,
                    content.sound_bytes};
    unit.record.moments.clear();
    content.units.push_back(std::move(unit));
    content.sound_bytes += kHeaderBytes + text->size();
  }
  return content;
}

UnitRecord read_logged_unit(const LoggedUnit& unit, const CacheIdentity& identity) {
  const FileDescriptor file = open_for_reading(unit.log);
  const auto text = read_frame(file, unit.offset, thresher::file_size(unit.log), unit.log);
  if (!text) {
    throw DataError(
        fmt::format("{}: the commit record at byte {} is damaged", unit.log.string(), unit.offset));
  }
  UnitRecord record = parse_record(*text, unit.offset, unit.log, identity);
  if (record.moments.empty()) {
    throw DataError(fmt::format("{}: the commit record at byte {} has no moments",
                                unit.log.string(), unit.offset));
  }
  return record;
}

std::vector<std::filesystem::path> list_commit_logs(const std::filesystem::path& dir) {
  std::vector<std::filesystem::path> logs;
  if (!std::filesystem::is_directory(dir / kCommitFolder)) return logs;
  for (const std::filesystem::path& path : list_folder(dir / kCommitFolder)) {
    const std::string name = path.filename().string();
    const bool is_log = name.size() >= 8 && name.front() == 'w' && name.ends_with(".log") &&
                        name.find_first_not_of("0123456789", 1) == name.size() - 4;
    if (is_log) logs.push_back(dir / kCommitFolder / name);
  }
  return logs;
}

CommittedUnits read_committed_units(const std::filesystem::path& dir,
                                    const CacheIdentity& identity) {
  CommittedUnits committed;
  for (const std::filesystem::path& log : list_commit_logs(dir)) {
    for (LoggedUnit& unit : read_commit_log(log, identity).units) {
      const std::int64_t number = unit.record.unit;
      std::error_code missing;
      const std::uintmax_t bytes = std::filesystem::file_size(shard_path(dir, number), missing);
      if (committed.contains(number) && (missing || bytes != unit.record.bytes)) continue;
      committed.insert_or_assign(number, std::move(unit));
    }
  }
  return committed;
}

CommitLog::CommitLog(const std::filesystem::path& dir, int rank)
    : path_(dir / kCommitFolder / commit_log_name(rank)),
      file_(open_for_appending(path_)),
      rank_(rank),
      end_(thresher::file_size(path_)) {
  sync_folder(dir / kCommitFolder);
}

LoggedUnit CommitLog::append(const UnitRecord& record, const CacheIdentity& identity) {
  Json json = record.to_json(identity);
  json["time"] = utc_now();
  json["host"] = host_name();
  json["rank"] = rank_;
  const std::string text = json.dump();
  THRESHER_CHECK(text.size() <= kMaxRecordBytes, "a commit record is smaller than its limit");
  const std::array<std::uint32_t, 2> header = {static_cast<std::uint32_t>(text.size()),
                                               crc32c(std::as_bytes(std::span(text)))};
  std::string frame(kHeaderBytes, '\0');
  std::memcpy(frame.data(), header.data(), kHeaderBytes);
  frame += text;
  write_all(file_, std::as_bytes(std::span(frame)), path_);
  failpoint(failpoints::kCommitAppended);
  sync_file(file_, path_);
  failpoint(failpoints::kCommitSynced);
  LoggedUnit unit{record, path_, end_};
  unit.record.moments.clear();
  end_ += frame.size();
  return unit;
}

}  // namespace thresher::activation_cache
