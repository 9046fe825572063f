#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace thresher::corpus {

/// What GPT-2 cuts text into, in Oniguruma's language.
inline constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Cuts text into the pieces inside which BPE may merge, as the model's own tokenizer did in
/// training. Stateless after construction: several threads may use one object.
class PreTokenizer {
 public:
  /// `name` as in GGUF's tokenizer.ggml.pre. DataError, starting with `where` and listing the known
  /// names, for another one.
  PreTokenizer(std::string_view name, std::string_view where);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;

  /// Appends the pieces of `text`, which must be valid UTF-8, in order; together they are the whole
  /// text.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;
  /// True when a piece that is a token as a whole is that token, whatever the merges say.
  bool ignores_merges() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Names that PreTokenizer knows, sorted.
std::vector<std::string> known_pretokenizers();

}  // namespace thresher::corpus
