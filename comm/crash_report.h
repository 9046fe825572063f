#pragma once

#include <string>

namespace thresher::comm {

class FlightRecorder;

/// While it lives a crash is told for `identity` ("rank 1 of 2 (host n1, pid 4711)") and noted in
/// `recorder` (install_crash_report).
class CrashNotice {
 public:
  CrashNotice(const std::string& identity, FlightRecorder& recorder);
  ~CrashNotice();
  CrashNotice(const CrashNotice&) = delete;
  CrashNotice& operator=(const CrashNotice&) = delete;

 private:
  int slot_ =
      -1;  // none was free: the crash of one of very many thread ranks is told for the others
};

}  // namespace thresher::comm
