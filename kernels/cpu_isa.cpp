#include "kernels/cpu_isa.h"

#include <fmt/format.h>

#include <array>
#include <cstdlib>

#include "core/error.h"

namespace thresher::kernels {
namespace {

constexpr const char* kVariable = "THRESHER_CPU_ISA";
constexpr std::array kBestFirst{CpuIsa::kAvx512, CpuIsa::kAvx2, CpuIsa::kPortable};

CpuIsa choose() {
  const char* wanted = std::getenv(kVariable);
  for (const CpuIsa isa : kBestFirst) {
    if (wanted == nullptr ? supports(isa) : wanted == to_string(isa)) {
      if (supports(isa)) return isa;
      throw ConfigError(fmt::format("{}={}: this processor does not have it", kVariable, wanted),
                        "portable, or an instruction set of this processor",
                        "unset the variable to use the best there is");
    }
  }
  throw ConfigError(fmt::format("{}={}: unknown instruction set", kVariable, wanted),
                    "portable, avx2 or avx512");
}

}  // namespace

CpuIsa cpu_isa() {
  static const CpuIsa isa = choose();
  return isa;
}

bool supports(CpuIsa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case CpuIsa::kAvx512:
      return __builtin_cpu_supports("avx512f") != 0;
    case CpuIsa::kAvx2:
      return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    case CpuIsa::kPortable:
      return true;
  }
#endif
  return isa == CpuIsa::kPortable;
}

bool has_byte_products() {
#if defined(__x86_64__)
  return supports(CpuIsa::kAvx512) && __builtin_cpu_supports("avx512vnni") != 0 &&
         __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0;
#else
  return false;
#endif
}

std::string_view to_string(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kPortable:
      return "portable";
  }
  return "";
}

}  // namespace thresher::kernels
