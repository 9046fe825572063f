#include "trainer/tensorboard_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <span>

#include "core/error.h"
#include "core/log.h"
#include "core/system_error.h"
#include "trainer/event_file.h"
#include "trainer/run_directory.h"

namespace thresher::trainer {
namespace {

constexpr const char* kPrefix = "events.out.tfevents.";  // what TensorBoard looks for
constexpr const char* kEvaluation = ".evaluation";
constexpr std::size_t kBufferBytes = 1U << 20U;
constexpr std::uint64_t kLargestFile = std::uint64_t{16} << 30U;

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::filesystem::path folder_of(const std::filesystem::path& run_dir, const std::string& sae_name) {
  return run_dir / "tensorboard" / sae_name;
}

/// The event files of a folder, oldest first: names are numbered with leading zeros.
std::vector<std::filesystem::path> event_files(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& path : list_folder(folder)) {
    if (path.filename().string().starts_with(kPrefix)) files.push_back(path);
  }
  return files;
}

std::filesystem::path next_file(const std::filesystem::path& folder,
                                const std::vector<std::filesystem::path>& files,
                                const char* suffix) {
  std::int64_t number = 0;
  for (const auto& path : files) {
    const std::string digits = path.filename().string().substr(std::string(kPrefix).size(), 10);
    if (digits.find_first_not_of("0123456789") == std::string::npos && !digits.empty()) {
      number = std::max<std::int64_t>(number, std::stoll(digits));
    }
  }
  return folder / fmt::format("{}{:010}{}", kPrefix, number + 1, suffix);
}

/// Empties files whose place a new one has taken; those emptied before go away. A TensorBoard that
/// is reading one would never get past a file that is gone, but leaves an empty one for the next.
void retire_files(const std::vector<std::filesystem::path>& files) {
  for (const auto& path : files) {
    if (thresher::file_size(path) > 0) {
      create_file(path);
      continue;
    }
    remove_tree(path);
  }
}

std::string scalars_of(const Json& figures, const std::string& group, std::int64_t step,
                       double wall_time) {
  std::vector<EventScalar> scalars;
  for (const auto& [name, value] : figures.as_object()) {
    if (name == "step" || name == "tokens" || !value.is_number()) continue;
    const auto narrow = static_cast<float>(value.as_double());
    if (std::isfinite(narrow)) scalars.push_back({group + "/" + name, narrow});
  }
  return scalars_record(wall_time, step, scalars);
}

/// An event file while it is rebuilt.
struct Rebuilt {
  std::filesystem::path temporary;
  FileDescriptor descriptor;
  std::vector<std::filesystem::path> old_files;
  std::map<std::int64_t, double> times;
  std::string buffer;

  void flush() {
    write_all(descriptor, std::as_bytes(std::span(buffer)), temporary);
    buffer.clear();
  }
};

Rebuilt begin_rebuild(const std::filesystem::path& folder) {
  make_folders(folder);
  Rebuilt file;
  file.old_files = event_files(folder);
  for (const auto& path : file.old_files) {
    if (thresher::file_size(path) > kLargestFile) continue;
    file.times.merge(event_times(read_text_file(path, kLargestFile)));
  }
  file.temporary = folder / ".rebuilt";
  file.descriptor = create_file(file.temporary);
  const double time = file.times.empty() ? now() : file.times.begin()->second;
  file.buffer = version_record(time) + session_start_record(time, 0);
  return file;
}

}  // namespace

TensorBoardLog::TensorBoardLog(const std::filesystem::path& run_dir,
                               const std::filesystem::path& metrics,
                               const std::vector<std::string>& sae_names) {
  std::map<std::string, Rebuilt> rebuilt;
  for (const std::string& name : sae_names) {
    rebuilt.emplace(name, begin_rebuild(folder_of(run_dir, name)));
  }
  for_each_json_line(metrics, [&](const Json& line, const std::string& where) {
    const auto found = rebuilt.find(line.at("sae").as_string(where));
    if (found == rebuilt.end()) return;
    Rebuilt& file = found->second;
    const std::int64_t step = line.at("step").as_int(where);
    const auto time = file.times.find(step);
    file.buffer += scalars_of(line, "train", step, time == file.times.end() ? now() : time->second);
    if (file.buffer.size() > kBufferBytes) file.flush();
  });
  for (auto& [name, file] : rebuilt) {
    file.flush();
    const std::filesystem::path path = next_file(folder_of(run_dir, name), file.old_files, "");
    rename_file(file.temporary, path);
    retire_files(file.old_files);
    files_[name] = {path, std::move(file.descriptor)};
  }
}

void TensorBoardLog::append(const Json::Array& lines) {
  for (const Json& line : lines) {
    const File& file = files_.at(line.at("sae").as_string());
    const std::string record = scalars_of(line, "train", line.at("step").as_int(), now());
    write_all(file.descriptor, std::as_bytes(std::span(record)), file.path);
  }
}

void TensorBoardLog::sync() {
  for (const auto& [name, file] : files_) sync_file(file.descriptor, file.path);
}

void write_evaluation_events(const std::filesystem::path& run_dir, const std::string& sae_name,
                             std::int64_t step, const Json& figures) {
  const std::filesystem::path folder = folder_of(run_dir, sae_name);
  make_folders(folder);
  const double time = now();
  std::string content = version_record(time) + scalars_of(figures, "evaluation", step, time);
  if (const Json* density = figures.find("density_histogram")) {
    std::vector<double> edges;
    std::vector<std::int64_t> counts;
    for (const Json& edge : density->at("log10_edges").as_array()) {
      edges.push_back(edge.as_double());
    }
    for (const Json& count : density->at("counts").as_array()) counts.push_back(count.as_int());
    content += histogram_record(time, step, "evaluation/log10_density", edges, counts);
  }
  const std::vector<std::filesystem::path> files = event_files(folder);
  write_file_atomically(next_file(folder, files, kEvaluation), content);
  std::vector<std::filesystem::path> old_files;
  std::copy_if(files.begin(), files.end(), std::back_inserter(old_files),
               [](const auto& path) { return path.filename().string().ends_with(kEvaluation); });
  retire_files(old_files);
}

}  // namespace thresher::trainer
