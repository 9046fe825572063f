# NCCL: a system's own, or the PyPI wheel that LibTorch's wheel brings along (2.18 or newer: non-blocking calls).
# Imported here because neither comes with a CMake config.
find_path(THRESHER_NCCL_INCLUDE nccl.h
  PATHS ${CMAKE_PREFIX_PATH} "${thresher_torch_hint}/../nvidia/nccl" PATH_SUFFIXES include
  DOC "Folder with nccl.h")
find_library(THRESHER_NCCL_LIBRARY NAMES nccl libnccl.so.2
  PATHS ${CMAKE_PREFIX_PATH} "${thresher_torch_hint}/../nvidia/nccl" PATH_SUFFIXES lib
  DOC "The NCCL library")
if(NOT THRESHER_NCCL_INCLUDE OR NOT THRESHER_NCCL_LIBRARY)
  message(FATAL_ERROR "NCCL was not found\n"
    "  expected: the wheel nvidia-nccl-cu13 beside LibTorch's (made by tools/setup.sh), or -DCMAKE_PREFIX_PATH=<a NCCL>\n"
    "  hint: run tools/setup.sh, or configure with -DTHRESHER_CUDA=OFF")
endif()
add_library(thresher_nccl SHARED IMPORTED GLOBAL)
set_target_properties(thresher_nccl PROPERTIES IMPORTED_LOCATION "${THRESHER_NCCL_LIBRARY}"
  INTERFACE_INCLUDE_DIRECTORIES "${THRESHER_NCCL_INCLUDE}")
