#include "corpus/document_store.h"

#include <algorithm>

namespace thresher::corpus {
namespace {

constexpr std::size_t kBlockBytes = 4U << 20;

}  // namespace

void DocumentStore::append(std::string_view text) {
  if (blocks_.empty() || blocks_.back().capacity() - blocks_.back().size() < text.size()) {
    blocks_.emplace_back().reserve(std::max(text.size(), kBlockBytes));
  }
  std::string& block = blocks_.back();
  const std::size_t begin = block.size();
  block += text;
  texts_.push_back(std::string_view(block).substr(begin));
}

}  // namespace thresher::corpus
