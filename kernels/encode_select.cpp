#include "kernels/encode_select.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "kernels/detail/backends.h"
#include "kernels/detail/encode_tile.h"
#include "kernels/detail/topk_order.h"
#include "kernels/parallel.h"

namespace thresher::kernels {
namespace {

using detail::EncodeTile;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A thread goes through all its rows with one block of packed columns, which should stay in its
// second-level cache.
constexpr std::int64_t kBlockBytes = std::int64_t{384} << 10;

// Candidates beyond k that a row gathers before it is cut down to k: few cuts, short lists.
constexpr std::int64_t kSpareCandidates = 96;

void check_shape(const EncoderProduct& product) {
  THRESHER_CHECK(product.rows >= 0 && product.d >= 1 && product.n_latents >= 0,
                 "the shape of an encoder product");
  THRESHER_CHECK(product.n_latents <= std::numeric_limits<std::int32_t>::max(),
                 "a latent's index fits 32 bits");
}

void check_k(std::int64_t k, std::int64_t n_latents) {
  if (k >= 1 && k <= n_latents) return;
  throw InternalError(
      fmt::format("encode_select: k = {}, expected 1 <= k <= n_latents = {}", k, n_latents));
}

std::int64_t tile_bytes(const EncodeTile& tile, std::int64_t d) {
  return tile.cols * d * static_cast<std::int64_t>(sizeof(float));
}

std::int64_t tiles(std::int64_t count, std::int64_t tile) { return (count + tile - 1) / tile; }

/// in [count, d] -> out [d][width], columns beyond `count` zero.
void pack(std::int64_t count, std::int64_t d, std::int64_t width, const float* const* in,
          float* out) {
  constexpr std::int64_t kDepth = 16;
  for (std::int64_t first = 0; first < d; first += kDepth) {
    const std::int64_t last = std::min(first + kDepth, d);
    for (std::int64_t c = 0; c < width; ++c) {
      for (std::int64_t p = first; p < last; ++p) out[p * width + c] = c < count ? in[c][p] : 0;
    }
  }
}

/// The best candidates of one row.
class Candidates {
 public:
  void start(std::int64_t k) {
    k_ = k;
    entries_.clear();
    entries_.reserve(static_cast<std::size_t>(k + kSpareCandidates));
  }

  void add(float value, std::int32_t index, float& bound) {
    entries_.push_back(detail::topk_entry(value, static_cast<std::uint32_t>(index)));
    if (static_cast<std::int64_t>(entries_.size()) < k_ + kSpareCandidates) return;
    cut();
    bound = detail::topk_value(entries_[static_cast<std::size_t>(k_ - 1)]);
  }

  void finish(float* values, std::int32_t* indices) {
    cut();
    std::sort(entries_.begin(), entries_.end(), std::greater<>());
    const auto found = static_cast<std::int64_t>(entries_.size());
    for (std::int64_t j = 0; j < k_; ++j) {
      const std::uint64_t entry = j < found ? entries_[static_cast<std::size_t>(j)] : 0;
      indices[j] = j < found ? detail::topk_index(entry) : 0;
      values[j] = j < found ? detail::topk_value(entry) : 0;
    }
  }

 private:
  void cut() {
    if (static_cast<std::int64_t>(entries_.size()) <= k_) return;
    std::nth_element(entries_.begin(), entries_.begin() + (k_ - 1), entries_.end(),
                     std::greater<>());
    entries_.resize(static_cast<std::size_t>(k_));
  }

  std::int64_t k_ = 0;
  std::vector<std::uint64_t> entries_;
};

struct Pair {
  std::int32_t index;
  float value;
};

}  // namespace

struct EncodeSelect::Workspace {
  explicit Workspace(CpuIsa isa) : tile(detail::encode_tile(isa)) {}

