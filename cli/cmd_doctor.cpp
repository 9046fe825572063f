#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <thread>

#include "activation_cache/cache.h"
#include "activation_cache/own_activations.h"
#include "cli/commands.h"
#include "cli/doctor.h"
#include "cli/experiment.h"
#include "cli/ranks.h"
#include "cli/versions.h"
#include "core/error.h"
#include "core/visible_text.h"
#include "sae/thread_check.h"

namespace thresher::cli {

const char* status_word(Check::Status status) {
  switch (status) {
    case Check::Status::kOk:
      return "ok";
    case Check::Status::kWarn:
      return "warn";
    case Check::Status::kFail:
      break;
  }
  return "fail";
}

Check check_thread_bits() {
  // The products of the demo's SAEs.
  constexpr std::int64_t kLaneRows = 128, kWidth = 576, kLatents = 2304;
  const auto self = comm::make_self_communicator();
  const int threads = set_threads(std::nullopt, *self);
  if (threads == 1) return {Check::Status::kOk, "threads and bits", "one core, nothing to compare"};
  const auto differing =
      sae::probes_that_differ(sae::training_products(kLaneRows, kWidth, kLatents), threads);
  if (differing.empty()) {
    return {Check::Status::kOk, "threads and bits",
            fmt::format("{} threads give the bits of one", threads)};
  }
  return {Check::Status::kWarn, "threads and bits",
          fmt::format("other bits with {} threads than with one: {}", threads, differing.front()),
          "such products will run with one thread; more ranks use more cores"};
}

Check check_mpi_alone() {
  using Status = Check::Status;
  constexpr auto kPatience = std::chrono::seconds(30);
  const std::string name = "mpi";
  const pid_t child = fork();
  if (child < 0) return {Status::kWarn, name, "not tried: no process could be started"};
  if (child == 0) {
    // What MPI prints about its own troubles would stand among the results.
    if (freopen("/dev/null", "w", stderr) == nullptr) _exit(1);
    int code = 1;
    try {
      const comm::MpiEnvironment environment;  // ends, and clears up, before this process does
      const auto comm = comm::make_mpi_communicator(10);
      std::int64_t one = 1;
      comm->all_reduce_max(std::span(&one, 1), "doctor");
      code = comm->world_size() == 1 ? 0 : 1;
    } catch (...) {
      code = 1;
    }
    _exit(code);
  }
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      return {Status::kWarn, name, "starts, but hangs",
              "single-process runs work; see what `mpirun -n 1 thresher version` says"};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const std::string version = comm::mpi_library_version();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {Status::kOk, name, version};
  return {Status::kWarn, name, version + "; MPI_Init fails in this process",
          "single-process runs work; see what `mpirun -n 1 thresher version` says"};
}

namespace {

using Status = Check::Status;

struct DoctorOptions : Options {};

bool is_on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::string rest = path == nullptr ? "" : path;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    if (access((std::filesystem::path(rest.substr(0, end)) / program).c_str(), X_OK) == 0)
      return true;
    rest.erase(0, end + 1);
  }
  return false;
}

