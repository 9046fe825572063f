#include <fmt/chrono.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/stages.h"
#include "comm/rank_watch.h"
#include "core/error.h"
#include "evaluation/text_table.h"

namespace thresher::cli {
namespace {

constexpr double kNanosecond = 1e-9;

std::vector<comm::FlightRecord> read_records(const std::filesystem::path& folder) {
  std::vector<comm::FlightRecord> records;
  records.push_back(comm::read_flight_record(comm::flight_record_path(folder, 0)));
  for (int rank = 1; rank < records.front().world_size; ++rank) {
    records.push_back(comm::read_flight_record(comm::flight_record_path(folder, rank)));
  }
  return records;
}

std::string state_of(const comm::FlightRecord& record) {
  if (record.signal != 0) return fmt::format("crashed ({})", strsignal(record.signal));
  switch (record.state) {
    case comm::FlightRecord::State::kFinished:
      return "finished";
    case comm::FlightRecord::State::kFailed:
      return "failed or stopped, and said so";
    case comm::FlightRecord::State::kRunning:
      break;
  }
  return "running, or killed";
}

std::uint64_t calls_begun(const comm::FlightRecord& record) {
  return record.calls.empty() ? 0 : record.calls.back().sequence + 1;
}

std::string flight_table(const std::vector<comm::FlightRecord>& records) {
  const std::int64_t now = comm::epoch_nanoseconds();
  std::vector<std::vector<std::string>> lines{
      {"rank", "host", "pid", "state", "last sign of life", "where"}};
  for (const comm::FlightRecord& record : records) {
    lines.push_back(
        {std::to_string(record.rank), record.host, std::to_string(record.pid), state_of(record),
         fmt::format("{:.1f} s ago", kNanosecond * static_cast<double>(now - record.beat_ns)),
         describe_last_call(record, now)});
  }
  return evaluation::text_table(std::move(lines), 6);
}

/// Ranks make the same calls, so the one that has begun the fewest is the one that others wait for.
std::string behind_text(const std::vector<comm::FlightRecord>& records) {
  std::uint64_t most = 0;
  for (const comm::FlightRecord& record : records) most = std::max(most, calls_begun(record));
  std::string text;
  for (const comm::FlightRecord& record : records) {
    const std::uint64_t behind = most - calls_begun(record);
    if (behind == 0) continue;
    text += fmt::format("rank {} is {} {} behind\n", record.rank, behind,
                        behind == 1 ? "call" : "calls");
  }
  return text;
}

Json call_json(const comm::RecordedCall& call) {
  return Json::object({{"sequence", static_cast<std::int64_t>(call.sequence)},
                       {"operation", call.operation},
                       {"what", call.what},
                       {"bytes", static_cast<std::int64_t>(call.bytes)},
                       {"begun_ns", call.begun_ns},
                       {"ended_ns", call.ended_ns}});
}

Json flight_json(const std::filesystem::path& folder,
                 const std::vector<comm::FlightRecord>& records) {
  Json ranks = Json::array();
  for (const comm::FlightRecord& record : records) {
    Json calls = Json::array();
    for (const comm::RecordedCall& call : record.calls) calls.push_back(call_json(call));
    ranks.push_back(Json::object({{"rank", record.rank},
                                  {"host", record.host},
                                  {"pid", record.pid},
                                  {"state", state_of(record)},
                                  {"signal", record.signal},
                                  {"started_ns", record.started_ns},
                                  {"beat_ns", record.beat_ns},
                                  {"calls", calls}}));
  }
  return Json::object({{"folder", folder.string()}, {"ranks", ranks}});
}

void run_flight(const Options& options) {
  start(options);
  std::filesystem::path run_dir = options.path;
  if (!run_dir.has_filename()) run_dir = run_dir.parent_path();
  const std::filesystem::path folder = comm::newest_flight(flight_folder(run_dir));
  if (folder.empty()) {
    throw ConfigError(
        fmt::format("{}: no flight records", run_dir.string()),
        fmt::format("{}, which a job makes when it starts", flight_folder(run_dir).string()),
        "give the run directory of a job that was started on this file system");
  }
  const std::vector<comm::FlightRecord> records = read_records(folder);
  print_result(options.json ? flight_json(folder, records).dump(2) + "\n"
                            : flight_table(records) + behind_text(records));
}

}  // namespace

void add_flight(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand(
      "flight", "what each rank of a run's last job is doing, or did before it ended");
  command->footer(
      "Every rank keeps its last 1,024 calls of the communicator in a memory-mapped file beside "
      "the\n"
      "run directory, which survives SIGKILL. --json lists the calls.");
  const auto options = std::make_shared<Options>();
  command->add_option("RUN", options->path, "the run directory")->required();
  add_output_options(*command, *options);
  command->callback([&action, options] { action = [options] { run_flight(*options); }; });
}

}  // namespace thresher::cli
