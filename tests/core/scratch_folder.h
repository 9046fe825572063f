#pragma once

#include <stdlib.h>

#include <filesystem>
#include <functional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <typeinfo>

#include "core/error.h"

namespace thresher::testing {

/// An empty folder that goes away with the object.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "thresher-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed for " + name);
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// The first line of the `Expected` error that `action` throws; a text that says what else happened
/// if it does not.
template <class Expected>
std::string first_line_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Expected& error) {
    return error.first_line();
  } catch (const std::exception& error) {
    return std::string("another error, ") + typeid(error).name() + ": " + error.what();
  }
  return "no error";
}

}  // namespace thresher::testing
