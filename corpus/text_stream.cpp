#include "corpus/text_stream.h"

#include <fmt/format.h>
#define ZLIB_CONST
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/files.h"

namespace thresher::corpus {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kInputBytes = 256 * 1024;
constexpr std::uint64_t kFreeBytes = 16U << 20;
constexpr int kMaxWindowLog = 27;

/// The file from front to back through a buffer.
class FileInput {
 public:
  FileInput(const fs::path& path, std::string shown)
      : path_(path),
        shown_(shown.empty() ? path.string() : std::move(shown)),
        file_(open_for_reading(path)),
        size_(thresher::file_size(path)) {
    buffer_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(kInputBytes, size_)));
  }
  /// What has been read and not yet used; more is read when there is none. Empty at the end.
  std::string_view peek() {
    if (used_ == filled_ && offset_ < size_) {
      const std::uint64_t wanted = std::min<std::uint64_t>(buffer_.size(), size_ - offset_);
      read_at(file_, offset_, std::as_writable_bytes(std::span(buffer_).first(wanted)), path_);
      offset_ += wanted;
      filled_ = static_cast<std::size_t>(wanted);
      used_ = 0;
    }
    return {buffer_.data() + used_, filled_ - used_};
  }
  void use(std::size_t bytes) { used_ += bytes; }
  /// Of the next byte that peek gives.
  std::uint64_t position() const { return offset_ - (filled_ - used_); }
  std::uint64_t size() const { return size_; }
  const std::string& shown() const { return shown_; }

 private:
  fs::path path_;
  std::string shown_;
  FileDescriptor file_;
  std::uint64_t size_;
  std::vector<char> buffer_;
  std::size_t filled_ = 0, used_ = 0;
  std::uint64_t offset_ = 0;
};

/// How the bytes of the file become those of the text.
class Unpacker {
 public:
  virtual ~Unpacker() = default;
  /// Writes to the front of `out`, which is not empty; 0 only at the end.
  virtual std::size_t read(FileInput& input, std::span<char> out) = 0;
};

class PlainUnpacker : public Unpacker {
 public:
  std::size_t read(FileInput& input, std::span<char> out) override {
    const std::string_view bytes = input.peek();
    const std::size_t size = std::min(bytes.size(), out.size());
    std::copy_n(bytes.begin(), size, out.begin());
    input.use(size);
    return size;
  }
};

[[noreturn]] void fail(const FileInput& input, const char* format, std::string_view reason) {
  throw DataError(fmt::format("{}: {} data damaged at byte {}: {}", input.shown(), format,
                              input.position(), reason),
                  "the whole file as it was packed", "fetch or pack the file again");
}

[[noreturn]] void fail_short(const FileInput& input, const char* format) {
  throw DataError(fmt::format("{}: the file ends at byte {} within its {} data", input.shown(),
                              input.size(), format),
                  "the whole file as it was packed", "fetch or pack the file again");
}

class GzipUnpacker : public Unpacker {
 public:
  GzipUnpacker() {
    // 16: a gzip header and trailer, whose checksum zlib compares.
    THRESHER_CHECK(inflateInit2(&stream_, 15 + 16) == Z_OK, "zlib is out of memory");
  }
  ~GzipUnpacker() override { inflateEnd(&stream_); }

  std::size_t read(FileInput& input, std::span<char> out) override {
    while (true) {
      const std::string_view bytes = input.peek();
      if (bytes.empty()) {
        if (!is_between_members_) fail_short(input, "gzip");
        return 0;
      }
      if (is_between_members_ && !begin_member(input, bytes)) continue;
      stream_.next_in = reinterpret_cast<const Bytef*>(bytes.data());
      stream_.avail_in = static_cast<uInt>(bytes.size());
      stream_.next_out = reinterpret_cast<Bytef*>(out.data());
      stream_.avail_out = static_cast<uInt>(std::min<std::size_t>(out.size(), 1U << 30));
      const uInt room = stream_.avail_out;
      const int result = inflate(&stream_, Z_NO_FLUSH);
      input.use(bytes.size() - stream_.avail_in);
      if (result == Z_STREAM_END) {
        is_between_members_ = true;
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        fail(input, "gzip", stream_.msg != nullptr ? stream_.msg : "not gzip");
      }
      if (const std::size_t size = room - stream_.avail_out; size > 0) return size;
    }
  }

