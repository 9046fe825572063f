#pragma once

#include <memory>

#include "core/gguf.h"
#include "host_model/hf_folder.h"
#include "host_model/host_model.h"
#include "host_model/transformer_loading.h"

namespace thresher::host_model {

/// Loaders of one family each; registry.cpp lists them. `request.info` comes with family and
/// fingerprint filled in. DataError where hyper-parameters are out of range, tensors are missing or
/// of the wrong shape, or the file asks for something that the family does not compute here.

/// Llama 1 to 3, SmolLM, SmolLM2, TinyLlama and others; biases where the file has them; Mistral's
/// GGUF files call themselves llama too.
std::unique_ptr<HostModel> load_llama_gguf(const GgufFile& file, const LoadRequest& request);
std::unique_ptr<HostModel> load_llama_folder(const HfFolder& folder, const LoadRequest& request);

/// Mistral: Llama with a window of attention.
std::unique_ptr<HostModel> load_mistral_folder(const HfFolder& folder, const LoadRequest& request);

/// Qwen2: Llama with biases on queries, keys and values, and a window from some block on.
std::unique_ptr<HostModel> load_qwen2_gguf(const GgufFile& file, const LoadRequest& request);
std::unique_ptr<HostModel> load_qwen2_folder(const HfFolder& folder, const LoadRequest& request);

}  // namespace thresher::host_model
