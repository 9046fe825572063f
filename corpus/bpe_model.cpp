#include "corpus/bpe_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/utf8.h"
#include "corpus/unicode_normalisation.h"

namespace thresher::corpus {
namespace {

std::string shown(std::string_view token) { return Json(token.substr(0, 100)).dump(); }

/// Left and right of a merge, written "left right" or ["left", "right"].
std::pair<std::string_view, std::string_view> read_pair(const Json& merge, const JsonPlace& model,
                                                        std::size_t rank) {
  const auto fail = [&] {
    throw DataError(
        fmt::format("{}.merges[{}]: {} is not a pair", model.where(), rank, shown(merge.dump())),
        R"("left right" or ["left", "right"])");
  };
  if (merge.is_array()) {
    const Json::Array& pair = merge.as_array();
    if (pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) fail();
    return {pair[0].as_string(), pair[1].as_string()};
  }
  if (!merge.is_string()) fail();
  const std::string_view text = merge.as_string();
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
    fail();
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

void refuse_value(const JsonPlace& place, std::string_view key) {
  const auto found = place.find(key);
  if (!found || (found->is_string() && found->string().empty())) return;
  found->fail(fmt::format("{} is not supported", shown(found->value().dump())), "null");
}

}  // namespace

BpeModel::BpeModel(const JsonPlace& place, const std::unordered_set<std::string>& special) {
  const auto type = place.find("type");
  if (type && type->string() != "BPE") type->unsupported("model", type->string(), "BPE");
  if (const auto dropout = place.find("dropout")) {
    if (!dropout->value().is_number() || dropout->value().as_double() != 0) {
      dropout->fail("merges that are left out at random are not supported", "null or 0");
    }
  }
  refuse_value(place, "continuing_subword_prefix");
  refuse_value(place, "end_of_word_suffix");
  fuses_unknown_ = place.boolean_or("fuse_unk", false);
  falls_back_to_bytes_ = place.boolean_or("byte_fallback", false);
  ignores_merges_ = place.boolean_or("ignore_merges", false);
  read_vocabulary(place.at("vocab"));
  index_characters();
  read_merges(place, special);
  if (const auto unknown = place.find("unk_token")) {
    const auto id = id_of(unknown->string());
    if (!id) unknown->fail(fmt::format("{} is not in the vocabulary", shown(unknown->string())));
    unknown_id_ = *id;
    has_unknown_ = true;
  }
}

void BpeModel::read_vocabulary(const JsonPlace& place) {
  if (!place.is_object()) place.fail("is not an object", "tokens and their ids");
  std::vector<std::pair<std::int64_t, std::string_view>> entries;
  std::size_t n_bytes = 0;
  for (const auto& [token, id] : place.value().as_object()) {
    const std::int64_t number = id.is_integer() ? id.as_int(place.where()) : -1;
    if (number < 0 || number > kLargestId) {
      place.fail(fmt::format("token {} has the id {}", shown(token), shown(id.dump())),
                 fmt::format("an integer in [0, {}]", kLargestId));
    }
    if (token.empty()) place.fail(fmt::format("token {} is empty", number), "at least one byte");
    entries.emplace_back(number, token);
    n_bytes += token.size();
  }
  if (entries.empty()) place.fail("has no token");
  std::sort(entries.begin(), entries.end());
  texts_.reserve(n_bytes);  // views into it must stay where they are
  begins_.reserve(static_cast<std::size_t>(entries.back().first) + 2);
  ids_.reserve(entries.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const auto& [id, token] = entries[i];
    if (i > 0 && entries[i - 1].first == id) {
      place.fail(fmt::format("tokens {} and {} both have the id {}", shown(entries[i - 1].second),
                             shown(token), id),
                 "each id once");
    }
    begins_.resize(static_cast<std::size_t>(id) + 1, static_cast<std::uint32_t>(texts_.size()));
    const std::size_t begin = texts_.size();
    texts_ += token;
    ids_.emplace(std::string_view(texts_).substr(begin), static_cast<std::int32_t>(id));
  }
  begins_.push_back(static_cast<std::uint32_t>(texts_.size()));
}

void BpeModel::index_characters() {
  for (std::size_t code_point = 0; code_point < short_character_ids_.size(); ++code_point) {
    std::string character;
    append_utf8(character, static_cast<char32_t>(code_point));
    short_character_ids_[code_point] = id_of(character).value_or(-1);
  }
  has_all_bytes_ = falls_back_to_bytes_;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] =
        falls_back_to_bytes_ ? id_of(fmt::format("<0x{:02X}>", byte)).value_or(-1) : -1;
    has_all_bytes_ = has_all_bytes_ && byte_ids_[byte] >= 0;
  }
  has_byte_alphabet_ =
      std::all_of(byte_alphabet().begin(), byte_alphabet().end(),
                  [&](const std::string& character) { return character_id(character) >= 0; });
}

