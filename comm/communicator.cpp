#include "comm/communicator.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "comm/fault.h"
#include "comm/flight_recorder.h"
#include "core/error.h"
#include "core/progress.h"

namespace thresher::comm {
namespace {

/// What ranks tell each other at the start of a call, so that ranks that have come apart are told
/// so instead of mixing up each other's bytes. Ranks run the same build on the same kind of
/// machine.
struct CallRecord {
  std::uint64_t sequence = 0;
  std::uint64_t bytes = 0;
  std::int64_t argument = 0;  // must be equal on all ranks: element count, root
  std::array<char, 24> operation{};
  std::array<char, 80> what{};
};

template <std::size_t N>
void copy_text(const std::string& from, std::array<char, N>& to) {
  std::memcpy(to.data(), from.data(), std::min(from.size(), N - 1));
}

template <std::size_t N>
std::string_view text_of(const std::array<char, N>& text) {
  return {text.data(), strnlen(text.data(), N)};
}

std::string describe(std::string_view operation, std::uint64_t sequence, std::string_view what,
                     std::uint64_t bytes) {
  std::string text = fmt::format("{} #{} {}", operation, sequence, what);
  if (bytes > 0) text += fmt::format(" ({})", format_bytes(bytes));
  return text;
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

std::span<std::byte> bytes_of(auto& object) {
  return std::as_writable_bytes(std::span(&object, 1));
}

/// One rank's verdict in `agree`.
struct Verdict {
  std::int32_t failed = 0;
  std::int32_t code = 0;
};

[[noreturn]] void throw_with_code(ExitCode code, const std::string& message) {
  switch (code) {
    case ExitCode::kUsage:
      throw UsageError(message);
    case ExitCode::kDamagedInput:
      throw DataError(message);
    case ExitCode::kIo:
      throw IoError(message);
    case ExitCode::kStopped:
      throw StoppedBySignal(message);
    case ExitCode::kConfig:
      throw ConfigError(message);
    case ExitCode::kDone:
    case ExitCode::kInternal:
      break;
  }
  throw InternalError(message);
}

}  // namespace

std::string Communicator::identity() const {
  return fmt::format("rank {} of {} (host {}, pid {})", rank(), world_size(), host_name(),
                     getpid());
}

void Communicator::fail_timeout(int peer, double waited_seconds) {
  std::vector<int> missing = missing_ranks();
  const bool is_known = !missing.empty();
  if (!is_known) missing = {peer};
  const std::string seen = witness_ ? witness_(missing.front()) : std::string();
  throw CommError(fmt::format("{} waited {:.1f} s in {}; {} {} {}{}", identity(), waited_seconds,
                              describe(call_.operation, call_.sequence, call_.what, call_.bytes),
                              missing.size() == 1 ? "rank" : "ranks", fmt::join(missing, ", "),
                              is_known ? "did not arrive" : "did not answer",
                              seen.empty() ? seen : ": " + seen),
                  "every rank in the same call within comm.timeout_seconds",
                  "look for that rank's last message; it may have crashed, hung or be swapping");
}

bool Communicator::begin(std::string_view operation, std::string_view what, std::uint64_t bytes,
                         std::int64_t argument) {
  if (is_unusable_) {
    throw CommError(fmt::format("{} entered {} {} after {} #{} {} had failed", identity(),
                                operation, what, call_.operation, call_.sequence, call_.what));
  }
  call_ = {std::string(operation), sequence_++, std::string(what), bytes};
  inject_fault(rank(), call_.sequence, call_.what);
  if (recorder_ != nullptr) recorder_->begin(operation, call_.sequence, call_.what, bytes);
  if (world_size() == 1) {
    if (recorder_ != nullptr) recorder_->end();
    return false;
  }
  begun_at_ = std::chrono::steady_clock::now();
  is_unusable_ = true;
  enter(call_);
  handshake(argument);
  return true;
}

void Communicator::end() {
  is_unusable_ = false;
  seconds_in_calls_ +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_at_).count();
  if (recorder_ != nullptr) recorder_->end();
}

/// Nobody leaves before everybody has arrived, and all are in the same call. Powers of two: along
/// the edges of the hypercube. Otherwise: through rank 0.
void Communicator::handshake(std::int64_t argument) {
  const int world = world_size();
  if (std::has_single_bit(static_cast<unsigned>(world))) {
    for (int bit = 1; bit < world; bit *= 2) compare_call(rank() ^ bit, argument);
    return;
  }
  for (int round = 0; round < 2; ++round) {
    if (rank() != 0) {
      compare_call(0, argument);
    } else {
      for (int peer = 1; peer < world; ++peer) compare_call(peer, argument);
    }
  }
}

void Communicator::compare_call(int peer, std::int64_t argument) {
  CallRecord mine, theirs;
  mine.sequence = call_.sequence;
  mine.bytes = call_.bytes;
  mine.argument = argument;
  copy_text(call_.operation, mine.operation);
  copy_text(call_.what, mine.what);
  send_receive(peer, bytes_of(mine), bytes_of(theirs));
  if (mine.sequence == theirs.sequence && mine.argument == theirs.argument &&
      mine.operation == theirs.operation && mine.what == theirs.what) {
    return;
  }
  throw CommError(
      fmt::format(
          "{} is in {}, but rank {} is in {}", identity(),
          describe(call_.operation, call_.sequence, call_.what, call_.bytes), peer,
          describe(text_of(theirs.operation), theirs.sequence, text_of(theirs.what), theirs.bytes)),
      "the same calls in the same order with the same sizes on every rank",
      "this is a bug in Thresher, or the ranks run different programs or configurations");
}

void Communicator::barrier(std::string_view what) {
  if (begin("barrier", what, 0, 0)) end();
}

/// Binomial tree from the root; the length goes ahead of the bytes.
void Communicator::broadcast_bytes(std::vector<std::byte>& bytes, int root) {
  const int world = world_size();
  const int place = (rank() - root + world) % world;
  for (int reach = 1; reach < world; reach *= 2) {
    std::uint64_t size = bytes.size();
    if (place < reach && place + reach < world) {
      const int peer = (place + reach + root) % world;
      send_receive(peer, bytes_of(size), {});
      if (size > 0) send_receive(peer, bytes, {});
    } else if (place >= reach && place < 2 * reach) {
      const int peer = (place - reach + root) % world;
      send_receive(peer, {}, bytes_of(size));
      bytes.resize(size);
      if (size > 0) send_receive(peer, {}, bytes);
    }
  }
}

void Communicator::broadcast(std::vector<std::byte>& bytes, int root, std::string_view what) {
  THRESHER_CHECK(root >= 0 && root < world_size(), "broadcast: no such root");
  if (!begin("broadcast", what, rank() == root ? bytes.size() : 0, root)) return;
  broadcast_bytes(bytes, root);
  end();
}

std::vector<std::vector<std::byte>> Communicator::all_gather(std::span<const std::byte> mine,
                                                             std::string_view what) {
  const auto world = static_cast<std::size_t>(world_size());
  std::vector<std::vector<std::byte>> parts(world);
  if (!begin("all_gather", what, mine.size(), 0)) {
    parts[0].assign(mine.begin(), mine.end());
    return parts;
  }
  // All parts meet at rank 0 and go out again as one message: lengths first, then the bytes in rank
  // order.
  std::vector<std::uint64_t> sizes(world);
  std::vector<std::byte> table;
  if (rank() == 0) {
    sizes[0] = mine.size();
    table.assign(mine.begin(), mine.end());
    for (std::size_t peer = 1; peer < world; ++peer) {
      send_receive(static_cast<int>(peer), {}, bytes_of(sizes[peer]));
      const std::size_t start = table.size();
      table.resize(start + sizes[peer]);
      if (sizes[peer] > 0) {
        send_receive(static_cast<int>(peer), {}, std::span(table).subspan(start));
      }
    }
  } else {
    std::uint64_t size = mine.size();
    send_receive(0, bytes_of(size), {});
    if (size > 0) send_receive(0, mine, {});
  }
  std::vector<std::byte> size_bytes(world * sizeof(std::uint64_t));
  std::memcpy(size_bytes.data(), sizes.data(), size_bytes.size());
  broadcast_bytes(size_bytes, 0);
  broadcast_bytes(table, 0);
  std::memcpy(sizes.data(), size_bytes.data(), size_bytes.size());
  std::size_t start = 0;
  for (std::size_t peer = 0; peer < world; ++peer) {
    const auto part = std::span(table).subspan(start, sizes[peer]);
    parts[peer].assign(part.begin(), part.end());
    start += sizes[peer];
  }
  end();
  return parts;
}

void Communicator::agree(const std::function<void()>& work, std::string_view what) {
  if (world_size() == 1) return work();
  Verdict verdict;
  std::string message;
  try {
    work();
  } catch (const Error& error) {
    verdict = {1, static_cast<std::int32_t>(error.code())};
    message = error.what();
  } catch (const std::exception& error) {
    verdict = {1, static_cast<std::int32_t>(ExitCode::kInternal)};
    message = error.what();
  }
  std::vector<std::byte> mine(sizeof(verdict) + message.size());
  std::memcpy(mine.data(), &verdict, sizeof(verdict));
  std::memcpy(mine.data() + sizeof(verdict), message.data(), message.size());
  const auto verdicts = all_gather(mine, what);
  for (std::size_t peer = 0; peer < verdicts.size(); ++peer) {
    std::memcpy(&verdict, verdicts[peer].data(), sizeof(verdict));
    if (verdict.failed == 0) continue;
    const auto* text = reinterpret_cast<const char*>(verdicts[peer].data()) + sizeof(verdict);
    throw_with_code(static_cast<ExitCode>(verdict.code),
                    fmt::format("rank {}: {}", peer,
                                std::string_view(text, verdicts[peer].size() - sizeof(verdict))));
  }
}

}  // namespace thresher::comm
