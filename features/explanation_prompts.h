#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "features/chat_client.h"

namespace thresher::features {

/// A window of text around an activation of one latent.
struct Example {
  std::vector<std::string> tokens;  // bytes, not always valid UTF-8
  std::vector<float> activations;   // one a token, >= 0; all 0 in a text that does not activate
};

/// The example as one text with the tokens of `marked` between << and >>; neighbours share a pair.
/// `marked` is one flag a token. Control characters and bytes that are not UTF-8 are made visible.
std::string marked_text(const Example& example, const std::vector<bool>& marked);
/// Tokens with at least `fraction` of the example's largest activation.
std::vector<bool> activating_tokens(const Example& example, double fraction = 0.3);

/// Asks for one short explanation of what the marked tokens have in common.
ChatQuestion explain_question(std::span<const Example> examples);
/// The explanation in an answer: what follows the last "Explanation:", else the last line that is
/// not empty. One line of at most 512 bytes of UTF-8; nothing if there is none.
std::optional<std::string> parse_explanation(std::string_view answer);

/// Detection: in which of these texts does the explained feature occur?
ChatQuestion detection_question(std::string_view explanation, std::span<const Example> texts);
/// Fuzzing: in which of these texts are the right tokens marked? `marks` is one flag a token and
/// text.
ChatQuestion fuzzing_question(std::string_view explanation, std::span<const Example> texts,
                              std::span<const std::vector<bool>> marks);
/// The verdicts of an answer to either: the last [..] that is a list of `count` zeros and ones.
std::optional<std::vector<bool>> parse_verdicts(std::string_view answer, std::size_t count);

}  // namespace thresher::features
