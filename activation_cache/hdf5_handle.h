#pragma once

#include <hdf5.h>

#include <string>
#include <string_view>

namespace thresher::activation_cache {

/// Entering the HDF5 library: one thread at a time (whatever its build says), no messages on
/// stderr, no plug-ins.
class Hdf5Scope {
 public:
  Hdf5Scope();
  ~Hdf5Scope();
  Hdf5Scope(const Hdf5Scope&) = delete;
  Hdf5Scope& operator=(const Hdf5Scope&) = delete;
};

/// Reports the library's error stack: IoError when it was writing or the system refused, DataError
/// when the content of a file that was being read is wrong.
enum class Hdf5Task { kWriting, kReading };
[[noreturn]] void throw_hdf5_error(Hdf5Task task, const std::string& path, std::string_view what);

/// An owned HDF5 identifier.
class Hdf5Handle {
 public:
  using CloseFunction = herr_t (*)(hid_t);
  /// Throws if `id` is an error value.
  Hdf5Handle(hid_t id, CloseFunction close_function, Hdf5Task task, const std::string& path,
             std::string_view what)
      : id_(id), close_(close_function) {
    if (id_ < 0) throw_hdf5_error(task, path, what);
  }
  ~Hdf5Handle() {
    if (id_ >= 0) close_(id_);
  }
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(other.id_), close_(other.close_) { other.id_ = -1; }
  Hdf5Handle& operator=(Hdf5Handle&&) = delete;
  hid_t get() const { return id_; }
  /// Closes now and says whether that worked; a file's last bytes are written here.
  bool close() {
    const hid_t id = id_;
    id_ = -1;
    return close_(id) >= 0;
  }

 private:
  hid_t id_;
  CloseFunction close_;
};

}  // namespace thresher::activation_cache
