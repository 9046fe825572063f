#include "sae/saelens_format.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "tests/sae/sae_testing.h"

namespace thresher::sae {
namespace {

namespace fs = std::filesystem;
using testing::first_line_of;
using testing::normal_values;

constexpr std::int64_t kDim = 5;
constexpr std::int64_t kLatents = 8;

class SaelensFormatTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::temp_directory_path() /
            ("thresher_saelens_" + std::to_string(::getpid()) + "_" + info->name());
    fs::create_directories(root_);
    folder_ = root_ / "topk";
  }
  void TearDown() override { fs::remove_all(root_); }

  void write_config(const std::string& text) { write_file_atomically(folder_ / "cfg.json", text); }
  std::string config_text() { return read_text_file(folder_ / "cfg.json"); }
  void replace_in_config(const std::string& from, const std::string& to) {
    std::string text = config_text();
    const auto at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from << " not in " << text;
    write_config(text.replace(at, from.size(), to));
  }
  std::string load_error() {
    return first_line_of([&] { load_saelens(folder_); });
  }
  std::string config_path() { return (folder_ / "cfg.json").string(); }
  std::string weights_path() { return (folder_ / "sae_weights.safetensors").string(); }

  fs::path root_, folder_;
};

InferenceSae make_sae(const std::string& architecture = "topk") {
  InferenceSae sae;
  sae.architecture = architecture;
  sae.apply_b_dec_to_input = architecture == "topk";
  sae.k = architecture == "topk" ? 3 : 0;
  sae.W_dec = normal_values({kLatents, kDim}, 1);
  sae.W_dec = (sae.W_dec / sae.W_dec.norm(2, 1, true)).contiguous();
  sae.W_enc = normal_values({kDim, kLatents}, 2);
  sae.b_enc = normal_values({kLatents}, 3);
  sae.b_dec = normal_values({kDim}, 4);
  if (architecture == "jumprelu") sae.threshold = normal_values({kLatents}, 6);
  sae.metadata["hook_name"] = "blocks.0.hook_resid_post";
  return sae;
}

TEST_F(SaelensFormatTest, WritesTheKeysOfSaeLensInItsOrder) {
  EXPECT_EQ(saelens_config(make_sae("topk")).dump(),
            R"({"d_in":5,"d_sae":8,"dtype":"float32","device":"cpu","apply_b_dec_to_input":true,)"
            R"("normalize_activations":"none","reshape_activations":"none",)"
            R"("metadata":{"hook_name":"blocks.0.hook_resid_post","sae_lens_version":"6.54.12",)"
            R"("sae_lens_training_version":null},"k":3,"rescale_acts_by_decoder_norm":false,)"
            R"("architecture":"topk"})");
  EXPECT_EQ(saelens_config(make_sae("standard")).dump(),
            R"({"d_in":5,"d_sae":8,"dtype":"float32","device":"cpu","apply_b_dec_to_input":false,)"
            R"("normalize_activations":"none","reshape_activations":"none",)"
            R"("metadata":{"hook_name":"blocks.0.hook_resid_post","sae_lens_version":"6.54.12",)"
            R"("sae_lens_training_version":null},"architecture":"standard"})");
  EXPECT_EQ(saelens_config(make_sae("jumprelu")).dump(),
            R"({"d_in":5,"d_sae":8,"dtype":"float32","device":"cpu","apply_b_dec_to_input":false,)"
            R"("normalize_activations":"none","reshape_activations":"none",)"
            R"("metadata":{"hook_name":"blocks.0.hook_resid_post","sae_lens_version":"6.54.12",)"
            R"("sae_lens_training_version":null},"architecture":"jumprelu"})");
}

