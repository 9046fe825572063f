#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace thresher {

struct ChildLimits {
  std::uint64_t memory_bytes = 1ULL << 30;  // beyond what this process has mapped already
  std::uint64_t cpu_seconds = 60;
};

/// Does `work` in a forked copy of this process first, with limited memory and processor time: a
/// rehearsal for a library that a hostile file may crash. Returns when the copy got through; an
/// Error that it threw is thrown here with its text and exit code; a copy that crashed, ran out of
/// memory or time, or threw something else becomes DataError("<where>: reading it ..."). What
/// `work` changes in memory is lost; it must neither start threads nor wait for any. IoError where
/// there can be no child.
void rehearse_in_child(const std::string& where, const std::function<void()>& work,
                       const ChildLimits& limits = {});

/// Memory for what such a child works out: it writes, this process reads. Zeros at first; IoError
/// where there is none.
class SharedBytes {
 public:
  SharedBytes(std::size_t size, const std::string& where);  // size > 0
  ~SharedBytes();
  SharedBytes(const SharedBytes&) = delete;
  SharedBytes& operator=(const SharedBytes&) = delete;
  void* data() const { return data_; }

 private:
  std::size_t size_;
  void* data_;
};

}  // namespace thresher
