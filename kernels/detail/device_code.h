#pragma once

// The algorithms of the CUDA kernels stand in detail/*_device.h, free of CUDA's own names: nvcc
// compiles them for the GPU, and g++ compiles them for the tests, which run every thread of a block
// in turn. A block is anything with
//
//     threads()           how many threads it has
//     each(f)             f(thread) on every thread, then a barrier
//     fetch_add(counter)  adds 1 to a 32-bit counter of the block and returns what was there
//     add(counter, n)     adds to a 64-bit counter of all blocks
//     each_warp(f)        f(warp, index) on every warp, itself a block of 32 threads; then a
//     barrier
//
// THRESHER_BOTH is for what the host calls too, to lay out a launch.
//
// State that decides where the block goes is written by one thread inside `each` and read after it.
#ifdef __CUDACC__
#define THRESHER_DEVICE __device__
#define THRESHER_BOTH __host__ __device__
#define THRESHER_UNROLL _Pragma("unroll")
#else
#define THRESHER_DEVICE
#define THRESHER_BOTH
#define THRESHER_UNROLL
#endif
