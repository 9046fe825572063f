#include "features/firing_log.h"

#include <algorithm>
#include <array>

namespace thresher::features {
namespace {

constexpr std::size_t kBufferBytes = 8 << 20;

template <class T>
void append(std::vector<std::byte>& bytes, std::span<const T> values) {
  const auto raw = std::as_bytes(values);
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

}  // namespace

std::span<const Firing> ContextFirings::of_latent(std::int32_t latent) const {
  const auto range =
      std::ranges::equal_range(firings, latent, std::ranges::less{}, &Firing::latent);
  return {range.begin(), range.end()};
}

FiringLogWriter::FiringLogWriter(const std::filesystem::path& path)
    : path_(path), file_(create_file(path)) {}

void FiringLogWriter::add(const ContextFirings& context) {
  const std::array<std::int64_t, 3> head = {context.context,
                                            static_cast<std::int64_t>(context.token_ids.size()),
                                            static_cast<std::int64_t>(context.firings.size())};
  append(buffer_, std::span<const std::int64_t>(head));
  append(buffer_, std::span<const std::int32_t>(context.token_ids));
  append(buffer_, std::span<const std::int32_t>(context.documents));
  append(buffer_, std::span<const Firing>(context.firings));
  if (buffer_.size() >= kBufferBytes) finish();
}

void FiringLogWriter::finish() {
  write_all(file_, buffer_, path_);
  buffer_.clear();
}

FiringLogReader::FiringLogReader(const std::filesystem::path& path)
    : path_(path), file_(open_for_reading(path)), size_(thresher::file_size(path)) {}

template <class T>
void FiringLogReader::read(std::span<T> out) {
  read_at(file_, offset_, std::as_writable_bytes(out), path_);
  offset_ += out.size_bytes();
}

std::optional<ContextFirings> FiringLogReader::next() {
  if (offset_ == size_) return std::nullopt;
  std::array<std::int64_t, 3> head;
  read(std::span<std::int64_t>(head));
  ContextFirings out;
  out.context = head[0];
  out.token_ids.resize(static_cast<std::size_t>(head[1]));
  out.documents.resize(out.token_ids.size());
  out.firings.resize(static_cast<std::size_t>(head[2]));
  read(std::span(out.token_ids));
  read(std::span(out.documents));
  read(std::span(out.firings));
  return out;
}

}  // namespace thresher::features
