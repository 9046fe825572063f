#include "trainer/checkpoint_format.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"

namespace thresher::trainer {
namespace {

[[noreturn]] void fail(const std::string& where, const std::string& problem) {
  throw DataError(fmt::format("{}: {}", where, problem), "the files that COMMIT lists, unchanged");
}

void check_format(const Json& json, const std::string& where) {
  const std::int64_t format = json.at("format").as_int("format");
  if (format != kCheckpointFormat) {
    throw DataError(fmt::format("{}: checkpoint format {}", where, format),
                    fmt::format("format {}", kCheckpointFormat));
  }
}

std::int64_t count(const Json& json, std::string_view key, const std::string& where) {
  const std::int64_t value = json.at(key).as_int(key);
  if (value < 0) fail(where, fmt::format("{} is {}", key, value));
  return value;
}

}  // namespace

std::string checkpoint_name(std::int64_t step) { return fmt::format("step-{:08}", step); }

std::string commit_hash(const Json& files) { return sha256_hex(files.dump()); }

std::vector<CommittedFile> parse_commit(std::string_view text, const std::string& where) {
  const Json commit = Json::parse(text, where);
  check_format(commit, where);
  const Json& listed = commit.at("files");
  if (commit_hash(listed) != commit.at("sha256").as_string("sha256")) {
    fail(where, "its own SHA-256 does not match");
  }
  std::vector<CommittedFile> files;
  for (const Json& entry : listed.as_array("files")) {
    files.push_back({entry.at("name").as_string("name"), entry.at("bytes").as_uint("bytes"),
                     entry.at("sha256").as_string("sha256")});
    if (!is_safe_file_name(files.back().name)) fail(where, "names an unsafe file");
  }
  for (const char* required : {kModelFile, kOptimiserFile, kStateFile, kConfigFile}) {
    const bool is_listed = std::any_of(files.begin(), files.end(), [&](const CommittedFile& file) {
      return file.name == required;
    });
    if (!is_listed) fail(where, fmt::format("does not list {}", required));
  }
  return files;
}

CheckpointState parse_state(std::string_view text, const std::string& where) {
  const Json json = Json::parse(text, where);
  check_format(json, where);
  CheckpointState state;
  state.step = count(json, "step", where);
  state.tokens = count(json, "tokens", where);
  state.metrics_bytes = count(json, "metrics_bytes", where);
  state.identity = json.at("identity");
  state.figures = json.at("figures");
  return state;
}

}  // namespace thresher::trainer