void BpeModel::read_merges(const JsonPlace& place, const std::unordered_set<std::string>& special) {
  const JsonPlace list = place.at("merges");
  if (!list.is_array()) list.fail("is not a list", "a list of pairs");
  for (const std::string& token : special) {
    if (const auto id = id_of(token)) special_ids_.insert(*id);
  }
  const Json::Array& merges = list.value().as_array();
  merges_ = std::make_unique<BpeMerges>(merges.size());
  std::string made;
  // From the last to the first, because the library keeps the last of two that are equal.
  for (std::size_t i = merges.size(); i-- > 0;) {
    const auto [left, right] = read_pair(merges[i], place, i);
    made.assign(left).append(right);
    const auto left_id = id_of(left), right_id = id_of(right), made_id = id_of(made);
    if (!left_id || !right_id || !made_id) {
      throw DataError(fmt::format("{}[{}]: {} is not in the vocabulary", list.where(), i,
                                  shown(!left_id    ? left
                                        : !right_id ? right
                                                    : std::string_view(made))),
                      "merges of two tokens into a third");
    }
    if (special_ids_.contains(*made_id)) {
      ++n_merges_left_out_;
      continue;
    }
    merges_->insert(*left_id, *right_id, {static_cast<std::uint32_t>(i), *made_id});
  }
}

std::optional<std::int32_t> BpeModel::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

std::string_view BpeModel::token(std::int32_t id) const {
  if (id < 0 || id >= size()) return {};
  const std::uint32_t begin = begins_[static_cast<std::size_t>(id)];
  return std::string_view(texts_).substr(begin, begins_[static_cast<std::size_t>(id) + 1] - begin);
}

std::int32_t BpeModel::character_id(std::string_view character) const {
  const auto byte = [&](std::size_t i) {
    return static_cast<unsigned>(static_cast<unsigned char>(character[i]));
  };
  if (character.size() == 1) return short_character_ids_[byte(0)];
  if (character.size() == 2) {
    return short_character_ids_[((byte(0) & 0x1FU) << 6U) | (byte(1) & 0x3FU)];
  }
  return id_of(character).value_or(-1);
}

BpeModel::Lost BpeModel::encode(std::string_view piece, Symbols& symbols,
                                std::vector<std::int32_t>& ids) const {
  if (ignores_merges_) {
    const auto whole = id_of(piece);
    if (whole && !special_ids_.contains(*whole)) {
      ids.push_back(*whole);
      return {};
    }
  }
  symbols.clear();
  Lost lost;
  bool is_unknown_due = false;  // the library puts it in front of the next known character
  for (std::size_t at = 0; at < piece.size();) {
    const std::string_view character = piece.substr(at, utf8_sequence_length(piece, at));
    at += character.size();
    const std::int32_t id = character_id(character);
    if (id >= 0) {
      if (std::exchange(is_unknown_due, false)) symbols.push_back(unknown_id_);
      symbols.push_back(id);
      continue;
    }
    const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    if (std::all_of(character.begin(), character.end(),
                    [&](char byte) { return byte_id(byte) >= 0; })) {
      for (const char byte : character) symbols.push_back(byte_id(byte));
      continue;
    }
    ++lost.characters;
    lost.bytes += static_cast<std::int64_t>(character.size());
    if (!has_unknown_) continue;
    if (is_unknown_due && !fuses_unknown_) symbols.push_back(unknown_id_);
    is_unknown_due = true;
  }
  if (is_unknown_due) symbols.push_back(unknown_id_);
  merges_->apply(symbols, ids);
  return lost;
}

BpeModel::Lost BpeModel::encode_bytes(std::string_view bytes, Symbols& symbols,
                                      std::vector<std::int32_t>& ids) const {
  symbols.clear();
  Lost lost;
  for (const char byte : bytes) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    if (id >= 0) {
      symbols.push_back(id);
      continue;
    }
    ++lost.characters;
    ++lost.bytes;
    if (has_unknown_) symbols.push_back(unknown_id_);
  }
  merges_->apply(symbols, ids);
  return lost;
}

}  // namespace thresher::corpus
