#include "comm/flight_recorder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <span>

#include "core/error.h"
#include "core/files.h"
#include "core/progress.h"
#include "core/system_error.h"
#include "core/visible_text.h"

namespace thresher::comm {
namespace {

constexpr std::array<char, 8> kMagic{'T', 'H', 'R', 'F', 'L', 'T', '0', '1'};
constexpr double kNanosecond = 1e-9;

struct Header {
  std::array<char, 8> magic{};
  std::int32_t rank = 0, world_size = 1;
  std::int64_t pid = 0, started_ns = 0;
  std::atomic<std::int64_t> beat_ns{0};
  std::atomic<std::int32_t> state{0}, signal{0};
  std::atomic<std::uint64_t> n_calls{0};  // begun so far
  std::array<char, 200> host{};
};

struct Entry {
  std::uint64_t sequence = 0;
  std::int64_t begun_ns = 0;
  std::atomic<std::int64_t> ended_ns{0};
  std::uint64_t bytes = 0;
  std::array<char, 24> operation{};
  std::array<char, 72> what{};
};
static_assert(sizeof(Header) == 256 && sizeof(Entry) == 128, "the layout of the file");
static_assert(std::atomic<std::int64_t>::is_always_lock_free, "shared with other processes");

template <std::size_t N>
void put_text(std::string_view from, std::array<char, N>& to) {
  const std::size_t length = std::min(from.size(), N - 1);
  std::memcpy(to.data(), from.data(), length);
  std::memset(to.data() + length, 0, N - length);
}

template <std::size_t N>
std::string get_text(const std::array<char, N>& text) {
  return visible_text(std::string_view(text.data(), strnlen(text.data(), N)));
}

}  // namespace

struct FlightRecorder::Layout {
  Header header;
  std::array<Entry, kCalls> entries;
};

std::int64_t epoch_nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::filesystem::path flight_record_path(const std::filesystem::path& folder, int rank) {
  return folder / fmt::format("rank-{:05}.bin", rank);
}

FlightRecorder::FlightRecorder(const std::filesystem::path& folder, int rank, int world_size) {
  make_folders(folder);
  const auto path = flight_record_path(folder, rank);
  const FileDescriptor file(
      open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (!file) throw_system_error(path, "create", errno);
  // A page of a mapped file for which there is no room would be a SIGBUS.
  if (const int error = posix_fallocate(file.get(), 0, sizeof(Layout)); error != 0) {
    unlink(path.c_str());
    throw_system_error(path, "reserve", error);
  }
  void* memory = mmap(nullptr, sizeof(Layout), PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (memory == MAP_FAILED) throw_system_error(path, "map", errno);
  layout_ = new (memory) Layout();
  Header& header = layout_->header;
  header.rank = rank;
  header.world_size = world_size;
  header.pid = getpid();
  header.started_ns = epoch_nanoseconds();
  header.beat_ns = header.started_ns;
  put_text(host_name(), header.host);
  header.magic = kMagic;
}

FlightRecorder::~FlightRecorder() {
  if (layout_ != nullptr) munmap(layout_, sizeof(Layout));
}

void FlightRecorder::begin(std::string_view operation, std::uint64_t sequence,
                           std::string_view what, std::uint64_t bytes) noexcept {
  const std::uint64_t n = layout_->header.n_calls.load(std::memory_order_relaxed);
  Entry& entry = layout_->entries[n % kCalls];
  entry.sequence = sequence;
  entry.begun_ns = epoch_nanoseconds();
  entry.ended_ns.store(0, std::memory_order_relaxed);
  entry.bytes = bytes;
  put_text(operation, entry.operation);
  put_text(what, entry.what);
  layout_->header.n_calls.store(n + 1, std::memory_order_release);
}

void FlightRecorder::end() noexcept {
  const std::uint64_t n = layout_->header.n_calls.load(std::memory_order_relaxed);
  if (n == 0) return;
  layout_->entries[(n - 1) % kCalls].ended_ns.store(epoch_nanoseconds(), std::memory_order_release);
}

void FlightRecorder::beat() noexcept { layout_->header.beat_ns = epoch_nanoseconds(); }

void FlightRecorder::note_state(FlightRecord::State state) noexcept {
  layout_->header.state = static_cast<std::int32_t>(state);
}

void FlightRecorder::note_signal(int signal) noexcept { layout_->header.signal = signal; }

FlightRecord read_flight_record(const std::filesystem::path& path) {
  const std::string what = "a flight record of this version of Thresher";
  const std::vector<std::byte> bytes =
      read_binary_file(path, sizeof(Header) + FlightRecorder::kCalls * sizeof(Entry));
  Header header;
  if (bytes.size() != sizeof(Header) + FlightRecorder::kCalls * sizeof(Entry)) {
    throw DataError(fmt::format("{}: has {} bytes", display_path(path), bytes.size()), what);
  }
  std::memcpy(static_cast<void*>(&header), bytes.data(), sizeof(header));
  if (header.magic != kMagic) {
    throw DataError(fmt::format("{}: does not begin as a flight record", display_path(path)), what);
  }
  FlightRecord record;
  record.rank = header.rank;
  record.world_size = header.world_size;
  record.host = get_text(header.host);
  record.pid = header.pid;
  const std::int32_t state = header.state;
  if (state < 0 || state > 2 || record.rank < 0 || record.rank >= record.world_size) {
    throw DataError(fmt::format("{}: rank {} of {} in state {}", display_path(path), record.rank,
                                record.world_size, state),
                    what);
  }
  record.state = static_cast<FlightRecord::State>(state);
  record.signal = header.signal;
  record.started_ns = header.started_ns;
  record.beat_ns = header.beat_ns;
  const std::uint64_t n_calls = header.n_calls;
  const std::uint64_t n_kept = std::min<std::uint64_t>(n_calls, FlightRecorder::kCalls);
  for (std::uint64_t i = n_calls - n_kept; i < n_calls; ++i) {
    Entry entry;
    std::memcpy(static_cast<void*>(&entry),
                bytes.data() + sizeof(Header) + (i % FlightRecorder::kCalls) * sizeof(Entry),
                sizeof(entry));
    record.calls.push_back({entry.sequence, entry.begun_ns, entry.ended_ns, entry.bytes,
                            get_text(entry.operation), get_text(entry.what)});
  }
  return record;
}

std::string describe_process(const FlightRecord& record) {
  return fmt::format("rank {} of {} (host {}, pid {})", record.rank, record.world_size, record.host,
                     record.pid);
}

std::string describe_last_call(const FlightRecord& record, std::int64_t now_ns) {
  if (record.calls.empty()) return "before its first call";
  const RecordedCall& call = record.calls.back();
  std::string text = fmt::format("{} #{} {}", call.operation, call.sequence, call.what);
  if (call.bytes > 0) text += fmt::format(" ({})", format_bytes(call.bytes));
  if (call.ended_ns == 0) {
    return fmt::format("in {} for {:.1f} s", text,
                       kNanosecond * static_cast<double>(now_ns - call.begun_ns));
  }
  return fmt::format("{:.1f} s after {}", kNanosecond * static_cast<double>(now_ns - call.ended_ns),
                     text);
}

}  // namespace thresher::comm
