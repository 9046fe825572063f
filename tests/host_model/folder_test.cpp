#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/safetensors.h"
#include "host_model/host_model.h"
#include "tests/host_model/tiny_folder.h"

namespace thresher::host_model {
namespace {

using testing::batch_of;
using testing::some_ids;
using testing::TinyFolder;

/// What loading says, first line without the folder's name.
std::string verdict(const TinyFolder& files) {
  const std::string start = files.folder.path().string();
  try {
    files.load();
  } catch (const Error& error) {
    const std::string line = error.first_line();
    return line.starts_with(start) ? line.substr(start.size()) : line;
  }
  return "accepted";
}

std::string with(const std::string& key, Json value, const std::string& family = "llama") {
  TinyFolder files(family);
  if (family == "qwen2") files.add_qkv_biases();
  files.config[key] = std::move(value);
  return verdict(files);
}

at::Tensor run(HostModel& model, std::int64_t tokens = 8) {
  ForwardRequest request;
  request.want_final = true;
  return model.forward(batch_of(some_ids(2, tokens, 20)), request);
}

TEST(Folder, FillsInWhatIsKnownAboutTheModel) {
  const TinyFolder files;
  const auto model = files.load();
  const HostModelInfo& info = model->info();
  EXPECT_EQ(info.family, "llama");
  EXPECT_EQ(info.n_blocks, 2);
  EXPECT_EQ(info.d_model, 16);
  EXPECT_EQ(info.n_vocabulary, 20);
  EXPECT_EQ(info.max_context_tokens, 64);
  const std::int64_t block = 2 * 16 + (24 + 12 + 12) * 16 + 16 * 24 + 3 * 24 * 16;
  EXPECT_EQ(info.parameter_bytes, 4 * (2 * 20 * 16 + 16 + 2 * block));
  EXPECT_EQ(2 * files.load("bfloat16")->info().parameter_bytes, info.parameter_bytes);
}

TEST(Folder, HasAFingerprintOfConfigurationAndWeights) {
  TinyFolder files;
  const std::string first = files.load()->info().fingerprint;
  EXPECT_EQ(first.size(), 64U);
  EXPECT_EQ(files.load()->info().fingerprint, first);
  files.config["rms_norm_eps"] = 1e-6;
  const std::string second = files.load()->info().fingerprint;
  EXPECT_NE(second, first);
  files.values.at("model.norm.weight").second[3] += 1;
  EXPECT_NE(files.load()->info().fingerprint, second);
}

TEST(Folder, GivesTheBitsOfTheSameWeightsInOneFileOrInShards) {
  const TinyFolder files;
  const at::Tensor expected = run(*files.load());
  const std::filesystem::path folder = files.folder.path();
  Json weight_map = Json::object();
  for (const bool is_second : {false, true}) {
    const std::string shard = is_second ? "model-2.safetensors" : "model-1.safetensors";
    std::vector<SafetensorsTensor> tensors;
    for (const auto& [name, tensor] : files.values) {
      if (name.ends_with("k_proj.weight") != is_second) continue;
      tensors.push_back({name, "F32", tensor.first, std::as_bytes(std::span(tensor.second))});
      weight_map[name] = shard;
    }
    write_safetensors(folder / shard, tensors);
  }
  std::filesystem::remove(folder / "model.safetensors");
  write_file_atomically(folder / "model.safetensors.index.json",
                        Json::object({{"weight_map", weight_map}}).dump());
  const auto model = load_host_model({.weights = folder.string()});
  EXPECT_TRUE(at::equal(run(*model), expected));
}

TEST(Folder, ReadsHalvesAndRoundsToBfloat16) {
  const TinyFolder files;
  files.write();
  std::vector<std::vector<at::BFloat16>> stored;
  std::vector<SafetensorsTensor> tensors;
  for (const auto& [name, tensor] : files.values) {
    stored.emplace_back(tensor.second.begin(), tensor.second.end());
    tensors.push_back({name, "BF16", tensor.first, {}});
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].bytes = std::as_bytes(std::span(stored[i]));
  }
  const auto rounded_at_load =
      load_host_model({.weights = files.folder.path().string(), .dtype = "bfloat16"});
  const at::Tensor expected = run(*rounded_at_load);
  write_safetensors(files.folder / "model.safetensors", tensors);
  const auto stored_rounded =
      load_host_model({.weights = files.folder.path().string(), .dtype = "bfloat16"});
  EXPECT_TRUE(at::equal(run(*stored_rounded), expected));
  const auto widened = load_host_model({.weights = files.folder.path().string()});
  EXPECT_TRUE(at::equal(widened->unembedding(), stored_rounded->unembedding()));
}

TEST(Folder, TiesEmbeddingsWhereItIsToldTo) {
  TinyFolder files;
  const std::int64_t both = files.load()->info().parameter_bytes;
  const std::int64_t one = both - 4 * 20 * 16;
  files.config["tie_word_embeddings"] = true;
  EXPECT_EQ(files.load()->info().parameter_bytes, both) << "the file holds another matrix";
  files.values.at("lm_head.weight") = files.values.at("model.embed_tokens.weight");
  EXPECT_EQ(files.load()->info().parameter_bytes, one);
  files.values.erase("lm_head.weight");
  EXPECT_EQ(files.load()->info().parameter_bytes, one);
  files.config["tie_word_embeddings"] = false;
  EXPECT_EQ(verdict(files), ": tensor \"lm_head.weight\" is missing");
}

TEST(Folder, NamesTheFamiliesThatAreKnown) {
  const TinyFolder files("gemma3_text");
  try {
    files.load();
    FAIL() << "expected ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.what(), files.folder.path().string() +
                                ": host family \"gemma3_text\" is not known\n"
                                "  expected: one of: llama, mistral, qwen2");
  }
  EXPECT_EQ(with("model_type", nullptr), "/config.json: model_type is missing");
}

