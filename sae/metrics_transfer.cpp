#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "sae/metrics.h"

namespace thresher::sae {
namespace {

template <class T>
void append(std::vector<std::byte>& out, std::span<const T> values) {
  const std::size_t before = out.size();
  out.resize(before + values.size_bytes());
  std::memcpy(out.data() + before, values.data(), values.size_bytes());
}

template <class T>
void take(std::span<const std::byte>& from, std::span<T> values) {
  THRESHER_CHECK(from.size() >= values.size_bytes(), "metrics of another width");
  std::memcpy(values.data(), from.data(), values.size_bytes());
  from = from.subspan(values.size_bytes());
}

template <class T>
void add_to(std::vector<T>& sums, const std::vector<T>& more) {
  std::transform(sums.begin(), sums.end(), more.begin(), sums.begin(), std::plus<>());
}

}  // namespace

void ReconstructionMetrics::merge(const ReconstructionMetrics& other) {
  THRESHER_CHECK(d_in_ == other.d_in_ && n_latents_ == other.n_latents_,
                 "metrics of different widths cannot be merged");
  if (other.n_tokens_ == 0) return;
  if (n_tokens_ == 0) {
    *this = other;
    return;
  }
  THRESHER_CHECK(has_latents_ == other.has_latents_,
                 "latent activations are given for all rows or for none");
  ReconstructionMetrics moved = other;
  moved.move_shift(shift_);
  n_tokens_ += moved.n_tokens_;
  add_to(sum_, moved.sum_);
  sum_squares_ += moved.sum_squares_;
  sum_squared_error_ += moved.sum_squared_error_;
  sum_cosine_ += moved.sum_cosine_;
  sum_l0_ += moved.sum_l0_;
  sum_l1_ += moved.sum_l1_;
  add_to(fire_counts_, moved.fire_counts_);
}

void ReconstructionMetrics::merge_ranks(const ReconstructionMetrics* part,
                                        comm::Communicator& comm) {
  const std::vector<std::byte> mine = part == nullptr ? std::vector<std::byte>() : part->to_bytes();
  for (const std::vector<std::byte>& bytes : comm.all_gather(mine, "metrics")) {
    if (!bytes.empty()) merge(from_bytes(d_in_, n_latents_, bytes));
  }
}

std::vector<std::byte> ReconstructionMetrics::to_bytes() const {
  const std::int64_t counts[] = {n_tokens_, has_shift_ ? 1 : 0, has_latents_ ? 1 : 0};
  const double sums[] = {sum_squares_, sum_squared_error_, sum_cosine_, sum_l0_, sum_l1_};
  std::vector<std::byte> out;
  append(out, std::span<const std::int64_t>(counts));
  append(out, std::span<const double>(sums));
  append(out, std::span<const double>(shift_));
  append(out, std::span<const double>(sum_));
  append(out, std::span<const std::int64_t>(fire_counts_));
  return out;
}

ReconstructionMetrics ReconstructionMetrics::from_bytes(std::int64_t d_in, std::int64_t n_latents,
                                                        std::span<const std::byte> bytes) {
  ReconstructionMetrics out(d_in, n_latents);
  std::int64_t counts[3];
  double sums[5];
  take(bytes, std::span<std::int64_t>(counts));
  take(bytes, std::span<double>(sums));
  take(bytes, std::span<double>(out.shift_));
  take(bytes, std::span<double>(out.sum_));
  take(bytes, std::span<std::int64_t>(out.fire_counts_));
  THRESHER_CHECK(bytes.empty(), "metrics of another width");
  out.n_tokens_ = counts[0];
  out.has_shift_ = counts[1] != 0;
  out.has_latents_ = counts[2] != 0;
  out.sum_squares_ = sums[0];
  out.sum_squared_error_ = sums[1];
  out.sum_cosine_ = sums[2];
  out.sum_l0_ = sums[3];
  out.sum_l1_ = sums[4];
  return out;
}

}  // namespace thresher::sae
