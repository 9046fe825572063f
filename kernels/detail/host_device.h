#pragma once

// Marks the per-thread algorithms of the CUDA kernels. g++ compiles them too, and the tests run
// them on the CPU.
#ifdef __CUDACC__
#define THRESHER_HOST_DEVICE __host__ __device__
#else
#define THRESHER_HOST_DEVICE
#endif