TEST_F(SaelensFormatTest, ReadsBackTheSameBits) {
  for (const std::string architecture : {"topk", "standard", "jumprelu"}) {
    const InferenceSae sae = make_sae(architecture);
    save_saelens(sae, folder_);
    const InferenceSae back = load_saelens(folder_);
    EXPECT_EQ(back.architecture, architecture);
    EXPECT_EQ(back.apply_b_dec_to_input, sae.apply_b_dec_to_input);
    EXPECT_EQ(back.k, sae.k);
    EXPECT_TRUE(at::equal(back.W_enc, sae.W_enc));
    EXPECT_TRUE(at::equal(back.b_enc, sae.b_enc));
    EXPECT_TRUE(at::equal(back.W_dec, sae.W_dec));
    EXPECT_TRUE(at::equal(back.b_dec, sae.b_dec));
    EXPECT_EQ(back.threshold.defined(), architecture == "jumprelu");
    if (back.threshold.defined()) {
      EXPECT_TRUE(at::equal(back.threshold, sae.threshold));
    }
    EXPECT_EQ(back.metadata.at("hook_name").as_string(), "blocks.0.hook_resid_post");
  }
}

TEST_F(SaelensFormatTest, ReplacesAnOlderFolderAndLeavesNothingElse) {
  save_saelens(make_sae("topk"), folder_);
  fs::create_directories(root_ / ".topk.writing" / "rest");  // of a save that was killed
  save_saelens(make_sae("standard"), folder_);
  EXPECT_EQ(load_saelens(folder_).architecture, "standard");
  EXPECT_EQ(list_folder(root_), std::vector<fs::path>{folder_});
  EXPECT_EQ(list_folder(folder_).size(), 2u);
}

TEST_F(SaelensFormatTest, FoldsDecoderNormsWhereThatKeepsTheReconstruction) {
  for (const std::string architecture : {"standard", "jumprelu"}) {
    InferenceSae sae = make_sae(architecture);
    sae.W_dec = (sae.W_dec * 3).contiguous();
    save_saelens(sae, folder_);
    const InferenceSae back = load_saelens(folder_);
    const at::Tensor x = normal_values({20, kDim}, 5);
    EXPECT_LE(testing::relative_difference(back.reconstruct(x), sae.reconstruct(x)), 1e-6);
    EXPECT_LE(testing::relative_difference(back.encode_dense(x), 3 * sae.encode_dense(x)), 1e-6);
    EXPECT_LE((back.W_dec.norm(2, 1) - 1).abs().max().item<double>(), 1e-6);
    if (back.threshold.defined()) {
      EXPECT_LE(testing::relative_difference(back.threshold, 3 * sae.threshold), 1e-6);
    }
  }
}

TEST_F(SaelensFormatTest, SelectsByRescaledActivationsWhereAskedTo) {
  InferenceSae sae = make_sae("topk");
  const at::Tensor norms = at::arange(1, kLatents + 1).to(at::kFloat);
  sae.W_dec = (sae.W_dec * norms.unsqueeze(1)).contiguous();
  save_saelens(sae, folder_);
  const at::Tensor x = normal_values({20, kDim}, 5);
  EXPECT_TRUE(at::equal(load_saelens(folder_).encode_dense(x), sae.encode_dense(x)));
  replace_in_config("\"rescale_acts_by_decoder_norm\": false",
                    "\"rescale_acts_by_decoder_norm\": true");
  const InferenceSae back = load_saelens(folder_);
  const at::Tensor expected = sae.pre_acts(x) * norms;
  EXPECT_LE(testing::relative_difference(back.pre_acts(x), expected), 1e-5);
}

TEST_F(SaelensFormatTest, RefusesWhatItCannotRepresent) {
  save_saelens(make_sae(), folder_);
  const std::string sound = config_text();
  const auto error_after = [&](const std::string& from, const std::string& to) {
    write_config(sound);
    replace_in_config(from, to);
    return load_error();
  };
  EXPECT_EQ(error_after("\"architecture\": \"topk\"", "\"architecture\": \"gated\""),
            config_path() + ": architecture \"gated\" is not known");
  EXPECT_EQ(error_after("\"normalize_activations\": \"none\"",
                        "\"normalize_activations\": \"layer_norm\""),
            config_path() + ": normalize_activations \"layer_norm\" is not supported");
  EXPECT_EQ(error_after("\"reshape_activations\": \"none\"", "\"reshape_activations\": \"hook_z\""),
            config_path() + ": reshape_activations \"hook_z\" is not supported");
  EXPECT_EQ(error_after("6.54.12", "5.9.0"),
            config_path() + ": metadata.sae_lens_version \"5.9.0\" is not supported");
  EXPECT_EQ(error_after("6.54.12", "v7"),
            config_path() + ": metadata.sae_lens_version \"v7\" is not supported");
  EXPECT_EQ(error_after("\"topk\"", "\"topk\\n\""),
            config_path() + ": architecture \"topk\\n\" is not known");
}

