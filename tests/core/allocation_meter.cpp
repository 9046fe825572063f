#include "tests/core/allocation_meter.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<std::size_t> largest = 0;

void* metered(std::size_t size) {
  std::size_t before = largest.load(std::memory_order_relaxed);
  while (size > before && !largest.compare_exchange_weak(before, size, std::memory_order_relaxed)) {
  }
  return std::malloc(size);
}

}  // namespace

// All of them: those left out would be a sanitizer's own, which knows memory of malloc by another
// name.
void* operator new(std::size_t size) {
  if (void* memory = metered(size)) return memory;
  throw std::bad_alloc();
}
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return metered(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return metered(size); }

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }

namespace thresher::testing {

std::size_t largest_allocation() { return largest.load(std::memory_order_relaxed); }
void reset_largest_allocation() { largest.store(0, std::memory_order_relaxed); }

}  // namespace thresher::testing