 private:
  /// False for a byte of the zeros that tapes and some tools leave at the end.
  bool begin_member(FileInput& input, std::string_view bytes) {
    if (bytes.front() == '\0' && input.position() > 0) {
      input.use(1);
      return false;
    }
    inflateReset(&stream_);
    is_between_members_ = false;
    return true;
  }

  z_stream stream_{};
  bool is_between_members_ = true;
};

class ZstdUnpacker : public Unpacker {
 public:
  ZstdUnpacker() : stream_(ZSTD_createDStream()) {
    THRESHER_CHECK(stream_ != nullptr, "zstd is out of memory");
    ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, kMaxWindowLog);
  }
  ~ZstdUnpacker() override { ZSTD_freeDStream(stream_); }

  std::size_t read(FileInput& input, std::span<char> out) override {
    ZSTD_outBuffer target{out.data(), out.size(), 0};
    while (target.pos == 0) {
      const std::string_view bytes = input.peek();
      ZSTD_inBuffer source{bytes.data(), bytes.size(), 0};
      if (bytes.empty() && !has_more_inside_) {
        if (!is_between_frames_) fail_short(input, "zstd");
        return 0;
      }
      const std::size_t result = ZSTD_decompressStream(stream_, &target, &source);
      input.use(source.pos);
      if (ZSTD_isError(result) != 0) fail(input, "zstd", ZSTD_getErrorName(result));
      is_between_frames_ = result == 0;
      // A full output may leave more inside the decoder, even after the last input.
      has_more_inside_ = target.pos == target.size && result != 0;
      if (bytes.empty() && target.pos == 0) has_more_inside_ = false;
    }
    return target.pos;
  }

 private:
  ZSTD_DStream* stream_;
  bool is_between_frames_ = true, has_more_inside_ = false;
};

std::unique_ptr<Unpacker> unpacker_of(std::string_view first_bytes) {
  if (first_bytes.starts_with("\x1F\x8B")) return std::make_unique<GzipUnpacker>();
  if (first_bytes.starts_with("\x28\xB5\x2F\xFD")) return std::make_unique<ZstdUnpacker>();
  return nullptr;
}

}  // namespace

struct TextStream::State {
  FileInput input;
  std::unique_ptr<Unpacker> unpacker;
  double max_expansion = 0;  // 0: not packed
  std::uint64_t n_given = 0;
};

TextStream::TextStream(const fs::path& path, double max_expansion, std::string shown)
    : state_(new State{FileInput(path, std::move(shown)), nullptr, 0, 0}) {
  state_->unpacker = unpacker_of(state_->input.peek());
  if (state_->unpacker) {
    state_->max_expansion = max_expansion;
  } else {
    state_->unpacker = std::make_unique<PlainUnpacker>();
  }
}
TextStream::~TextStream() = default;
TextStream::TextStream(TextStream&&) noexcept = default;

std::uint64_t TextStream::bytes_on_disk() const { return state_->input.size(); }

std::size_t TextStream::read(std::span<char> out) {
  State& state = *state_;
  std::size_t filled = 0;
  while (filled < out.size()) {
    const std::size_t size = state.unpacker->read(state.input, out.subspan(filled));
    if (size == 0) break;
    filled += size;
    state.n_given += size;
    const double limit = state.max_expansion * static_cast<double>(state.input.position());
    if (state.max_expansion > 0 && state.n_given > kFreeBytes &&
        static_cast<double>(state.n_given) > limit) {
      throw DataError(fmt::format("{}: its first {} bytes unpack to more than {} times as many",
                                  state.input.shown(), state.input.position(), state.max_expansion),
                      "text, which packs to a tenth or so",
                      "corpus.max_expansion raises the limit if this is no attack");
    }
  }
  return filled;
}

}  // namespace thresher::corpus
