#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "corpus/corpus.h"
#include "corpus/document_reader.h"
#include "corpus/standard_input.h"
#include "tests/core/scratch_folder.h"
#include "tests/corpus/packed_text.h"
#include "tests/corpus/small_vocabulary.h"

namespace thresher::corpus {
namespace {

namespace fs = std::filesystem;
using testing::gzip;
using testing::ScratchFolder;
using testing::zstd;

class TextFormatsTest : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  static CorpusConfig config(std::vector<std::string> paths) {
    CorpusConfig out;
    out.paths = std::move(paths);
    out.context_tokens = 2;
    out.held_out_fraction = 0;
    return out;
  }
  Corpus read(const CorpusConfig& config) const { return Corpus(config, *tokenizer_, 1); }
  std::string relative(std::string text) const {
    const std::string prefix = folder_.path().string() + "/";
    for (std::size_t at; (at = text.find(prefix)) != std::string::npos;) {
      text.erase(at, prefix.size());
    }
    return text;
  }
  template <class E>
  std::string message_of(const CorpusConfig& config) const {
    return relative(testing::first_line_of<E>([&] { read(config); }));
  }

  ScratchFolder folder_;
  std::unique_ptr<Tokenizer> tokenizer_ = make_byte_level_tokenizer(testing::small_vocabulary());
};

const std::string kLines =
    "{\"text\": \"one document\", \"id\": 1}\r\n\n  \n{\"text\": \"\"}\n{\"text\": \"another\\nof "
    "two lines\"}";

TEST_F(TextFormatsTest, TakesEachJsonLineForADocument) {
  const Corpus corpus = read(config({write("a.jsonl", kLines)}));
  ASSERT_EQ(corpus.summary().n_documents, 2);
  EXPECT_EQ(corpus.summary().n_bytes, 12 + 20);
  EXPECT_EQ(relative(corpus.document_name(0)), "a.jsonl:1");
  EXPECT_EQ(relative(corpus.document_name(1)), "a.jsonl:5");
}

TEST_F(TextFormatsTest, IsTheSameCorpusHoweverTheTextIsKept) {
  CorpusConfig plain = config({write("a.txt", "one document%%another\nof two lines")});
  plain.document_separator = "%%";
  CorpusConfig lines = config({write("a.jsonl", kLines)});
  lines.document_separator = "%%";
  const std::string expected = read(plain).fingerprint();
  EXPECT_EQ(read(lines).fingerprint(), expected);
  lines.paths = {write("b.jsonl.gz", gzip(kLines))};
  EXPECT_EQ(read(lines).fingerprint(), expected);
  lines.paths = {write("c.ndjson.zst", zstd(kLines))};
  EXPECT_EQ(read(lines).fingerprint(), expected);
  lines.paths = {write("no-name", gzip(kLines))};
  EXPECT_NE(read(lines).fingerprint(), expected);
  lines.format = "jsonl";
  EXPECT_EQ(read(lines).fingerprint(), expected);
  plain.paths = {write("d.txt.zst", zstd("one document%%another\nof two lines"))};
  plain.max_expansion = 50;
  EXPECT_EQ(read(plain).fingerprint(), expected);
}

TEST_F(TextFormatsTest, CutsAtSeparatorsThatLieAcrossBuffers) {
  // Buffers hold 262,144 bytes: the separator begins at each of the last bytes of the first.
  for (std::size_t before = 262'140; before <= 262'145; ++before) {
    CorpusConfig cut = config({write("a.txt", std::string(before, 'a') + "<%%>" + "bb<%%>")});
    cut.document_separator = "<%%>";
    const Corpus corpus = read(cut);
    EXPECT_EQ(corpus.summary().n_documents, 2) << before;
    EXPECT_EQ(corpus.summary().n_bytes, static_cast<std::int64_t>(before) + 2);
  }
}

TEST_F(TextFormatsTest, FindsNestedFields) {
  CorpusConfig nested = config({write("a.jsonl", R"({"meta": {"body": "abc"}, "text": "no"})")});
  nested.field = "meta.body";
  EXPECT_EQ(read(nested).summary().n_bytes, 3);
}

TEST_F(TextFormatsTest, StopsAtBadLinesOrCountsThem) {
  CorpusConfig bad = config({write("a.jsonl",
                                   "{\"text\": \"good\"}\n{\"text\": 5}\n{\"text\": "
                                   "\"<b>\\u001b[31m\n\n{\"t\": 1}\n{\"text\": \"best\"}\n")});
  EXPECT_EQ(message_of<DataError>(bad), "a.jsonl:2: text is not a string");
  bad.bad_lines = "skip";
  const Corpus corpus = read(bad);
  EXPECT_EQ(corpus.summary().n_documents, 2);
  EXPECT_EQ(corpus.summary().n_bad_lines, 3);
  EXPECT_EQ(relative(corpus.summary().first_bad_line), "a.jsonl:2: text is not a string");
  bad.field = "body";
  EXPECT_EQ(message_of<ConfigError>(bad), "corpus.paths: no text in a.jsonl");
}

TEST_F(TextFormatsTest, ReadsOneKindOfTextInAFolder) {
  write("in/a.txt", "plain text");
  write("in/b/c.txt.gz", gzip("packed text"));
  write("in/readme.md", "not this");
  EXPECT_EQ(read(config({(folder_ / "in").string()})).summary().n_documents, 2);
  write("in/d.jsonl.zst", zstd(kLines));
  CorpusConfig both = config({(folder_ / "in").string()});
  EXPECT_EQ(message_of<ConfigError>(both),
            "corpus.paths: folder '" +
                (folder_ / "in").string().substr(folder_.path().string().size() + 1) +
                "' has both *.txt and *.jsonl");
  both.format = "jsonl";
  EXPECT_EQ(read(both).summary().n_bytes, 32);
  both.format = "text";
  EXPECT_EQ(read(both).summary().n_bytes, 21);
}

TEST_F(TextFormatsTest, NamesDamagedFiles) {
  const std::string packed = gzip("some text that is packed");
  EXPECT_EQ(message_of<DataError>(config({write("a.gz", packed.substr(0, 20))})),
            "a.gz: the file ends at byte 20 within its gzip data");
  EXPECT_EQ(message_of<DataError>(config({write("utf16.txt.gz", gzip("\xFF\xFE"
                                                                     "a"))})),
            "utf16.txt.gz: starts with the byte order mark of UTF-16 or UTF-32");
  EXPECT_EQ(message_of<DataError>(config({write("twice.txt.gz", gzip(packed))})),
            "twice.txt.gz: is not text: 18 of its 44 bytes are NUL or not valid UTF-8");
}

TEST_F(TextFormatsTest, TakesPathsAsTheyAre) {
  write("a\x1b[31m<b>/..%2f&.txt", "some text");
  const Corpus corpus = read(config({(folder_ / "a\x1b[31m<b>/../a\x1b[31m<b>").string()}));
  EXPECT_EQ(relative(corpus.document_name(0)), "a\x1b[31m<b>/../a\x1b[31m<b>/..%2f&.txt#0");
}

/// A pipe that holds `text` and is closed.
class Pipe {
 public:
  explicit Pipe(const std::string& text) {
    if (pipe(ends_.data()) != 0) throw std::runtime_error("pipe");
    if (write(ends_[1], text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
      throw std::runtime_error("write");
    }
    close(ends_[1]);
  }
  ~Pipe() { close(ends_[0]); }
  int end() const { return ends_[0]; }

 private:
  std::array<int, 2> ends_{};
};

TEST_F(TextFormatsTest, KeepsStandardInputForOthers) {
  const fs::path kept = folder_ / "caches/mine.stdin";
  keep_standard_input(Pipe(gzip("some text")).end(), kept, KeptInput::kInUse);
  const std::vector<std::string> paths = with_kept_input({"a.txt", "-"}, kept);
  EXPECT_EQ(paths, (std::vector<std::string>{"a.txt", kept.string()}));
  EXPECT_EQ(read(config({kept.string()})).summary().n_bytes, 9);
  keep_standard_input(Pipe(gzip("some text")).end(), kept, KeptInput::kInUse);
  keep_standard_input(Pipe("").end(), kept, KeptInput::kInUse);
  EXPECT_EQ(relative(testing::first_line_of<ConfigError>(
                [&] { keep_standard_input(Pipe("other text").end(), kept, KeptInput::kInUse); })),
            "corpus.paths: standard input is not the text that 'caches/mine.stdin' keeps");
  EXPECT_EQ(read(config({kept.string()})).summary().n_bytes, 9);
  EXPECT_EQ(testing::first_line_of<ConfigError>([&] {
              keep_standard_input(Pipe("").end(), folder_ / "new.stdin", KeptInput::kInUse);
            }),
            "corpus.paths: '-' is standard input, which is empty");
  EXPECT_FALSE(fs::exists(folder_ / "new.stdin"));
  EXPECT_EQ(message_of<ConfigError>(config({"-"})), "corpus.paths: '-' cannot be read here");
}

TEST_F(TextFormatsTest, HoldsStandardInputInMemory) {
  DocumentFormat format;
  format.shown_name = "standard input";
  const FileDescriptor held = hold_standard_input(Pipe(gzip("some text")).end(), 100);
  std::string text;
  read_documents(held_path(held), format,
                 [&](std::string_view whole, std::int64_t) { text = whole; });
  EXPECT_EQ(text, "some text");
  const FileDescriptor wide = hold_standard_input(Pipe("\xFF\xFE!").end(), 3);
  EXPECT_EQ(testing::first_line_of<DataError>(
                [&] { read_documents(held_path(wide), format, [](auto, auto) {}); }),
            "standard input: starts with the byte order mark of UTF-16 or UTF-32");
  EXPECT_EQ(testing::first_line_of<DataError>([&] { hold_standard_input(Pipe("1234").end(), 3); }),
            "standard input: has more than 3 bytes");
  format.max_document_bytes = 8;
  EXPECT_EQ(testing::first_line_of<DataError>(
                [&] { read_documents(held_path(held), format, [](auto, auto) {}); }),
            "standard input: document 0 has more than 8 bytes");
}

TEST_F(TextFormatsTest, ReplacesStandardInputThatNothingWasMadeFrom) {
  const fs::path kept = folder_ / "mine.stdin";
  const auto keep = [&](const std::string& text, KeptInput state) {
    keep_standard_input(Pipe(text).end(), kept, state);
    return read(config({kept.string()})).summary().n_bytes;
  };
  EXPECT_EQ(keep("cut of", KeptInput::kReplaceable), 6);
  EXPECT_EQ(keep("some text", KeptInput::kReplaceable), 9);
  EXPECT_EQ(keep("", KeptInput::kReplaceable), 9) << "no input means the kept text";
  EXPECT_THROW(keep("cut of", KeptInput::kInUse), ConfigError);
  EXPECT_EQ(keep("some text", KeptInput::kInUse), 9);
}

}  // namespace
}  // namespace thresher::corpus
