#include <gtest/gtest.h>

#include "core/error.h"
#include "host_model/host_model.h"

namespace thresher::host_model {
namespace {

using Site = HookPoint::Site;

std::string first_line_of(std::string_view name) {
  try {
    HookPoint::parse(name);
  } catch (const ConfigError& error) {
    return error.first_line();
  }
  return "no error";
}

TEST(HookPointNames, ParseAndPrintEveryForm) {
  const std::vector<std::pair<std::string, HookPoint>> cases = {
      {"hook_embed", {Site::kEmbed, -1}},
      {"blocks.0.hook_resid_pre", {Site::kResidPre, 0}},
      {"blocks.14.hook_attn_out", {Site::kAttnOut, 14}},
      {"blocks.9.hook_resid_mid", {Site::kResidMid, 9}},
      {"blocks.511.hook_mlp_out", {Site::kMlpOut, 511}},
      {"blocks.3.hook_resid_post", {Site::kResidPost, 3}},
      {"ln_final.hook_normalized", {Site::kFinalNormalized, -1}},
  };
  for (const auto& [name, point] : cases) {
    EXPECT_EQ(HookPoint::parse(name), point) << name;
    EXPECT_EQ(point.name(), name);
  }
}

TEST(HookPointNames, RefuseWhatIsNotQuiteAName) {
  for (const char* name :
       {"", "blocks", "blocks.", "blocks.3", "blocks.3.", "blocks..hook_resid_pre",
        "blocks.-1.hook_resid_pre", "blocks.+1.hook_resid_pre", "blocks.03.hook_resid_pre",
        "blocks.99999.hook_resid_pre", "blocks.3.hook_resid_pre ", "blocks.3.hook_q",
        "blocks.x.hook_resid_pre", "Hook_embed"}) {
    EXPECT_EQ(first_line_of(name), "hook point '" + std::string(name) + "' is not known");
  }
}

TEST(HookPointNames, SuggestTheNearestForm) {
  try {
    HookPoint::parse("blocks.7.hook_resid_pst");
    FAIL() << "expected ConfigError";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "hook point 'blocks.7.hook_resid_pst' is not known\n"
                 "  expected: one of hook_embed, blocks.L.hook_resid_pre, blocks.L.hook_attn_out, "
                 "blocks.L.hook_resid_mid, blocks.L.hook_mlp_out, blocks.L.hook_resid_post, "
                 "ln_final.hook_normalized (L counts from 0)\n"
                 "  hint: did you mean blocks.7.hook_resid_post?");
  }
}

}  // namespace
}  // namespace thresher::host_model
