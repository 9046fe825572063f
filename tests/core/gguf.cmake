thresher_add_test(core_gguf_test SOURCES gguf_test.cpp DEPENDS core)
thresher_add_test(core_gguf_malformed_test SOURCES gguf_malformed_test.cpp allocation_meter.cpp DEPENDS core)

add_executable(gguf_dump gguf_dump.cpp)
thresher_compile_settings(gguf_dump)
target_link_libraries(gguf_dump PRIVATE thresher::core fmt::fmt)
thresher_add_python_test(GgufOracle "${CMAKE_CURRENT_SOURCE_DIR}/gguf_oracle.py" LABELS golden)