  /// Masked latents come last and share no tile with the others.
  void arrange(std::int64_t n_latents, const std::uint8_t* mask);
  void pack_rows(const EncoderProduct& product);
  void pack_columns(const EncoderProduct& product, std::int64_t first, std::int64_t last,
                    const float* bounds);
  /// Calls take(row, latent, z, open) for every pre-activation but NaN that is not below the
  /// bounds of its row and its column. A row belongs to one thread; its calls come in the order of
  /// `columns`.
  template <class Take>
  void run(const EncoderProduct& product, const float* bounds, const Take& take);
  /// The chunk of columns that is packed, for a thread's rows.
  template <class Take>
  void run_rows(const EncoderProduct& product, std::int64_t first_tile, std::int64_t n_tiles,
                std::int64_t first_row_tile, std::int64_t last_row_tile, const Take& take);
  void start_rows(const EncoderProduct& product, float bound);
  static void start(std::vector<Candidates>& candidates, std::int64_t rows, std::int64_t k);
  void start_masked(std::int64_t rows, std::int64_t k);
  void add_masked(std::int64_t row, std::int32_t latent, float value);
  static void finish(std::vector<Candidates>& candidates, std::int64_t rows,
                     const TopKSlots& slots);
  void start_lists(std::int64_t rows);
  void finish_lists(std::int64_t rows, SelectedPairs& pairs);
  std::int64_t count_not_numbers() const;

  const EncodeTile& tile;
  std::vector<std::int32_t> columns;  // latents in the order of work; -1 for padding
  std::int64_t first_open_tile = 0;
  std::vector<float> packed_rows, packed_columns, bias, column_bounds;
  // By row, padded to whole tiles; open_bounds is for tiles of masked latents.
  std::vector<float> row_bounds, open_bounds;
  std::vector<std::int64_t> not_numbers;  // by row
  std::vector<float> masked_bounds;
  std::vector<Candidates> main, masked;
  std::vector<std::vector<Pair>> lists;
};

void EncodeSelect::Workspace::arrange(std::int64_t n_latents, const std::uint8_t* mask) {
  columns.clear();
  const auto append = [&](bool open) {
    for (std::int64_t j = 0; j < n_latents; ++j) {
      if ((mask != nullptr && mask[j] != 0) == open) columns.push_back(static_cast<int>(j));
    }
    while (columns.size() % static_cast<std::size_t>(tile.cols) != 0) columns.push_back(-1);
  };
  append(false);
  first_open_tile = static_cast<std::int64_t>(columns.size()) / tile.cols;
  if (mask != nullptr) append(true);
}

void EncodeSelect::Workspace::pack_rows(const EncoderProduct& product) {
  const std::int64_t n_tiles = tiles(product.rows, tile.rows);
  packed_rows.resize(static_cast<std::size_t>(n_tiles * tile.rows * product.d));
  detail::parallel_for(n_tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    const float* in[detail::kMaxTileRows];
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t first = t * tile.rows;
      const std::int64_t count = std::min<std::int64_t>(tile.rows, product.rows - first);
      for (std::int64_t r = 0; r < count; ++r) in[r] = product.x + (first + r) * product.d;
      pack(count, product.d, tile.rows, in, packed_rows.data() + first * product.d);
    }
  });
}

void EncodeSelect::Workspace::pack_columns(const EncoderProduct& product, std::int64_t first,
                                           std::int64_t last, const float* bounds) {
  detail::parallel_for(last - first, 1, [&](std::int64_t begin, std::int64_t end) {
    const float* in[detail::kMaxTileCols];
    for (std::int64_t t = begin; t < end; ++t) {
      std::int64_t count = 0;
      for (std::int64_t c = 0; c < tile.cols; ++c) {
        const std::int32_t latent = columns[static_cast<std::size_t>((first + t) * tile.cols + c)];
        const auto place = static_cast<std::size_t>(t * tile.cols + c);
        bias[place] = latent < 0 ? 0 : product.b_enc[latent];
        column_bounds[place] = latent < 0 ? kInfinity : -kInfinity;
        if (latent < 0) continue;
        if (bounds != nullptr) column_bounds[place] = bounds[latent];
        in[count++] = product.W_enc + latent * product.d;
      }
      pack(count, product.d, tile.cols, in, packed_columns.data() + t * tile.cols * product.d);
    }
  });
}