TEST(Folder, RefusesHyperParametersOutOfRangeOrOfAnotherType) {
  EXPECT_EQ(with("torch_dtype", "bfloat16"), "accepted");
  EXPECT_EQ(with("num_hidden_layers", 0), "/config.json: num_hidden_layers = 0");
  EXPECT_EQ(with("hidden_size", 1 << 20), "/config.json: hidden_size = 1048576");
  EXPECT_EQ(with("hidden_size", "16"), "/config.json: hidden_size is not an integer");
  EXPECT_EQ(with("hidden_size", 16.5), "/config.json: hidden_size is not an integer");
  EXPECT_EQ(with("vocab_size", nullptr), "/config.json: vocab_size is missing");
  EXPECT_EQ(with("head_dim", 5), "/config.json: heads of width 5");
  EXPECT_EQ(with("num_key_value_heads", 3), "/config.json: 4 query heads and 3 key-value heads");
  EXPECT_EQ(with("rms_norm_eps", 0), "/config.json: rms_norm_eps = 0");
  EXPECT_EQ(with("rope_theta", 0.5), "/config.json: rope_theta = 0.5");
  EXPECT_EQ(with("tie_word_embeddings", 1),
            "/config.json: tie_word_embeddings is not true or false");
}

TEST(Folder, RefusesWhatItWouldComputeWrongly) {
  EXPECT_EQ(with("hidden_act", "gelu"), "/config.json: hidden_act = \"gelu\"");
  EXPECT_EQ(with("quantization_config", Json::object()),
            "/config.json: quantization_config is set");
  EXPECT_EQ(with("rope_scaling", Json::object({{"type", "yarn"}, {"factor", 2.0}})),
            "/config.json: rope_scaling.rope_type = \"yarn\"");
  EXPECT_EQ(with("rope_parameters", Json::object({{"rope_type", "default"}, {"rope_theta", 1e4}})),
            "accepted");
  EXPECT_EQ(with("rope_scaling", Json::object({{"type", "linear"}})),
            "/config.json: rope_scaling.factor is missing");
  EXPECT_EQ(with("rope_scaling", Json::object({{"rope_type", "llama3"},
                                               {"factor", 8.0},
                                               {"low_freq_factor", 4.0},
                                               {"high_freq_factor", 4.0},
                                               {"original_max_position_embeddings", 32}})),
            "/config.json: rope_scaling.high_freq_factor = 4, low_freq_factor = 4");
  EXPECT_EQ(with("rope_parameters", Json::array()),
            "/config.json: rope_parameters is not an object");
  EXPECT_EQ(with("partial_rotary_factor", 0.5), "/config.json: partial_rotary_factor = 0.5");
}

TEST(Folder, RefusesTwoDescriptionsOfRotaryPositionsThatDiffer) {
  const Json linear = Json::object({{"rope_type", "linear"}, {"factor", 4.0}});
  const auto with_both = [&](Json scaling) {
    TinyFolder files;
    files.config["rope_parameters"] = linear;
    files.config["rope_scaling"] = std::move(scaling);
    return verdict(files);
  };
  EXPECT_EQ(with_both(Json::object({{"rope_type", "linear"}, {"factor", 2.0}})),
            "/config.json: rope_parameters and rope_scaling differ: factor: 4.0, 2.0");
  EXPECT_EQ(with_both(Json::object({{"rope_type", "dynamic"}, {"factor", 4.0}})),
            "/config.json: rope_parameters and rope_scaling differ: rope_type: \"linear\", "
            "\"dynamic\"");
  EXPECT_EQ(with_both(Json::array()), "/config.json: rope_scaling is not an object");
  EXPECT_EQ(with_both(Json::object({{"factor", 4.0}, {"rope_type", "linear"}})), "accepted");
  EXPECT_EQ(with_both(nullptr), "accepted");
}

TEST(Folder, NamesTensorsThatAreMissingOfAnotherShapeOrLeftOver) {
  TinyFolder files;
  files.values.erase("model.layers.1.mlp.up_proj.weight");
  EXPECT_EQ(verdict(files), ": tensor \"model.layers.1.mlp.up_proj.weight\" is missing");
  files.add("model.layers.1.mlp.up_proj.weight", {16, 24});
  EXPECT_EQ(verdict(files),
            "/model.safetensors: tensor \"model.layers.1.mlp.up_proj.weight\" has shape [16, 24]");
  files.add("model.layers.1.mlp.up_proj.weight", {24, 16});
  files.add("model.layers.0.self_attn.rotary_emb.inv_freq", {3});
  EXPECT_EQ(verdict(files), "accepted");
  files.add("model.layers.0.self_attn.q_norm.weight", {6});
  EXPECT_EQ(verdict(files),
            "/model.safetensors: tensor \"model.layers.0.self_attn.q_norm.weight\" is not part of "
            "the llama family as computed here");
}

