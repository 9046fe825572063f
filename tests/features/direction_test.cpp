#include "features/direction.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "core/error.h"
#include "core/safetensors.h"
#include "host_model/generation.h"
#include "tests/core/scratch_folder.h"
#include "tests/evaluation/tiny_host.h"

namespace thresher::features {
namespace {

using host_model::HookPoint;
using testing::PlainTokenizer;
using testing::TinyHost;
using Kind = DirectionTerm::Kind;

constexpr std::int64_t kWidth = 8;
const HookPoint kPoint = HookPoint::parse("blocks.1.hook_resid_post");

/// A tiny host in which the byte '!' is a sink wherever it stands.
Subject tiny_subject() {
  Subject subject;
  subject.tokenizer = std::make_unique<PlainTokenizer>();
  subject.model = std::make_unique<TinyHost>(TinyHost::random(128, kWidth, 3, '!', 4));
  return subject;
}

PairReading reading_of(const Subject& subject, const std::string& prefix) {
  PairReading reading;
  reading.prefix = subject.tokenizer->encode(prefix, false);
  return reading;
}

/// Activations of a text by itself, [tokens, width].
at::Tensor activation(const Subject& subject, const std::string& text) {
  const std::vector<std::int32_t> ids = subject.tokenizer->encode(text, false);
  at::Tensor kept;
  host_model::ForwardRequest request;
  request.hooks[kPoint] = [&](const at::Tensor& rows) {
    kept = rows.clone();
    return at::Tensor();
  };
  subject.model->forward(host_model::align_contexts({ids}).batch, request);
  return kept;
}

TEST(ParseDirection, ReadsSumsWhoseTextsMayHoldAnySign) {
  const auto terms = parse_direction("1.5*pair:a+b|c*d+-2*latent:7+search:red wine+file:a+b.npy");
  ASSERT_EQ(terms.size(), 4U);
  EXPECT_EQ(terms[0].kind, Kind::kPair);
  EXPECT_EQ(terms[0].weight, 1.5);
  EXPECT_EQ(terms[0].argument, "a+b|c*d");
  EXPECT_EQ(terms[1].kind, Kind::kLatent);
  EXPECT_EQ(terms[1].weight, -2);
  EXPECT_EQ(terms[1].argument, "7");
  EXPECT_EQ(terms[2].kind, Kind::kSearch);
  EXPECT_EQ(terms[2].argument, "red wine");
  EXPECT_EQ(terms[3].argument, "a+b.npy");
  EXPECT_THROW(parse_direction("Love"), UsageError);
  EXPECT_THROW(parse_direction(""), UsageError);
  EXPECT_THROW(parse_direction("2*"), UsageError);
}

TEST(PairDifferences, SubtractLikePositionsBehindThePrefix) {
  const Subject subject = tiny_subject();
  PairReading reading = reading_of(subject, "xy");
  // "b" is padded with a space to the length of "lov".
  const at::Tensor first = activation(subject, "xylov"), second = activation(subject, "xyb  ");
  const at::Tensor difference = (first - second).narrow(0, 2, 3);
  const auto read = [&] {
    return pair_differences(subject, {{"lov", "b"}, {"b", "lov"}}, {kPoint}, reading).at(kPoint);
  };
  at::Tensor rows = read();
  EXPECT_TRUE(at::allclose(rows[0], difference.mean(0), 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(rows[1], -difference.mean(0), 1e-5, 1e-6));
  reading.over = PairReading::Over::kLast;
  rows = read();
  EXPECT_TRUE(at::allclose(rows[0], difference[2], 1e-5, 1e-6));
}

TEST(PairDifferences, NeverReadASink) {
  const Subject subject = tiny_subject();
  // Without a prefix the only position is the first of its context.
  try {
    pair_differences(subject, {{"l", "h"}}, {kPoint}, {});
    FAIL() << "a sink was read";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.first_line(),
              "the pair l|h: every position that would be read at blocks.1.hook_resid_post is a "
              "sink");
  }
  // A row far beyond the norm of the others is left out of both texts.
  const PairReading reading = reading_of(subject, "abcdefgh");
  const at::Tensor first = activation(subject, "abcdefghlo!"),
                   second = activation(subject, "abcdefghhat");
  ASSERT_GT((first[10].norm() / first.narrow(0, 1, 9).norm(2, 1).median()).item<double>(), 10);
  const at::Tensor read =
      pair_differences(subject, {{"lo!", "hat"}}, {kPoint}, reading).at(kPoint)[0];
  EXPECT_TRUE(at::allclose(read, (first - second).narrow(0, 8, 2).mean(0), 1e-4, 1e-5));
}

TEST(PairDifferences, LeaveOutWhatCannotBeReadWhereThatIsAskedFor) {
  const Subject subject = tiny_subject();
  const at::Tensor rest =
      pair_differences(subject, {{"l", "h"}, {"lab", "hab"}}, {kPoint}, {}, Unreadable::kLeaveOut)
          .at(kPoint);
  EXPECT_EQ(rest.size(0), 1);
  EXPECT_TRUE(at::allclose(
      rest, pair_differences(subject, {{"lab", "hab"}}, {kPoint}, {}).at(kPoint), 1e-4, 1e-5));
}

TEST(MakeDirection, AveragesPairsAndTakesDifferencesOfMeans) {
  const Subject subject = tiny_subject();
  const testing::ScratchFolder folder;
  const std::string path = (folder.path() / "pairs.txt").string();
  std::ofstream(path) << "ab|c\nd|efg\n";
  const PairReading reading = reading_of(subject, "xy");
  const auto make = [&](const std::string& text) {
    return make_direction(subject, parse_direction(text), {kPoint}, "", reading).at(kPoint);
  };
  EXPECT_TRUE(at::allclose(make("pairs:" + path), (make("pair:ab|c") + make("pair:d|efg")) / 2,
                           1e-5, 1e-6));
  const auto text_rows = [&](const std::string& text) {
    const at::Tensor rows = activation(subject, "xy" + text);
    return rows.narrow(0, 2, rows.size(0) - 2);
  };
  const at::Tensor expected = at::cat({text_rows("ab"), text_rows("d")}).mean(0) -
                              at::cat({text_rows("c"), text_rows("efg")}).mean(0);
  EXPECT_TRUE(at::allclose(make("means:" + path), expected, 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(make("2*pair:ab|c+-1*pair:d|efg"),
                           2 * make("pair:ab|c") - make("pair:d|efg"), 1e-5, 1e-6));
}

TEST(MakeDirection, ReadsFilesAndLatents) {
  Subject subject = tiny_subject();
  const testing::ScratchFolder folder;
  const auto path = folder.path() / "v.safetensors";
  const at::Tensor vector = testing::random_tensor({kWidth}, 1, 8);
  const auto* bytes = static_cast<const std::byte*>(vector.const_data_ptr());
  const std::vector<SafetensorsTensor> tensors = {{"v", "F32", {kWidth}, {bytes, vector.nbytes()}}};
  write_safetensors(path, tensors);
  NamedSae sae;
  sae.name = "one";
  sae.hook_point = kPoint.name();
  sae.sae.W_enc = testing::random_tensor({kWidth, 5}, 1, 9);
  sae.sae.W_dec = testing::random_tensor({5, kWidth}, 1, 10);
  subject.saes.push_back(sae);
  const auto make = [&](const std::string& text, const LatentSearch& search = {}) {
    return make_direction(subject, parse_direction(text), {kPoint}, "", {}, search).at(kPoint);
  };
  EXPECT_TRUE(at::equal(make("file:" + path.string()), vector));
  EXPECT_TRUE(at::equal(make("file:" + path.string() + "#v"), vector));
  EXPECT_TRUE(at::equal(make("latent:3"), sae.sae.W_dec[3]));
  EXPECT_TRUE(
      at::equal(make("search:wine", [](std::string_view words) { return words == "wine" ? 2 : 0; }),
                sae.sae.W_dec[2]));
  EXPECT_THROW(make("latent:5"), ConfigError);
  EXPECT_THROW(make("latent:x"), UsageError);
  EXPECT_THROW(make("search:wine"), ConfigError);
  EXPECT_THROW(make("latent:1+-1*latent:1"), ConfigError);  // nothing is left
  const std::vector<SafetensorsTensor> wide = {{"v", "F32", {2, 4}, {bytes, vector.nbytes()}}};
  write_safetensors(path, wide);
  EXPECT_THROW(make("file:" + path.string()), ConfigError);
}

}  // namespace
}  // namespace thresher::features
