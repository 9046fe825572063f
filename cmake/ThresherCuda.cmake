# CMake 3.25.1 cannot give nvcc -std=c++20, so .cu files and the headers that they include stay C++17.
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_ARCHITECTURES ${THRESHER_CUDA_ARCHITECTURES})
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)  # one CUDA runtime a process, beside LibTorch's
enable_language(CUDA)
