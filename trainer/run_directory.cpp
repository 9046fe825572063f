#include "trainer/run_directory.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <span>

#include "core/config.h"
#include "core/log.h"
#include "core/system_error.h"

namespace thresher::trainer {
namespace {

constexpr std::size_t kChunkBytes = 1U << 20U;
constexpr std::size_t kLongestLine = 1U << 20U;

std::filesystem::path without_trailing_slash(const std::filesystem::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

void move_aside(const std::filesystem::path& path) {
  // Held until the folder has its new name, so that a training inside it is never moved away.
  const FolderLock lock(path, "train --fresh");
  for (int n = 1;; ++n) {
    const std::filesystem::path old = fmt::format("{}.old-{}", path.string(), n);
    if (rename_no_replace(path, old)) {
      log_info(fmt::format("{}: the old run is kept as {}", path.string(), old.string()));
      return;
    }
  }
}

std::filesystem::path prepare(const std::filesystem::path& given, bool fresh) {
  const std::filesystem::path path = without_trailing_slash(given);
  if (fresh && std::filesystem::exists(path)) move_aside(path);
  make_folders(path);
  return path;
}

}  // namespace

void write_status(const std::filesystem::path& run_dir, const RunStatus& status) {
  Json json = Json::object({{"state", status.state},
                            {"stage", status.stage},
                            {"step", status.step},
                            {"steps", status.steps},
                            {"tokens", status.tokens}});
  if (status.exit_code) json["exit_code"] = static_cast<int>(*status.exit_code);
  if (!status.message.empty()) json["message"] = status.message;
  json["ranks"] = status.ranks;
  json["host"] = host_name();
  json["pid"] = static_cast<std::int64_t>(getpid());
  json["time"] = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  write_file_atomically(run_dir / "status.json", json.dump(2) + "\n");
}

std::filesystem::path sae_folder(const std::filesystem::path& run_dir,
                                 const std::string& sae_name) {
  return run_dir / "sae" / sae_name;
}

JsonLines::JsonLines(const std::filesystem::path& path)
    : path_(path),
      file_(open_for_appending(path)),
      bytes_(static_cast<std::int64_t>(thresher::file_size(path))) {}

void JsonLines::append(const Json::Array& lines) {
  std::string text;
  for (const Json& line : lines) {
    text += line.dump();
    text += '\n';
  }
  write_all(file_, std::as_bytes(std::span(text)), path_);
  bytes_ += static_cast<std::int64_t>(text.size());
}

void JsonLines::truncate(std::int64_t bytes) {
  std::byte last{'\n'};
  if (bytes > bytes_) {
    throw DataError(fmt::format("{}: {} bytes, the checkpoint was written after {}", path_.string(),
                                bytes_, bytes),
                    "the file as the run left it", "restore it, or start over with --fresh");
  }
  if (bytes > 0) read_at(file_, static_cast<std::uint64_t>(bytes - 1), {&last, 1}, path_);
  if (last != std::byte{'\n'}) {
    throw DataError(fmt::format("{}: no line ends at byte {}, where the checkpoint was written",
                                path_.string(), bytes),
                    "the file as the run left it", "restore it, or start over with --fresh");
  }
  truncate_file(file_, static_cast<std::uint64_t>(bytes), path_);
  bytes_ = bytes;
}

void JsonLines::sync() { sync_file(file_, path_); }

void for_each_json_line(
    const std::filesystem::path& path,
    const std::function<void(const Json& line, const std::string& where)>& take) {
  const FileDescriptor file = open_for_reading(path);
  const std::uint64_t size = thresher::file_size(path);
  std::string pending;
  std::vector<std::byte> chunk;
  std::int64_t number = 0;
  for (std::uint64_t offset = 0; offset < size;) {
    chunk.resize(std::min<std::uint64_t>(kChunkBytes, size - offset));
    read_at(file, offset, chunk, path);
    offset += chunk.size();
    pending.append(reinterpret_cast<const char*>(chunk.data()), chunk.size());
    std::size_t begin = 0;
    for (std::size_t end = 0; (end = pending.find('\n', begin)) != std::string::npos;
         begin = end + 1) {
      const std::string where = fmt::format("{}:{}", path.string(), ++number);
      take(Json::parse(std::string_view(pending).substr(begin, end - begin), where), where);
    }
    pending.erase(0, begin);
    if (pending.size() > kLongestLine) {
      throw DataError(
          fmt::format("{}:{}: the line is longer than 1 MiB", path.string(), number + 1),
          "lines of JSON as a run writes them");
    }
  }
}

RunDirectory::RunDirectory(std::filesystem::path path, bool fresh)
    : path_(prepare(path, fresh)),
      lock_(path_, "train"),
      metrics_(path_ / "metrics.jsonl"),
      timing_(path_ / "timing.jsonl") {}

void RunDirectory::open_tensorboard(const std::vector<std::string>& sae_names) {
  tensorboard_.emplace(path_, path_ / "metrics.jsonl", sae_names);
}

void RunDirectory::append_metrics(const Json::Array& lines) {
  metrics_.append(lines);
  if (tensorboard_) tensorboard_->append(lines);
}

void RunDirectory::sync_metrics() {
  metrics_.sync();
  if (tensorboard_) tensorboard_->sync();
}

void RunDirectory::write_config(const Json& resolved) {
  write_file_atomically(path_ / "config.resolved.yaml", to_yaml(resolved));
}

}  // namespace thresher::trainer
