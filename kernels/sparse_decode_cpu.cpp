#include <algorithm>
#include <vector>

#include "kernels/detail/backends.h"
#include "kernels/detail/row_loops.h"
#include "kernels/parallel.h"

namespace thresher::kernels::detail {
namespace {

// About this many multiply-adds are worth a thread.
constexpr std::int64_t kGrainFlops = 1 << 15;

/// Runs body(begin, end) on ranges of rows with about equally many pairs.
template <class Body>
void for_rows(std::int64_t rows, std::int64_t d, const std::int64_t* row_offsets,
              const Body& body) {
  const std::int64_t grain = std::max<std::int64_t>(1, kGrainFlops / std::max<std::int64_t>(1, d));
  parallel_for_cost(
      rows, grain, [&](std::int64_t row) { return row_offsets[row] - row_offsets[0] + row; }, body);
}

struct SparseRows {
  std::int64_t d;
  const std::int64_t* row_offsets;
  const std::int32_t* indices;
  const float* values;  // null: every slot counts
  const float* W_dec;
};

/// What one row takes from the decoder: its slots whose value is not 0.
struct ActiveSlots {
  std::vector<const float*> decoder_rows;
  std::vector<float> values;
  std::vector<std::int64_t> slots;
  std::vector<float> dots;

  void read(const SparseRows& sparse, std::int64_t row) {
    decoder_rows.clear();
    values.clear();
    slots.clear();
    for (std::int64_t slot = sparse.row_offsets[row]; slot < sparse.row_offsets[row + 1]; ++slot) {
      if (sparse.values != nullptr && sparse.values[slot] == 0.0f) continue;
      decoder_rows.push_back(sparse.W_dec + sparse.indices[slot] * sparse.d);
      if (sparse.values != nullptr) values.push_back(sparse.values[slot]);
      slots.push_back(slot);
    }
    dots.resize(slots.size());
  }

  std::int64_t count() const { return static_cast<std::int64_t>(slots.size()); }
};

/// Calls body(row, its slots, the next row's slots) for the rows of a range.
template <class Body>
void walk_rows(const SparseRows& sparse, std::int64_t begin, std::int64_t end, const Body& body) {
  ActiveSlots now, next;
  next.read(sparse, begin);
  for (std::int64_t row = begin; row < end; ++row) {
    std::swap(now, next);
    if (row + 1 < end) {
      next.read(sparse, row + 1);
    } else {
      next.slots.clear();
    }
    body(row, now, next);
  }
}

void decode_row(const RowLoops& loops, std::int64_t d, const ActiveSlots& slots,
                const ActiveSlots& next, const float* bias, float* out) {
  const LaneSegment whole{slots.count(), 0};
  const RowSum sum{slots.decoder_rows.data(), slots.values.data(), &whole, 1, bias,
                   next.decoder_rows.data(),  next.count()};
  loops.sum(sum, d, nullptr, out);
}

}  // namespace

void sparse_decode_cpu(std::int64_t rows, std::int64_t d, const std::int64_t* row_offsets,
                       const std::int32_t* indices, const float* values, const float* W_dec,
                       const float* bias, float* recon) {
  const RowLoops& loops = row_loops(cpu_isa());
  const SparseRows sparse{d, row_offsets, indices, values, W_dec};
  for_rows(rows, d, row_offsets, [&](std::int64_t begin, std::int64_t end) {
    walk_rows(sparse, begin, end,
              [&](std::int64_t row, const ActiveSlots& slots, const ActiveSlots& next) {
                decode_row(loops, d, slots, next, bias, recon + row * d);
              });
  });
}

void sparse_decode_grad_values_cpu(std::int64_t rows, std::int64_t d,
                                   const std::int64_t* row_offsets, const std::int32_t* indices,
                                   const float* grad_recon, const float* W_dec,
                                   float* grad_values) {
  const RowLoops& loops = row_loops(cpu_isa());
  const SparseRows sparse{d, row_offsets, indices, nullptr, W_dec};
  for_rows(rows, d, row_offsets, [&](std::int64_t begin, std::int64_t end) {
    walk_rows(sparse, begin, end,
              [&](std::int64_t row, const ActiveSlots& slots, const ActiveSlots&) {
                loops.dots(slots.count(), slots.decoder_rows.data(), grad_recon + row * d, d,
                           grad_values + row_offsets[row]);
              });
  });
}

void sparse_residuals_cpu(std::int64_t rows, std::int64_t d, const std::int64_t* row_offsets,
                          const std::int32_t* indices, const float* values, const float* W_dec,
                          const float* bias, const float* x, float* residuals, float* dots) {
  const RowLoops& loops = row_loops(cpu_isa());
  const SparseRows sparse{d, row_offsets, indices, values, W_dec};
  for_rows(rows, d, row_offsets, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> recon(static_cast<std::size_t>(d));
    walk_rows(
        sparse, begin, end, [&](std::int64_t row, ActiveSlots& slots, const ActiveSlots& next) {
          float* residual = residuals + row * d;
          decode_row(loops, d, slots, next, bias, recon.data());
          loops.subtract(x + row * d, recon.data(), d, residual);
          loops.dots(slots.count(), slots.decoder_rows.data(), residual, d, slots.dots.data());
          std::fill(dots + row_offsets[row], dots + row_offsets[row + 1], 0.0f);
          for (std::int64_t i = 0; i < slots.count(); ++i) {
            dots[slots.slots[static_cast<std::size_t>(i)]] =
                slots.dots[static_cast<std::size_t>(i)];
          }
        });
  });
}

}  // namespace thresher::kernels::detail
