#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/files.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "tests/core/scratch_folder.h"
#include "tests/host_model/tiny_llama.h"

namespace thresher::testing {

/// A model folder as transformers writes it: two blocks, d_model 16, four heads of width 6, two of
/// keys and values, d_mlp 24, 20 tokens. Configuration and tensors can be changed before `write`.
struct TinyFolder {
  explicit TinyFolder(const std::string& model_type = "llama") {
    config = Json::object({{"model_type", model_type},
                           {"num_hidden_layers", 2},
                           {"hidden_size", 16},
                           {"num_attention_heads", 4},
                           {"num_key_value_heads", 2},
                           {"head_dim", 6},
                           {"intermediate_size", 24},
                           {"vocab_size", 20},
                           {"max_position_embeddings", 64},
                           {"rms_norm_eps", 1e-5},
                           {"hidden_act", "silu"},
                           {"torch_dtype", "float32"}});
    add("model.embed_tokens.weight", {20, 16});
    for (int block = 0; block < 2; ++block) {
      const auto name = [&](const char* part) {
        return fmt::format("model.layers.{}.{}.weight", block, part);
      };
      add(name("input_layernorm"), {16}, 0.2F, 1.0F);
      add(name("self_attn.q_proj"), {24, 16});
      add(name("self_attn.k_proj"), {12, 16});
      add(name("self_attn.v_proj"), {12, 16});
      add(name("self_attn.o_proj"), {16, 24});
      add(name("post_attention_layernorm"), {16}, 0.2F, 1.0F);
      add(name("mlp.gate_proj"), {24, 16});
      add(name("mlp.up_proj"), {24, 16});
      add(name("mlp.down_proj"), {16, 24});
    }
    add("model.norm.weight", {16}, 0.2F, 1.0F);
    add("lm_head.weight", {20, 16});
  }

  void add(const std::string& name, std::vector<std::int64_t> shape, float spread = 0.4F,
           float centre = 0) {
    std::int64_t count = 1;
    for (const std::int64_t size : shape) count *= size;
    values[name] = {std::move(shape), random_values(count, spread, centre, state)};
  }

  /// Queries, keys and values of every block.
  void add_qkv_biases() {
    for (int block = 0; block < 2; ++block) {
      for (const auto& [part, rows] : {std::pair{"q", 24}, {"k", 12}, {"v", 12}}) {
        add(fmt::format("model.layers.{}.self_attn.{}_proj.bias", block, part), {rows});
      }
    }
  }

  void write() const {
    write_file_atomically(folder / "config.json", config.dump(2));
    std::vector<SafetensorsTensor> tensors;
    for (const auto& [name, tensor] : values) {
      tensors.push_back({name, "F32", tensor.first, std::as_bytes(std::span(tensor.second))});
    }
    write_safetensors(folder / "model.safetensors", tensors);
  }

  std::unique_ptr<host_model::HostModel> load(const std::string& dtype = "float32") const {
    write();
    return host_model::load_host_model({.weights = folder.path().string(), .dtype = dtype});
  }

  ScratchFolder folder;
  Json config;
  std::map<std::string, std::pair<std::vector<std::int64_t>, std::vector<float>>> values;
  std::uint64_t state = 5;
};

}  // namespace thresher::testing
