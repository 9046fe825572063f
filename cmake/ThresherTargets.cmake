# One function makes a layer's library, one a test program; a folder's CMakeLists.txt stays ten lines.

# Clang 14 cannot make libstdc++ 12's constexpr vector of pairs of the class that holds it. The fuzz targets are
# compiled with a copy of the header in which the pair is a class of its own.
if(THRESHER_FUZZ)
  file(READ "${PROJECT_SOURCE_DIR}/core/config.h" thresher_config_header)
  string(REPLACE "struct ConfigNode {" "struct ConfigMember;\nstruct ConfigNode {" thresher_config_header
         "${thresher_config_header}")
  string(REPLACE "std::pair<ConfigNode, ConfigNode>" "ConfigMember" thresher_config_header "${thresher_config_header}")
  string(REPLACE "/// Throws ConfigError with file:line:column." "struct ConfigMember {
  ConfigMember(ConfigNode key, ConfigNode value) : first(std::move(key)), second(std::move(value)) {}
  ConfigNode first, second;
};

/// Throws ConfigError with file:line:column." thresher_config_header "${thresher_config_header}")
  file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/fuzz_include/core/config.h" CONTENT "${thresher_config_header}" @ONLY)
  include_directories(BEFORE "${PROJECT_BINARY_DIR}/fuzz_include")
endif()

function(thresher_compile_settings target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX,C>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
      -fno-fast-math -ffp-contract=off -fstack-protector-strong>
    # GCC 12 sees overlapping copies in plain std::string code that are not there (GCC bug 105651).
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>
    $<$<AND:$<BOOL:${THRESHER_WERROR}>,$<COMPILE_LANGUAGE:CXX,C>>:-Werror>
    $<$<AND:$<BOOL:${THRESHER_WERROR}>,$<COMPILE_LANGUAGE:CUDA>>:-Werror=all-warnings>)
  target_compile_definitions(${target} PRIVATE
    $<$<BOOL:${THRESHER_FAILPOINTS}>:THRESHER_FAILPOINTS>
    $<$<CONFIG:Debug>:_GLIBCXX_ASSERTIONS>)
  target_link_options(${target} PRIVATE -Wl,-z,relro,-z,now)
  if(THRESHER_FUZZ)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX,C>:-fsanitize=fuzzer-no-link>)
  endif()
  if(THRESHER_SANITIZE)
    target_compile_options(${target} PRIVATE
      $<$<COMPILE_LANGUAGE:CXX,C>:-fsanitize=${THRESHER_SANITIZE} -fno-sanitize-recover=all
        -fno-omit-frame-pointer>)
    target_link_options(${target} PRIVATE -fsanitize=${THRESHER_SANITIZE})
    target_compile_definitions(${target} PRIVATE $<$<NOT:$<CONFIG:Debug>>:_GLIBCXX_ASSERTIONS>)
  else()  # the sanitizers' own checks of the C library are finer
    target_compile_definitions(${target} PRIVATE $<$<NOT:$<CONFIG:Debug>>:_FORTIFY_SOURCE=2>)
  endif()
endfunction()

# ATen's headers take seconds to parse; every file that uses them shares one precompiled copy.
function(thresher_use_torch target)
  target_link_libraries(${target} PUBLIC thresher_torch)
  if(NOT TARGET thresher_torch_pch)
    file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/thresher_torch_pch.cpp" CONTENT "")  # written once
    add_library(thresher_torch_pch OBJECT "${PROJECT_BINARY_DIR}/thresher_torch_pch.cpp")
    thresher_compile_settings(thresher_torch_pch)
    target_link_libraries(thresher_torch_pch PUBLIC thresher_torch)
    target_precompile_headers(thresher_torch_pch PRIVATE
      <ATen/ATen.h> <algorithm> <array> <cmath> <cstdint> <filesystem> <functional> <map> <memory> <optional>
      <span> <string> <string_view> <utility> <vector>)
  endif()
  target_precompile_headers(${target} REUSE_FROM thresher_torch_pch)
endfunction()

function(thresher_install_library target name)
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  install(TARGETS ${target} EXPORT ThresherTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  cmake_path(RELATIVE_PATH CMAKE_CURRENT_SOURCE_DIR BASE_DIRECTORY "${PROJECT_SOURCE_DIR}" OUTPUT_VARIABLE folder)
  file(GLOB headers CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.h")
  list(FILTER headers EXCLUDE REGEX "/(hdf5_handle|shard_layout)\\.h$")  # private: they name outside types
  install(FILES ${headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/thresher/${folder})
endfunction()

# thresher_add_library(NAME SOURCES ... DEPENDS <our layers> PRIVATE_DEPENDS <outside libraries> [TORCH] [INTERNAL])
# INTERNAL: for the program alone, not installed.
function(thresher_add_library name)
  cmake_parse_arguments(arg "TORCH;INTERNAL" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  set(target thresher_${name})
  add_library(${target} STATIC ${arg_SOURCES})
  add_library(thresher::${name} ALIAS ${target})
  target_include_directories(${target} PUBLIC "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>"
    "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/thresher>")
  target_compile_features(${target} PUBLIC cxx_std_20)
  thresher_compile_settings(${target})
  if(NOT arg_INTERNAL)
    thresher_install_library(${target} ${name})
  endif()
  foreach(dependency IN LISTS arg_DEPENDS)
    target_link_libraries(${target} PUBLIC thresher::${dependency})
  endforeach()
  target_link_libraries(${target} PRIVATE ${arg_PRIVATE_DEPENDS} fmt::fmt)
  if(arg_TORCH)
    thresher_use_torch(${target})
  endif()
endfunction()

function(thresher_print_summary)
  message(STATUS "Thresher ${PROJECT_VERSION}")
  foreach(option CMAKE_BUILD_TYPE THRESHER_LAYERS THRESHER_CUDA THRESHER_CUDA_ARCHITECTURES THRESHER_BUILD_TESTS
                 THRESHER_BUILD_BENCH THRESHER_SANITIZE THRESHER_FUZZ THRESHER_WERROR THRESHER_FAILPOINTS)
    message(STATUS "  ${option} = ${${option}}")
  endforeach()
endfunction()
