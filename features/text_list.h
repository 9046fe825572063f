#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace thresher::features {

/// A text of a list, and what is asked about it.
struct ListedText {
  std::string text;
  std::string what;             // "prompts.txt:3", for messages
  std::string answer, against;  // tokens; empty without
};

/// One text a line; of a file *.jsonl one JSON object a line with "text" and, if wanted, "answer"
/// and "against". Empty lines are left out. ConfigError without a text; DataError naming file and
/// line for a line that is none, and for more than 16 MiB.
std::vector<ListedText> read_text_list(const std::filesystem::path& path);

/// Tokens as messages show them: "The" " old" " sailor".
std::string tokens_text(const std::vector<std::string>& tokens);

}  // namespace thresher::features
