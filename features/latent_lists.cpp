#include "features/latent_lists.h"

#include <algorithm>
#include <cstring>

#include "core/byte_reader.h"
#include "core/error.h"

namespace thresher::features {
namespace {

template <class T>
void append(std::vector<std::byte>& bytes, const T& value) {
  const auto* raw = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), raw, raw + sizeof(T));
}

/// Puts `item` at its place in a sorted list that holds at most `size`, the last falling out.
template <class T, class Before>
void insert_sorted(T* list, std::int32_t& count, std::int64_t size, const T& item, Before before) {
  if (size == 0 || (count == size && !before(item, list[count - 1]))) return;
  T* const end = list + std::min<std::int64_t>(count, size - 1);
  T* const place = std::upper_bound(list, end, item, before);
  std::move_backward(place, end, end + 1);
  *place = item;
  if (count < size) ++count;
}

}  // namespace

bool is_stronger(const ContextPeak& a, const ContextPeak& b) {
  if (a.activation != b.activation) return a.activation > b.activation;
  if (a.context != b.context) return a.context < b.context;
  return a.position < b.position;
}

LatentLists::LatentLists(std::int64_t n_latents, std::int64_t n_top, std::int64_t n_sampled,
                         std::uint64_t seed)
    : n_top_(n_top),
      n_sampled_(n_sampled),
      draws_(seed, "features.sampled_contexts"),
      top_(static_cast<std::size_t>(n_latents * n_top)),
      drawn_(static_cast<std::size_t>(n_latents * n_sampled)),
      n_in_top_(static_cast<std::size_t>(n_latents)),
      n_drawn_(static_cast<std::size_t>(n_latents)) {}

void LatentLists::offer_top(std::int64_t latent, const ContextPeak& peak) {
  insert_sorted(top_.data() + latent * n_top_, n_in_top_[latent], n_top_, peak, is_stronger);
}

void LatentLists::offer_drawn(std::int64_t latent, const Drawn& drawn) {
  insert_sorted(drawn_.data() + latent * n_sampled_, n_drawn_[latent], n_sampled_, drawn,
                [](const Drawn& a, const Drawn& b) {
                  return a.key != b.key ? a.key < b.key : a.peak.context < b.peak.context;
                });
}

void LatentLists::offer(std::int64_t latent, const ContextPeak& peak) {
  offer_top(latent, peak);
  const auto index = static_cast<std::uint64_t>(latent) << 40U;
  offer_drawn(latent, {draws_.bits(index + static_cast<std::uint64_t>(peak.context)), peak});
}

std::span<const ContextPeak> LatentLists::top(std::int64_t latent) const {
  return {top_.data() + latent * n_top_, static_cast<std::size_t>(n_in_top_[latent])};
}

std::vector<ContextPeak> LatentLists::sampled(std::int64_t latent) const {
  std::vector<ContextPeak> out;
  const Drawn* list = drawn_.data() + latent * n_sampled_;
  for (std::int32_t i = 0; i < n_drawn_[latent]; ++i) out.push_back(list[i].peak);
  std::sort(out.begin(), out.end(), is_stronger);
  return out;
}

std::vector<std::byte> LatentLists::pack(std::int64_t first, std::int64_t end) const {
  std::vector<std::byte> bytes;
  for (std::int64_t latent = first; latent < end; ++latent) {
    append(bytes, n_in_top_[latent]);
    append(bytes, n_drawn_[latent]);
    for (const ContextPeak& peak : top(latent)) append(bytes, peak);
    for (std::int32_t i = 0; i < n_drawn_[latent]; ++i) {
      append(bytes, drawn_[static_cast<std::size_t>(latent * n_sampled_ + i)]);
    }
  }
  return bytes;
}

void LatentLists::merge(std::int64_t first, std::int64_t end, std::span<const std::byte> bytes) {
  ByteReader reader(bytes, "lists of another rank");
  for (std::int64_t latent = first; latent < end; ++latent) {
    const auto n_top = reader.read<std::int32_t>("count");
    const auto n_drawn = reader.read<std::int32_t>("count");
    for (std::int32_t i = 0; i < n_top; ++i) {
      offer_top(latent, reader.read<ContextPeak>("peak"));
    }
    for (std::int32_t i = 0; i < n_drawn; ++i) {
      offer_drawn(latent, reader.read<Drawn>("peak"));
    }
  }
  THRESHER_CHECK(reader.remaining() == 0, "lists of another rank are whole");
}

}  // namespace thresher::features
