# `cmake --install`: the program, the layers as static libraries with their headers, and the package that
# find_package(Thresher) reads. The libraries and headers are listed where each layer is made.
include(CMakePackageConfigHelpers)
set(thresher_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/Thresher")

if(TARGET thresher)
  install(TARGETS thresher RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(EXPORT ThresherTargets NAMESPACE thresher:: DESTINATION ${thresher_package_dir})
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/ThresherConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/ThresherConfig.cmake" INSTALL_DESTINATION ${thresher_package_dir})
# Bits and formats may change between minor versions until 1.0.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/ThresherConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/ThresherConfig.cmake" "${PROJECT_BINARY_DIR}/ThresherConfigVersion.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/ThresherDependencies.cmake" "${PROJECT_SOURCE_DIR}/cmake/ThresherTorch.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/ThresherNccl.cmake"
  DESTINATION ${thresher_package_dir})
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION ${CMAKE_INSTALL_DOCDIR})
