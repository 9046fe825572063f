#pragma once

#include <cstdint>

#include "kernels/cpu_isa.h"
#include "kernels/detail/adam_element.h"

namespace thresher::kernels::detail {

/// Scaled rows are added in this many columns at a time, which stay in registers.
constexpr std::int64_t kMaxBlockCols = 256;

/// Rows of one lane inside a RowSum.
struct LaneSegment {
  std::int64_t end;  // the lane's rows are those from the segment before up to `end`
  std::int64_t
      merges;  // how many waiting sums of lanes on the left are complete by adding this one
};

/// start + sum over rows of coefficients[i] * rows[i], in the order given, products rounded.
///
/// With several segments every segment starts at +0 and the segments are added along the binary
/// tree over lanes: after a segment `merges` sums are taken from the stack and added, and unless it
/// is the last one the result is put there.
struct RowSum {
  const float* const* rows;
  const float* coefficients;
  const LaneSegment* segments;
  std::int64_t n_segments;  // at least 1
  const float* start;       // [d], or null: +0
  // What the next sum will read, to be fetched meanwhile: a row is asked for when the row of the
  // same place has been added.
  const float* const* next_rows;
  std::int64_t n_next;
};

/// Dot products of two rows, in 8 partial sums that are added as a tree (detail/lanes.h).
struct RowDots {
  double aa, ab, bb;
};

/// The loops that decide the time of a step outside the encoder product, written once for every
/// width of vectors. All give the same bits.
struct RowLoops {
  /// out [d]; `stack` holds (most merges + 1) * kMaxBlockCols.
  void (*sum)(const RowSum& job, std::int64_t d, float* stack, float* out);
  /// out[i] = dot(rows[i], vector), in 16 partial sums that are added as a tree (detail/lanes.h).
  void (*dots)(std::int64_t count, const float* const* rows, const float* vector, std::int64_t d,
               float* out);
  RowDots (*row_dots)(const float* a, const float* b, std::int64_t d);
  /// adam_element on `count` values.
  void (*adam)(const AdamFactors& factors, std::int64_t count, const float* gradient,
               float* weights, float* m, float* v);
  /// One row of adam_unit_rows.
  void (*adam_unit_row)(const AdamFactors& factors, double parallel, bool renormalises,
                        std::int64_t d, const float* gradient, float* weights, float* m, float* v);
  /// sums += coefficient * row, in float64.
  void (*add_row)(double coefficient, const float* row, std::int64_t d, double* sums);
  /// out = x - recon.
  void (*subtract)(const float* x, const float* recon, std::int64_t d, float* out);
};

/// InternalError if this processor lacks it.
const RowLoops& row_loops(CpuIsa isa);

/// One a file, so that each is compiled for its instruction set.
extern const RowLoops kRowLoopsPortable, kRowLoopsAvx2, kRowLoopsAvx512;

}  // namespace thresher::kernels::detail
