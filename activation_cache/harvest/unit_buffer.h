#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "activation_cache/cache_format.h"

namespace thresher::activation_cache {

/// All positions of one unit as their source gives them, encoded for the disk. Which ones become
/// rows is decided when the unit is whole: the norm limits follow from a whole unit.
class UnitBuffer {
 public:
  /// First line of an error about a position (UnitSource::complaint).
  using Complaint =
      std::function<std::string(std::size_t hook, std::int64_t position, std::string_view problem)>;
  /// Memory for the largest unit.
  UnitBuffer(const CacheIdentity& identity, Complaint complaint);

  void begin(std::int64_t unit);
  /// Stores `activation` [positions, d_in] of the unit's positions from `first_position` on.
  /// DataError when a value is not finite.
  void store(std::size_t hook, std::int64_t first_position, std::span<const float> activation);

  std::int64_t unit() const { return unit_; }
  std::span<const std::byte> encoded(std::size_t hook) const { return hooks_[hook].encoded; }
  double norm(std::size_t hook, std::int64_t position) const {
    return hooks_[hook].norms[position];
  }
  /// DataError naming position and value when a value at this position is too large for the
  /// cache's dtype.
  void check_fits(std::int64_t position) const;

  static std::uint64_t memory_bytes(const CacheIdentity& identity);

 private:
  struct Hook {
    std::vector<std::byte> encoded;  // [unit positions, row bytes]
    std::vector<double> norms;
    std::vector<float> largest;  // magnitude in the row
  };
  [[noreturn]] void fail(std::size_t hook, std::int64_t position, std::string_view problem,
                         std::string_view expected, std::string_view hint) const;

  const CacheIdentity& identity_;
  Complaint complaint_;
  std::int64_t unit_ = 0;
  std::vector<Hook> hooks_;
};

}  // namespace thresher::activation_cache