TEST_F(SaelensFormatTest, RefusesDamagedConfigs) {
  save_saelens(make_sae(), folder_);
  const std::string sound = config_text();
  const auto error_after = [&](const std::string& from, const std::string& to) {
    write_config(sound);
    replace_in_config(from, to);
    return load_error();
  };
  EXPECT_EQ(error_after("\"k\": 3", "\"k\": 9"), config_path() + ": k = 9 is out of range");
  EXPECT_EQ(error_after("\"k\": 3", "\"k\": 0"), config_path() + ": k = 0 is out of range");
  EXPECT_EQ(error_after("\"k\": 3,", ""), config_path() + ": k is missing");
  EXPECT_EQ(error_after("\"d_in\": 5", "\"d_in\": -5"),
            config_path() + ": d_in = -5 is out of range");
  EXPECT_EQ(error_after("\"d_sae\": 8", "\"d_sae\": 4611686018427387904"),
            config_path() + ": d_sae = 4611686018427387904 is out of range");
  EXPECT_EQ(error_after("\"d_in\": 5", "\"d_in\": 6"), weights_path() + ": W_enc has shape [5, 8]");
  write_config("[]");
  EXPECT_EQ(load_error(), config_path() + ": is not a JSON object");
  write_config("");
  EXPECT_NE(load_error(), "no error");
  fs::remove(folder_ / "cfg.json");
  EXPECT_NE(load_error(), "no error");
}

TEST_F(SaelensFormatTest, RefusesDamagedThresholds) {
  InferenceSae sae = make_sae("jumprelu");
  for (const float value : {std::nanf(""), INFINITY}) {
    sae.threshold[7] = value;
    save_saelens(sae, folder_);
    EXPECT_EQ(load_error(), weights_path() + ": threshold holds " +
                                (std::isnan(value) ? "nan" : "inf") + " at element 7");
  }
  sae.threshold = at::zeros({kLatents - 1});
  save_saelens(sae, folder_);
  EXPECT_EQ(load_error(), weights_path() + ": threshold has shape [7]");
  save_saelens(make_sae("standard"), folder_);
  replace_in_config("\"standard\"", "\"jumprelu\"");
  EXPECT_NE(load_error().find("threshold"), std::string::npos);
  // Neither does an SAE without thresholds leave as jumprelu, nor one with them as another.
  sae = make_sae("standard");
  sae.architecture = "jumprelu";
  EXPECT_THROW(save_saelens(sae, folder_), InternalError);
  sae = make_sae("jumprelu");
  sae.architecture = "standard";
  EXPECT_THROW(save_saelens(sae, folder_), InternalError);
}

TEST_F(SaelensFormatTest, RefusesDamagedWeights) {
  InferenceSae sae = make_sae();
  sae.b_enc[6] = std::nan("");
  save_saelens(sae, folder_);
  EXPECT_EQ(load_error(), weights_path() + ": b_enc holds nan at element 6");

  save_saelens(make_sae(), folder_);
  fs::resize_file(weights_path(), fs::file_size(weights_path()) - 1);
  EXPECT_NE(load_error(), "no error");
  std::ofstream(weights_path(), std::ios::trunc) << "";
  EXPECT_NE(load_error(), "no error");

  const float values[5] = {};
  const SafetensorsTensor only = {"b_dec", "F32", {5}, std::as_bytes(std::span(values))};
  write_safetensors(weights_path(), std::span(&only, 1));
  EXPECT_NE(load_error().find("W_enc"), std::string::npos);
}

}  // namespace
}  // namespace thresher::sae
