# LibTorch is the PyPI wheel. Its own CMake config demands a CUDA toolkit even where only the CPU library is
# used, so its libraries are imported directly.
# Used by the build and, installed beside ThresherConfig.cmake, by every project that links Thresher.
set(thresher_torch_version 2.11.0)

find_path(THRESHER_TORCH_INCLUDE ATen/core/Tensor.h
  PATHS ${CMAKE_PREFIX_PATH} "${thresher_torch_hint}"
  PATH_SUFFIXES include torch/include NO_DEFAULT_PATH
  DOC "Folder with LibTorch's headers")
if(NOT THRESHER_TORCH_INCLUDE)
  message(FATAL_ERROR
    "LibTorch ${thresher_torch_version} was not found\n"
    "  expected: ${thresher_torch_hint} (made by tools/setup.sh), or -DCMAKE_PREFIX_PATH=<folder of a LibTorch>\n"
    "  hint: run tools/setup.sh")
endif()
get_filename_component(thresher_torch_root "${THRESHER_TORCH_INCLUDE}" DIRECTORY)
file(STRINGS "${THRESHER_TORCH_INCLUDE}/torch/headeronly/version.h" thresher_torch_numbers
     REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
string(REGEX REPLACE "[^0-9;]" "" thresher_torch_numbers "${thresher_torch_numbers}")
string(REPLACE ";" "." thresher_torch_found "${thresher_torch_numbers}")
if(NOT thresher_torch_found STREQUAL thresher_torch_version)
  message(FATAL_ERROR "LibTorch in ${thresher_torch_root} is version ${thresher_torch_found}\n"
    "  expected: ${thresher_torch_version}\n  hint: run tools/setup.sh")
endif()

# With CUDA the wheel's CUDA libraries register themselves when they are loaded; no header of theirs is needed.
set(thresher_torch_libraries torch_cpu c10)
if(THRESHER_CUDA)
  list(APPEND thresher_torch_libraries torch_cuda c10_cuda)
endif()
set(thresher_torch_targets "")
foreach(library IN LISTS thresher_torch_libraries)
  list(APPEND thresher_torch_targets thresher_${library})
  find_library(THRESHER_LIB_${library} ${library} PATHS "${thresher_torch_root}/lib" NO_DEFAULT_PATH REQUIRED)
  add_library(thresher_${library} SHARED IMPORTED GLOBAL)
  set_target_properties(thresher_${library} PROPERTIES IMPORTED_LOCATION "${THRESHER_LIB_${library}}")
endforeach()
add_library(thresher_torch INTERFACE IMPORTED GLOBAL)
# The wheel's include folder also holds its own fmt, of another version than the system's that is linked here;
# only the parts that ATen's headers need are made visible.
file(MAKE_DIRECTORY "${CMAKE_BINARY_DIR}/torch_include")
foreach(part ATen c10 torch)
  file(CREATE_LINK "${THRESHER_TORCH_INCLUDE}/${part}" "${CMAKE_BINARY_DIR}/torch_include/${part}" SYMBOLIC)
endforeach()
target_include_directories(thresher_torch SYSTEM INTERFACE "${CMAKE_BINARY_DIR}/torch_include")
# --no-as-needed: operators are registered by static initialisers that no symbol of ours refers to.
target_link_libraries(thresher_torch INTERFACE -Wl,--no-as-needed ${thresher_torch_targets} -Wl,--as-needed)
target_compile_definitions(thresher_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
# The wheel finds its own dependencies (OpenMP runtime, CUDA runtime and profiler stubs) relative to itself.
get_filename_component(thresher_site_packages "${thresher_torch_root}" DIRECTORY)
target_link_options(thresher_torch INTERFACE
  "-Wl,-rpath-link,${thresher_torch_root}/lib" "-Wl,-rpath-link,${thresher_site_packages}/nvidia/cu13/lib")
