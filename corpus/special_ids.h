#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "corpus/json_place.h"

namespace thresher::corpus {

/// What a model's files say of the tokens that begin and end a text.
struct SpecialIds {
  std::optional<std::int32_t> bos, eos;
  std::string bos_source, eos_source;  // the file that says so, for people
  std::vector<std::int32_t> all_eos;   // config.json may name several
  /// True if the model's own tokenizer puts BOS before every text.
  bool adds_bos = false;
};

/// Looks, for each of the two, in tokenizer_config.json beside `tokenizer`, then in its
/// post-processor's template (BOS only), then in config.json; files that are not there are passed
/// over. `id_of` finds a token's id. DataError for a file that is damaged and for a token or an id
/// that the vocabulary lacks.
SpecialIds find_special_ids(
    const JsonPlace& tokenizer, const std::filesystem::path& path,
    const std::function<std::optional<std::int32_t>(std::string_view)>& id_of,
    std::int64_t vocabulary_size);

}  // namespace thresher::corpus
