# Every switch is ON or OFF: two machines must never silently build different products.
option(THRESHER_CUDA "Build the CUDA kernels (needs nvcc; no GPU needed to build)" OFF)
option(THRESHER_BUILD_TESTS "Build the tests" ON)
option(THRESHER_BUILD_BENCH "Build the micro benchmarks" OFF)
option(THRESHER_WERROR "Treat warnings as errors" ON)
option(THRESHER_FAILPOINTS "Compile in the crash points that the kill tests use" ON)
option(THRESHER_FUZZ "Build the libFuzzer targets in the tests' place (Clang; see the preset fuzz)" OFF)
set(THRESHER_CUDA_ARCHITECTURES "80;90" CACHE STRING "CUDA architectures, an explicit list, never 'native'")
set(THRESHER_SANITIZE "" CACHE STRING "Sanitizers, as for -fsanitize=: address,undefined or thread")

set(thresher_all_layers core comm kernels corpus host_model activation_cache sae trainer evaluation features cli
    operators)
# "all" and not the list itself: a build folder made before a layer was added would keep the old list.
set(THRESHER_LAYERS "all" CACHE STRING
    "Layers to build, in order, or all; a prefix such as core;comm;kernels needs no LibTorch")
if(THRESHER_LAYERS STREQUAL "all")
  set(THRESHER_LAYERS ${thresher_all_layers})
elseif("cli" IN_LIST THRESHER_LAYERS AND NOT "features" IN_LIST THRESHER_LAYERS)
  message(FATAL_ERROR "THRESHER_LAYERS = ${THRESHER_LAYERS}: cli needs every layer before it.\n"
    "hint: the folder was configured before a layer was added: cmake -U THRESHER_LAYERS ${PROJECT_BINARY_DIR}")
endif()

# Layers whose targets use ATen. Without any of them LibTorch is not looked for.
set(thresher_torch_layers host_model sae trainer evaluation features cli operators)
set(thresher_needs_torch OFF)
foreach(layer IN LISTS THRESHER_LAYERS)
  if(layer IN_LIST thresher_torch_layers)
    set(thresher_needs_torch ON)
  endif()
endforeach()

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bin")