TEST(Folder, RefusesAVocabularyTooLargeForItsFileBeforeTakingMemory) {
  EXPECT_EQ(with("vocab_size", 4'000'000),
            "/model.safetensors: tensor \"model.embed_tokens.weight\" has shape [20, 16]");
}

TEST(Folder, RefusesTensorsThatAreNoFloats) {
  const TinyFolder files;
  files.write();
  const std::vector<std::int32_t> integers(20 * 16);
  write_safetensors(
      files.folder / "model.safetensors",
      std::vector<SafetensorsTensor>{
          {"model.embed_tokens.weight", "I32", {20, 16}, std::as_bytes(std::span(integers))}});
  EXPECT_EQ(testing::first_line_of<DataError>(
                [&] { load_host_model({.weights = files.folder.path().string()}); }),
            (files.folder / "model.safetensors").string() +
                ": tensor \"model.embed_tokens.weight\" is I32");
}

TEST(Folder, SaysWhatIsMissingInAFolderThatIsNoModel) {
  const testing::ScratchFolder folder;
  const auto problem = [&] {
    return testing::first_line_of<ConfigError>(
        [&] { load_host_model({.weights = folder.path().string()}); });
  };
  EXPECT_EQ(problem(), folder.path().string() + ": there is no config.json");
  write_file_atomically(folder / "config.json", std::string(R"({"model_type":"llama"})"));
  EXPECT_EQ(problem(), folder.path().string() +
                           ": there is neither model.safetensors nor model.safetensors.index.json");
}

TEST(Folder, GivesLlamaTheBiasesThatItsConfigurationNames) {
  TinyFolder files;
  files.config["attention_bias"] = true;
  files.add_qkv_biases();
  EXPECT_EQ(verdict(files), ": tensor \"model.layers.0.self_attn.o_proj.bias\" is missing");
  for (const char* block : {"0", "1"}) {
    files.add(fmt::format("model.layers.{}.self_attn.o_proj.bias", block), {16});
  }
  EXPECT_EQ(verdict(files), "accepted");
  files.config["attention_bias"] = false;
  EXPECT_EQ(verdict(files),
            "/model.safetensors: tensor \"model.layers.0.self_attn.k_proj.bias\" is not part of "
            "the llama family as computed here");
}

/// Whether token 6 of a context sees token 0.
bool sees_far_back(const TinyFolder& files) {
  const auto model = files.load();
  const auto last_row = [&](std::int64_t first_id) {
    at::Tensor ids = some_ids(1, 7, 20);
    ids[0][0] = first_id;
    ForwardRequest request;
    request.want_final = true;
    return model->forward(batch_of(ids), request)[6];
  };
  return !at::equal(last_row(1), last_row(2));
}

TEST(Folder, GivesMistralTheWindowOfItsConfiguration) {
  TinyFolder files("mistral");
  EXPECT_TRUE(sees_far_back(files)) << "4096 tokens if nothing is said";
  files.config["sliding_window"] = 3;  // two blocks of 3 reach 4 tokens back
  EXPECT_FALSE(sees_far_back(files));
  files.config["sliding_window"] = nullptr;
  EXPECT_TRUE(sees_far_back(files));
  files.config["sliding_window"] = 0;
  EXPECT_EQ(verdict(files), "/config.json: sliding_window = 0");
}

TEST(Folder, GivesQwen2AWindowFromSomeBlockOn) {
  TinyFolder files("qwen2");
  EXPECT_EQ(verdict(files), ": tensor \"model.layers.0.self_attn.q_proj.bias\" is missing");
  files.add_qkv_biases();
  files.config["sliding_window"] = 3;
  files.config["max_window_layers"] = 0;
  EXPECT_TRUE(sees_far_back(files)) << "use_sliding_window is not set";
  files.config["use_sliding_window"] = true;
  EXPECT_FALSE(sees_far_back(files));
  files.config["max_window_layers"] = 1;
  EXPECT_TRUE(sees_far_back(files));
  files.config["layer_types"] = Json::array({"sliding_attention", "sliding_attention"});
  EXPECT_FALSE(sees_far_back(files));
  files.config["layer_types"] = Json::array({"sliding_attention", "full_attention"});
  EXPECT_TRUE(sees_far_back(files));
  files.config["layer_types"] = Json::array({"sliding_attention"});
  EXPECT_EQ(verdict(files), "/config.json: layer_types does not name 2 layers");
  files.config["layer_types"] = Json::array({"sliding_attention", "linear_attention"});
  EXPECT_EQ(verdict(files), "/config.json: layer_types holds \"linear_attention\"");
}

}  // namespace
}  // namespace thresher::host_model
