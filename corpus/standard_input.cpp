#include "corpus/standard_input.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <span>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/stop_signal.h"
#include "core/system_error.h"

namespace thresher::corpus {
namespace {

namespace fs = std::filesystem;

constexpr int kPatienceMilliseconds = 200;

/// Some bytes of the input; 0 at its end. A pipe may be silent for long: it is looked at again and
/// again, so that a stop signal is heard.
std::size_t read_some(int descriptor, std::span<std::byte> out) {
  while (true) {
    if (stop_requested()) throw StoppedBySignal("stopped while reading standard input");
    pollfd waiting{descriptor, POLLIN, 0};
    const int ready = poll(&waiting, 1, kPatienceMilliseconds);
    if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
    if (ready > 0 && (waiting.revents & POLLNVAL) != 0) return 0;  // closed by the parent
    const ssize_t got = ready < 0 ? -1 : read(descriptor, out.data(), out.size());
    if (got >= 0) return static_cast<std::size_t>(got);
    if (errno != EINTR && errno != EAGAIN) throw_system_error("standard input", "read", errno);
  }
}

void compare(int descriptor, const fs::path& kept) {
  Sha256 hash;
  std::uint64_t n_bytes = 0;
  std::vector<std::byte> buffer(1U << 20);
  while (const std::size_t size = read_some(descriptor, buffer)) {
    hash.update(std::span(buffer).first(size));
    n_bytes += size;
  }
  if (n_bytes == 0 || hash.hex() == sha256_file(kept)) return;
  throw ConfigError(
      fmt::format("corpus.paths: standard input is not the text that '{}' keeps", kept.string()),
      "the same text again, or no input",
      "choose another cache.dir for another text, or remove that file with its cache");
}

}  // namespace

bool wants_standard_input(const std::vector<std::string>& paths) {
  return std::find(paths.begin(), paths.end(), "-") != paths.end();
}

std::vector<std::string> with_kept_input(std::vector<std::string> paths, const fs::path& kept) {
  std::replace(paths.begin(), paths.end(), std::string("-"), kept.string());
  return paths;
}

void keep_standard_input(int descriptor, const fs::path& kept, KeptInput state) {
  const bool is_there = fs::exists(kept);
  if (isatty(descriptor) == 1) {
    if (is_there) return;
    throw ConfigError("corpus.paths: '-' is standard input, which is a terminal",
                      "text through a pipe", "zcat corpus.jsonl.gz | thresher run EXPERIMENT.yaml");
  }
  if (is_there && state == KeptInput::kInUse) return compare(descriptor, kept);
  std::vector<std::byte> buffer(1U << 20);
  std::size_t size = read_some(descriptor, buffer);
  if (size == 0) {
    if (is_there) return;
    throw ConfigError("corpus.paths: '-' is standard input, which is empty", "text through a pipe",
                      "under mpirun and srun only rank 0 reads it; launchers in the background "
                      "give none");
  }
  if (!kept.parent_path().empty()) make_folders(kept.parent_path());
  write_file_atomically(kept, [&](const FileDescriptor& file) {
    for (; size > 0; size = read_some(descriptor, buffer)) {
      write_all(file, std::span(buffer).first(size), kept);
    }
  });
}

FileDescriptor hold_standard_input(int descriptor, std::uint64_t max_bytes) {
  FileDescriptor held(memfd_create("standard input", MFD_CLOEXEC));
  if (!held) throw_system_error("standard input", "hold", errno);
  std::vector<std::byte> buffer(1U << 20);
  std::uint64_t n_bytes = 0;
  while (const std::size_t size = read_some(descriptor, buffer)) {
    n_bytes += size;
    if (n_bytes > max_bytes) {
      throw DataError(fmt::format("standard input: has more than {} bytes", max_bytes));
    }
    write_all(held, std::span(buffer).first(size), "standard input");
  }
  return held;
}

fs::path held_path(const FileDescriptor& held) {
  return fmt::format("/proc/self/fd/{}", held.get());
}

}  // namespace thresher::corpus