Check check_launcher() {
  if (!is_on_path("mpirun")) {
    return {Status::kWarn, "mpirun", "not on PATH",
            "several processes need it (or srun); comm.backend: threads runs ranks in one process"};
  }
  if (geteuid() == 0 && (std::getenv("OMPI_ALLOW_RUN_AS_ROOT") == nullptr ||
                         std::getenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM") == nullptr)) {
    return {Status::kWarn, "mpirun", "refuses to run as root",
            "run as a user, or set OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"};
  }
  return {Status::kOk, "mpirun", "on PATH"};
}

Check check_versions() {
  std::string found;
  const Json versions = versions_json();
  for (const auto& [name, value] : versions.as_object()) {
    found += fmt::format("{}{} {}", found.empty() ? "" : ", ", name,
                         value.is_string() ? value.as_string() : value.dump());
  }
  return {Status::kOk, "versions", found};
}

Check check_path(const std::string& key, const std::string& path) {
  if (std::filesystem::exists(path)) return {Status::kOk, key, visible_text(path)};
  return {Status::kFail, key, visible_text(path) + " does not exist",
          fmt::format("relative paths start at '{}'",
                      visible_text(std::filesystem::current_path().string()))};
}

/// Where the ranks of a job are.
struct Ranks {
  int all = 1, on_host = 1;
};

void add_experiment_checks(const Experiment& experiment, Ranks ranks, std::vector<Check>& checks) {
  if (!experiment.activations) {
    checks.push_back(check_path("host_model.weights", experiment.host_model.weights));
  }
  for (const std::string& path : experiment.corpus.paths) {
    if (path != "-") checks.push_back(check_path("corpus.paths", path));
  }
  if (experiment.activations) {
    const auto files =
        activation_cache::find_table_files(experiment.activations->paths, "activations.paths");
    checks.push_back({Status::kOk, "activations.paths", fmt::format("{} files", files.size())});
  }
  const bool is_complete = activation_cache::is_cache_complete(experiment.cache.dir);
  checks.push_back(
      {Status::kOk, "cache",
       visible_text(experiment.cache.dir) + (is_complete ? ", complete" : ", to be harvested")});
  const auto add = [&](std::vector<Check> more) {
    checks.insert(checks.end(), more.begin(), more.end());
  };
  add(check_file_system("cache.dir", experiment.cache.dir));
  add(check_file_system("run.dir", experiment.run.dir));
  const bool is_whole = std::none_of(checks.begin(), checks.end(), [](const Check& check) {
    return check.status == Status::kFail;
  });
  if (is_whole) add(check_needs(experiment, ranks.all, ranks.on_host));
}

/// Everything but MPI.
std::vector<Check> all_checks(const DoctorOptions& options, Ranks ranks) {
  std::vector<Check> checks = {check_versions()};
  for (const auto& more : {check_libraries(), check_machine(THRESHER_HAS_CUDA != 0)}) {
    checks.insert(checks.end(), more.begin(), more.end());
  }
  checks.push_back(check_thread_bits());
  if (options.path.empty()) {
    const std::vector<Check> disk = check_file_system("working directory", ".");
    checks.insert(checks.end(), disk.begin(), disk.end());
    return checks;
  }
  try {
    const Experiment experiment = load_experiment(options.path, options.overrides);
    checks.push_back({Status::kOk, "experiment", visible_text(options.path)});
    // Threads of one process count as ranks as those of a launcher do.
    if (ranks.all == 1 && experiment.comm.ranks > 1) {
      ranks.all = ranks.on_host = static_cast<int>(experiment.comm.ranks);
    }
    add_experiment_checks(experiment, ranks, checks);
  } catch (const Error& error) {
    checks.push_back(
        {Status::kFail, "experiment", error.first_line(),
         fmt::format("`thresher config check {}` says more", visible_text(options.path))});
  }
  return checks;
}

std::string checks_text(const std::vector<Check>& checks) {
  std::size_t width = 0;
  for (const Check& check : checks) width = std::max(width, check.name.size());
  std::string out;
  for (const Check& check : checks) {
    out += fmt::format("{:<4}  {:<{}}  {}\n", status_word(check.status), check.name, width,
                       harmless_text(check.value));
    if (!check.advice.empty()) {
      out += fmt::format("      {:<{}}  -> {}\n", "", width, harmless_text(check.advice));
    }
  }
  return out;
}

Json checks_json(const std::vector<Check>& checks) {
  Json list = Json::array();
  for (const Check& check : checks) {
    list.push_back(Json::object({{"name", check.name},
                                 {"status", status_word(check.status)},
                                 {"value", check.value},
                                 {"advice", check.advice}}));
  }
  return Json::object({{"checks", list}});
}

void print_checks(const DoctorOptions& options, const std::vector<Check>& checks) {
  print_result(options.json ? checks_json(checks).dump(2) + "\n" : checks_text(checks));
  const auto n_failed = std::count_if(checks.begin(), checks.end(), [](const Check& check) {
    return check.status == Status::kFail;
  });
  if (n_failed > 0) {
    throw ConfigError(fmt::format("doctor: {} of {} checks failed", n_failed, checks.size()), {},
                      "see the lines that begin with fail");
  }
}

void run_doctor(const DoctorOptions& options) {
  start(options);
  if (!comm::is_launched_by_mpi()) {
    const Check mpi = check_mpi_alone();  // first: it forks
    std::vector<Check> checks = all_checks(options, {});
    checks.push_back(mpi);
    checks.push_back(check_launcher());
    print_checks(options, checks);
    return;
  }
  comm::CommConfig config;
  with_ranks(config, Device::kCpu, [&](comm::Communicator& comm) {
    const comm::HostPlace place = comm::place_on_host(comm);
    if (!comm.is_root()) return;
    std::vector<Check> checks = all_checks(options, {comm.world_size(), place.ranks_on_host});
    checks.push_back({Status::kOk, "mpi",
                      fmt::format("{} ranks, {} of them on this host; {}", comm.world_size(),
                                  place.ranks_on_host, comm::mpi_library_version())});
    print_checks(options, checks);
  });
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("doctor", "check this machine, and an experiment, for trouble");
  command->footer(
      "Each line is ok, warn or fail, with advice under it. Writes only into scratch folders that "
      "it\n"
      "removes. Ends with 78 if a check failed. Under mpirun it checks the ranks, too. For an\n"
      "experiment without a complete cache it loads text and model to tell what a harvest takes.");
  const auto options = std::make_shared<DoctorOptions>();
  command->add_option("EXPERIMENT.yaml", options->path,
                      "check its paths and folders and what it needs, too");
  add_set_option(*command, *options);
  add_output_options(*command, *options);
  command->callback([&action, options] { action = [options] { run_doctor(*options); }; });
}

}  // namespace thresher::cli