template <class Take>
void EncodeSelect::Workspace::run_rows(const EncoderProduct& product, std::int64_t first_tile,
                                       std::int64_t n_tiles, std::int64_t first_row_tile,
                                       std::int64_t last_row_tile, const Take& take) {
  alignas(64) float z[detail::kMaxTileRows * detail::kMaxTileCols];
  std::uint32_t hits[detail::kMaxTileRows];
  const std::int64_t d = product.d;
  const std::int64_t block = std::max<std::int64_t>(1, kBlockBytes / tile_bytes(tile, d));
  for (std::int64_t b = 0; b < n_tiles; b += block) {
    for (std::int64_t rt = first_row_tile; rt < last_row_tile; ++rt) {
      const std::int64_t first_row = rt * tile.rows;
      const std::int64_t n_rows = std::min<std::int64_t>(tile.rows, product.rows - first_row);
      for (std::int64_t t = b; t < std::min(b + block, n_tiles); ++t) {
        const std::int64_t at = t * tile.cols;
        const bool open = first_tile + t >= first_open_tile;
        tile.run(d, packed_rows.data() + first_row * d, packed_columns.data() + at * d,
                 bias.data() + at, (open ? open_bounds : row_bounds).data() + first_row,
                 column_bounds.data() + at, z, hits);
        const std::int32_t* latents = columns.data() + (first_tile + t) * tile.cols;
        for (std::int64_t r = 0; r < n_rows; ++r) {
          for (std::uint32_t left = hits[r]; left != 0; left &= left - 1) {
            const int c = __builtin_ctz(left);
            if (latents[c] < 0) continue;
            const float value = z[r * tile.cols + c];
            if (value == value) {
              take(first_row + r, latents[c], value, open);
            } else {
              ++not_numbers[static_cast<std::size_t>(first_row + r)];
            }
          }
        }
      }
    }
  }
}

void EncodeSelect::Workspace::start_rows(const EncoderProduct& product, float bound) {
  const std::int64_t padded = tiles(product.rows, tile.rows) * tile.rows;
  row_bounds.assign(static_cast<std::size_t>(padded), bound);
  open_bounds = row_bounds;
  not_numbers.assign(static_cast<std::size_t>(product.rows), 0);
  pack_rows(product);
}

void EncodeSelect::Workspace::start(std::vector<Candidates>& candidates, std::int64_t rows,
                                    std::int64_t k) {
  const auto count = static_cast<std::size_t>(rows);
  candidates.resize(std::max(count, candidates.size()));
  for (std::size_t r = 0; r < count; ++r) candidates[r].start(k);
}

void EncodeSelect::Workspace::start_masked(std::int64_t rows, std::int64_t k) {
  start(masked, rows, k);
  masked_bounds.assign(static_cast<std::size_t>(rows), -kInfinity);
  std::fill_n(open_bounds.begin(), rows, -kInfinity);
}

void EncodeSelect::Workspace::add_masked(std::int64_t row, std::int32_t latent, float value) {
  const auto r = static_cast<std::size_t>(row);
  if (value >= masked_bounds[r]) masked[r].add(value, latent, masked_bounds[r]);
  open_bounds[r] = std::min(row_bounds[r], masked_bounds[r]);
}

void EncodeSelect::Workspace::finish(std::vector<Candidates>& candidates, std::int64_t rows,
                                     const TopKSlots& slots) {
  detail::parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      candidates[static_cast<std::size_t>(r)].finish(slots.values + r * slots.k,
                                                     slots.indices + r * slots.k);
    }
  });
}

void EncodeSelect::Workspace::start_lists(std::int64_t rows) {
  const auto count = static_cast<std::size_t>(rows);
  lists.resize(std::max(count, lists.size()));
  for (std::size_t r = 0; r < count; ++r) lists[r].clear();
}

void EncodeSelect::Workspace::finish_lists(std::int64_t rows, SelectedPairs& pairs) {
  pairs.row_offsets.assign(1, 0);
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::size_t count = lists[static_cast<std::size_t>(r)].size();
    pairs.row_offsets.push_back(pairs.row_offsets.back() + static_cast<std::int64_t>(count));
  }
  pairs.values.resize(static_cast<std::size_t>(pairs.row_offsets.back()));
  pairs.indices.resize(pairs.values.size());
  const bool in_order = first_open_tile * tile.cols == static_cast<std::int64_t>(columns.size());
  detail::parallel_for(rows, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      std::vector<Pair>& list = lists[static_cast<std::size_t>(r)];
      if (!in_order) {
        std::sort(list.begin(), list.end(),
                  [](const Pair& a, const Pair& b) { return a.index < b.index; });
      }
      auto place = static_cast<std::size_t>(pairs.row_offsets[static_cast<std::size_t>(r)]);
      for (const Pair& pair : list) {
        pairs.indices[place] = pair.index;
        pairs.values[place++] = pair.value;
      }
    }
  });
}

