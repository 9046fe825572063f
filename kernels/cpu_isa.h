#pragma once

#include <string_view>

namespace thresher::kernels {

/// Instruction sets that the encoder product is written for. The first two give the same bits
/// (fused multiply-add); portable code rounds twice, so its values differ within tolerance.
enum class CpuIsa { kPortable, kAvx2, kAvx512 };

/// The best this processor has, unless the environment variable THRESHER_CPU_ISA names a lower one
/// (portable, avx2, avx512). ConfigError if the name is unknown or the processor lacks it.
CpuIsa cpu_isa();
bool supports(CpuIsa isa);
/// Products of bytes four at a time (AVX-512 VNNI).
bool has_byte_products();
std::string_view to_string(CpuIsa isa);

}  // namespace thresher::kernels
