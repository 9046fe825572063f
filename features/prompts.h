#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "features/subject.h"

namespace thresher::features {

/// A prompt's tokens, behind BOS where the run puts one or the tokenizer does by itself.
/// `parse_special` takes text that spells a special token ("<|im_start|>") for that token. Empty
/// for a text without tokens (and without BOS).
std::vector<std::int32_t> prompt_tokens(const Subject& subject, std::string_view text,
                                        bool parse_special = false);

/// Tokens at which a generated text ends: EOS and every other special token.
std::vector<std::int32_t> stop_tokens(const corpus::Tokenizer& tokenizer);

/// The lines of a text file that are not empty, without their line ends. ConfigError for a file
/// without any; IoError and DataError as the file's reader throws them.
std::vector<std::string> read_lines(const std::string& path);

}  // namespace thresher::features