template <class Take>
void EncodeSelect::Workspace::run(const EncoderProduct& product, const float* bounds,
                                  const Take& take) {
  const std::int64_t n_tiles = static_cast<std::int64_t>(columns.size()) / tile.cols;
  if (n_tiles == 0 || product.rows == 0) return;
  const std::int64_t chunk =
      std::clamp<std::int64_t>(kPackedBytes / tile_bytes(tile, product.d), 1, n_tiles);
  packed_columns.resize(static_cast<std::size_t>(chunk * tile.cols * product.d));
  bias.resize(static_cast<std::size_t>(chunk * tile.cols));
  column_bounds.resize(bias.size());
  for (std::int64_t first = 0; first < n_tiles; first += chunk) {
    const std::int64_t last = std::min(first + chunk, n_tiles);
    pack_columns(product, first, last, bounds);
    detail::parallel_for(tiles(product.rows, tile.rows), 1,
                         [&](std::int64_t begin, std::int64_t end) {
                           run_rows(product, first, last - first, begin, end, take);
                         });
  }
}

std::int64_t EncodeSelect::Workspace::count_not_numbers() const {
  return std::accumulate(not_numbers.begin(), not_numbers.end(), std::int64_t{0});
}

EncodeSelect::EncodeSelect(CpuIsa isa) : workspace_(std::make_unique<Workspace>(isa)) {}
EncodeSelect::~EncodeSelect() = default;
EncodeSelect::EncodeSelect(EncodeSelect&&) noexcept = default;
EncodeSelect& EncodeSelect::operator=(EncodeSelect&&) noexcept = default;

void EncodeSelect::check(const EncoderProduct& product, const std::uint8_t* mask,
                         const TopKSlots* masked) const {
  check_shape(product);
  THRESHER_CHECK((mask == nullptr) == (masked == nullptr), "a mask and a place for its pairs");
  if (mask == nullptr) return;
  detail::check_open_columns(masked->k,
                             product.n_latents - std::count(mask, mask + product.n_latents, 0),
                             product.n_latents);
}

std::int64_t EncodeSelect::topk(const EncoderProduct& product, const TopKSlots& slots,
                                const std::uint8_t* mask, const TopKSlots* masked_slots) {
  check(product, mask, masked_slots);
  check_k(slots.k, product.n_latents);
  if (product.rows == 0) return 0;
  Workspace& work = *workspace_;
  work.arrange(product.n_latents, mask);
  work.start_rows(product, -kInfinity);
  Workspace::start(work.main, product.rows, slots.k);
  if (mask != nullptr) work.start_masked(product.rows, masked_slots->k);
  work.run(product, nullptr,
           [&work](std::int64_t row, std::int32_t latent, float value, bool open) {
             float& bound = work.row_bounds[static_cast<std::size_t>(row)];
             if (value >= bound) work.main[static_cast<std::size_t>(row)].add(value, latent, bound);
             if (open) work.add_masked(row, latent, value);
           });
  Workspace::finish(work.main, product.rows, slots);
  if (mask != nullptr) Workspace::finish(work.masked, product.rows, *masked_slots);
  return work.count_not_numbers();
}

std::int64_t EncodeSelect::above(const EncoderProduct& product, const float* bounds,
                                 SelectedPairs& pairs) {
  check_shape(product);
  Workspace& work = *workspace_;
  work.arrange(product.n_latents, nullptr);
  work.start_rows(product, -kInfinity);
  work.start_lists(product.rows);
  work.run(product, bounds, [&work](std::int64_t row, std::int32_t latent, float value, bool) {
    work.lists[static_cast<std::size_t>(row)].push_back({latent, value});
  });
  work.finish_lists(product.rows, pairs);
  return work.count_not_numbers();
}

std::int64_t EncodeSelect::above(const EncoderProduct& product, float bound, SelectedPairs& pairs,
                                 const std::uint8_t* mask, const TopKSlots* masked_slots) {
  check(product, mask, masked_slots);
  Workspace& work = *workspace_;
  work.arrange(product.n_latents, mask);
  work.start_rows(product, bound);
  work.start_lists(product.rows);
  if (mask != nullptr) work.start_masked(product.rows, masked_slots->k);
  work.run(product, nullptr,
           [&work, bound](std::int64_t row, std::int32_t latent, float value, bool open) {
             if (value >= bound) {
               work.lists[static_cast<std::size_t>(row)].push_back({latent, value});
             }
             if (open) work.add_masked(row, latent, value);
           });
  work.finish_lists(product.rows, pairs);
  if (mask != nullptr) Workspace::finish(work.masked, product.rows, *masked_slots);
  return work.count_not_numbers();
}

}  // namespace thresher::kernels
