thresher_add_test(core_test
  SOURCES dtype_test.cpp faults_test.cpp files_test.cpp hash_test.cpp json_field_test.cpp json_test.cpp limited_child_test.cpp npy_test.cpp power_loss.cpp random_test.cpp small_parts_test.cpp
  DEPENDS core)
thresher_add_test(core_safetensors_test SOURCES safetensors_test.cpp safetensors_shards_test.cpp allocation_meter.cpp DEPENDS core)

add_executable(safetensors_tool safetensors_tool.cpp)
thresher_compile_settings(safetensors_tool)
target_link_libraries(safetensors_tool PRIVATE thresher::core fmt::fmt)
thresher_add_python_test(SafetensorsOracle "${CMAKE_CURRENT_SOURCE_DIR}/safetensors_oracle.py" LABELS golden)
thresher_add_python_test(SafetensorsOracleSoak "${CMAKE_CURRENT_SOURCE_DIR}/safetensors_oracle.py" ARGS --files 100000 LABELS soak
                         TIMEOUT 7200)
