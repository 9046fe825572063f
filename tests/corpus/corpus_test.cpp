#include "corpus/corpus.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/corpus/small_vocabulary.h"

namespace thresher::corpus {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

/// A folder that goes away with the test.
class CorpusTest : public ::testing::Test {
 protected:
  CorpusTest() {
    std::string pattern = (fs::temp_directory_path() / "thresher-corpus-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    vocabulary_ = testing::small_vocabulary();
    vocabulary_.merges.clear();  // one byte, one token
    tokenizer_ = make_byte_level_tokenizer(vocabulary_);
  }
  ~CorpusTest() override { fs::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  CorpusConfig config(std::vector<std::string> paths) const {
    CorpusConfig out;
    out.paths = std::move(paths);
    out.context_tokens = 4;
    out.held_out_fraction = 0;
    return out;
  }
  /// First line of the error, the folder's name replaced by DIR.
  template <class E>
  std::string message_of(const CorpusConfig& config) const {
    try {
      Corpus(config, *tokenizer_, 1).pack(Split::kTraining);
    } catch (const E& error) {
      std::string line = error.first_line();
      for (std::size_t at; (at = line.find(folder_.string())) != std::string::npos;) {
        line.replace(at, folder_.string().size(), "DIR");
      }
      return line;
    }
    return "no error";
  }

  fs::path folder_;
  ByteLevelVocabulary vocabulary_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

std::vector<std::string> hundred_documents() {
  std::vector<std::string> texts;
  for (int i = 0; i < 100; ++i) texts.push_back("document number " + std::to_string(i));
  return texts;
}

std::string joined(const std::vector<std::string>& texts) {
  std::string out;
  for (const std::string& text : texts) out += text + "\n%%\n";
  return out;
}

TEST_F(CorpusTest, ReadsFoldersInByteOrderOfThePath) {
  for (const char* name : {"b.txt", "a/z.txt", "B.txt", "a.txt", "note.md"}) write(name, name);
  const Corpus corpus(config({folder_.string()}), *tokenizer_, 1);
  ASSERT_EQ(corpus.summary().n_documents, 4);
  const std::string prefix = folder_.string();
  EXPECT_EQ(corpus.document_name(0), prefix + "/B.txt#0");
  EXPECT_EQ(corpus.document_name(1), prefix + "/a.txt#0");
  EXPECT_EQ(corpus.document_name(2), prefix + "/a/z.txt#0");
  EXPECT_EQ(corpus.document_name(3), prefix + "/b.txt#0");
  EXPECT_EQ(corpus.summary().n_bytes, 22);
}

TEST_F(CorpusTest, CutsFilesAtTheSeparatorAndLeavesOutEmptyDocuments) {
  CorpusConfig with = config({write("a.txt", "%%one%%%%two")});
  with.document_separator = "%%";
  const Corpus corpus(with, *tokenizer_, 1);
  EXPECT_EQ(corpus.summary().n_documents, 2);
  EXPECT_EQ(corpus.summary().n_bytes, 6);
  EXPECT_EQ(corpus.document_name(1), (folder_ / "a.txt").string() + "#1");
}

TEST_F(CorpusTest, PacksWithoutPaddingAndCountsTheTail) {
  const Corpus corpus(config({write("a.txt", "abcdefghij")}), *tokenizer_, 1);
  const PackedContexts packed = corpus.pack(Split::kTraining);
  EXPECT_EQ(packed.n_contexts, 2);
  EXPECT_EQ(packed.n_dropped_tokens, 2);
  EXPECT_EQ(packed.token_ids, (Ids{'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}));
  EXPECT_EQ(packed.positions, (Ids{0, 1, 2, 3, 0, 1, 2, 3}));
  EXPECT_EQ(packed.documents, Ids(8, 0));
}

TEST_F(CorpusTest, RestartsPositionsWithEachDocumentAndContext) {
  CorpusConfig three = config({write("a.txt", "aaaaaa%%bbb%%ccccc")});
  three.document_separator = "%%";
  const PackedContexts packed = Corpus(three, *tokenizer_, 4).pack(Split::kTraining);
  ASSERT_EQ(packed.n_contexts, 3);
  EXPECT_EQ(packed.n_dropped_tokens, 2);
  EXPECT_EQ(packed.token_ids, (Ids{'a', 'a', 'a', 'a', 'a', 'a', 'b', 'b', 'b', 'c', 'c', 'c'}));
  EXPECT_EQ(packed.documents, (Ids{0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2}));
  EXPECT_EQ(packed.positions, (Ids{0, 1, 2, 3, 0, 1, 0, 1, 0, 0, 1, 2}));
}

TEST_F(CorpusTest, PutsBosBeforeEachDocumentOnRequest) {
  CorpusConfig with_bos = config({write("a.txt", "aaaaa")});
  with_bos.prepend_bos = "document";
  const PackedContexts packed = Corpus(with_bos, *tokenizer_, 1).pack(Split::kTraining);
  EXPECT_EQ(packed.token_ids, (Ids{testing::kEnd, 'a', 'a', 'a'}));
  EXPECT_EQ(packed.documents, Ids(4, 0));
  EXPECT_EQ(packed.n_dropped_tokens, 2);
}

TEST_F(CorpusTest, StopsAtMaxTokensOfTrainingText) {
  CorpusConfig limited = config({write("a.txt", joined(hundred_documents()))});
  limited.document_separator = "\n%%\n";
  limited.held_out_fraction = 0.5;
  limited.max_tokens = 103;
  const Corpus corpus(limited, *tokenizer_, 1);
  EXPECT_EQ(corpus.pack(Split::kTraining).n_contexts, 25);
  EXPECT_EQ(corpus.pack(Split::kTraining).n_dropped_tokens, 3);
  EXPECT_GT(corpus.pack(Split::kHeldOut).n_contexts, 100);
}

TEST_F(CorpusTest, SplitsByTheBytesOfADocumentAlone) {
  const auto held_out = [this](const std::vector<std::string>& texts, std::uint64_t seed) {
    CorpusConfig split = config({write("a.txt", joined(texts))});
    split.document_separator = "\n%%\n";
    split.held_out_fraction = 0.3;
    const Corpus corpus(split, *tokenizer_, seed);
    const PackedContexts packed = corpus.pack(Split::kHeldOut);
    std::set<std::string> out;
    for (const std::int32_t document : packed.documents) out.insert(texts.at(document));
    return out;
  };
  const std::vector<std::string> texts = hundred_documents();
  const std::set<std::string> before = held_out(texts, 1);
  EXPECT_GT(before.size(), 15U);
  EXPECT_LT(before.size(), 45U);
  EXPECT_EQ(held_out(texts, 2).size(), before.size());

  std::vector<std::string> more = {"a new first document", "and a second one"};
  more.insert(more.end(), texts.rbegin(), texts.rend());
  std::set<std::string> after = held_out(more, 1);
  after.erase(more[0]);
  after.erase(more[1]);
  EXPECT_EQ(after, before);
}

TEST_F(CorpusTest, GivesEachDocumentToOneSplit) {
  CorpusConfig split = config({write("a.txt", joined(hundred_documents()))});
  split.document_separator = "\n%%\n";
  split.held_out_fraction = 0.3;
  const Corpus corpus(split, *tokenizer_, 1);
  const PackedContexts training = corpus.pack(Split::kTraining);
  const PackedContexts held_out = corpus.pack(Split::kHeldOut);
  std::set<std::int32_t> documents(training.documents.begin(), training.documents.end());
  for (const std::int32_t document : held_out.documents) EXPECT_FALSE(documents.contains(document));
  documents.insert(held_out.documents.begin(), held_out.documents.end());
  EXPECT_EQ(documents.size(), 100U);
  EXPECT_EQ(corpus.summary().n_training_documents + corpus.summary().n_held_out_documents, 100);
}

TEST_F(CorpusTest, OrdersDocumentsByTheSeed) {
  CorpusConfig all = config({write("a.txt", joined(hundred_documents()))});
  all.document_separator = "\n%%\n";
  const auto order = [&](std::uint64_t seed) {
    return Corpus(all, *tokenizer_, seed).pack(Split::kTraining).documents;
  };
  EXPECT_EQ(order(1), order(1));
  EXPECT_NE(order(1), order(2));
}

TEST_F(CorpusTest, HasAFingerprintOfContentNotOfPlace) {
  const CorpusConfig here = config({write("a.txt", "some text")});
  const std::string original = Corpus(here, *tokenizer_, 1).fingerprint();
  EXPECT_EQ(original.size(), 64U);
  EXPECT_EQ(Corpus(config({write("elsewhere/b.txt", "some text")}), *tokenizer_, 1).fingerprint(),
            original);
  EXPECT_NE(Corpus(here, *tokenizer_, 2).fingerprint(), original);
  EXPECT_NE(Corpus(config({write("c.txt", "some texts")}), *tokenizer_, 1).fingerprint(), original);
  CorpusConfig longer = here;
  longer.context_tokens = 5;
  EXPECT_NE(Corpus(longer, *tokenizer_, 1).fingerprint(), original);
  vocabulary_.pretokenizer = "gpt-2";
  EXPECT_NE(Corpus(here, *make_byte_level_tokenizer(vocabulary_), 1).fingerprint(), original);
}

TEST_F(CorpusTest, CountsOddBytesAndBytesWithoutAToken) {
  vocabulary_.tokens[0x00] = "[no byte]";
  tokenizer_ = make_byte_level_tokenizer(vocabulary_);
  const Corpus corpus(
      config({write("a.txt", std::string("caf\xE9 is Latin-1, ") + '\0' + " is a NUL")}),
      *tokenizer_, 1);
  EXPECT_EQ(corpus.summary().n_nul_bytes, 1);
  EXPECT_EQ(corpus.summary().n_invalid_utf8_bytes, 1);
  EXPECT_EQ(corpus.pack(Split::kTraining).n_lost_bytes, 1);
}

TEST_F(CorpusTest, ExplainsPathsThatCannotBeRead) {
  EXPECT_EQ(message_of<IoError>(config({(folder_ / "none.txt").string()})),
            "corpus.paths: 'DIR/none.txt' does not exist");
  fs::create_directories(folder_ / "empty");
  EXPECT_EQ(message_of<ConfigError>(config({(folder_ / "empty").string()})),
            "corpus.paths: folder 'DIR/empty' has no *.txt or *.jsonl at any depth");
  const std::string file = write("a.txt", "text text");
  EXPECT_EQ(message_of<ConfigError>(config({file, folder_.string()})),
            "corpus.paths: 'DIR/a.txt' is named twice");
  EXPECT_EQ(message_of<IoError>(config({"/dev/null"})),
            "corpus.paths: '/dev/null' is neither a file nor a folder that can be read");
}

TEST_F(CorpusTest, ExplainsTextThatCannotBeUsed) {
  EXPECT_EQ(message_of<ConfigError>(config({write("a.txt", "")})),
            "corpus.paths: no text in DIR/a.txt");
  EXPECT_EQ(message_of<ConfigError>(config({write("a.txt", "abc")})),
            "corpus: the training text has 3 tokens, fewer than one context of 4");
  EXPECT_EQ(message_of<DataError>(config({write("a.png", "\x1F\x8A\x08\xFF\xFE\xFD text")})),
            "DIR/a.png: is not text: 4 of its 11 bytes are NUL or not valid UTF-8");
  EXPECT_EQ(message_of<DataError>(config({write("a.txt", "\xFF\xFE" + std::string("a\0b\0", 4))})),
            "DIR/a.txt: starts with the byte order mark of UTF-16 or UTF-32");
}

TEST_F(CorpusTest, ExplainsAnEmptySplit) {
  CorpusConfig split = config({write("a.txt", "one single document")});
  split.held_out_fraction = 0.0001;
  EXPECT_EQ(message_of<ConfigError>(split),
            "corpus.held_out_fraction: 0.0001 leaves no held-out documents: all 1 fall into the "
            "other split");
  split.held_out_fraction = 0.9;
  EXPECT_EQ(message_of<ConfigError>(split),
            "corpus.held_out_fraction: 0.9 leaves no training documents: all 1 fall into the other "
            "split");
  split.held_out_fraction = 0;
  EXPECT_THROW(Corpus(split, *tokenizer_, 1).pack(Split::kHeldOut), ConfigError);
}

TEST_F(CorpusTest, RefusesBosThatTheTokenizerLacks) {
  vocabulary_.bos_id.reset();
  tokenizer_ = make_byte_level_tokenizer(vocabulary_);
  CorpusConfig with_bos = config({write("a.txt", "some text")});
  with_bos.prepend_bos = "document";
  EXPECT_EQ(message_of<ConfigError>(with_bos),
            "corpus.prepend_bos: 'document', but the host model's tokenizer has no BOS token");
}

}  // namespace
}  // namespace thresher::corpus
