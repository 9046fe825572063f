#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace thresher::corpus {

/// The bytes of a text file from front to back, unpacked if its first bytes are those of gzip or
/// zstd (several members or frames one after another are one text). Memory: 0.5 MiB, and for zstd
/// its window of at most 128 MiB.
class TextStream {
 public:
  /// A packed file that has given more than 16 MiB may not have given more than `max_expansion`
  /// times the bytes read of it. `shown` is what messages call the file; empty: its path.
  TextStream(const std::filesystem::path& path, double max_expansion, std::string shown = {});
  ~TextStream();
  TextStream(TextStream&&) noexcept;

  /// Fills `out` from the front; fewer bytes than that only at the end, then 0. DataError with the
  /// packed file's byte offset for data that are damaged, end too early, go on after their end, or
  /// expand too much.
  std::size_t read(std::span<char> out);
  /// Of the file, as it is on disk.
  std::uint64_t bytes_on_disk() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace thresher::corpus
