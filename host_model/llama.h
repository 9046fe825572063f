#pragma once

#include <memory>

#include "core/gguf.h"
#include "host_model/host_model.h"

namespace thresher::host_model {

/// The Llama family (Llama 1 and 2, SmolLM, SmolLM2, TinyLlama, ...) from GGUF with
/// general.architecture = "llama". `info` comes with family and fingerprint filled in. DataError
/// where hyper-parameters are out of range, tensors are missing or of the wrong shape, or the file
/// asks for something that this family does not compute here.
std::unique_ptr<HostModel> load_llama(const GgufFile& file, HostModelInfo info);

}  // namespace thresher::host_model
