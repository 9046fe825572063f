thresher_add_test(core_gguf_test SOURCES gguf_test.cpp DEPENDS core)
thresher_add_test(core_gguf_malformed_test SOURCES gguf_malformed_test.cpp DEPENDS core)

add_executable(gguf_dump gguf_dump.cpp)
thresher_compile_settings(gguf_dump)
target_link_libraries(gguf_dump PRIVATE thresher::core fmt::fmt)
thresher_add_python_test(GgufOracle "${CMAKE_CURRENT_SOURCE_DIR}/gguf_oracle.py" LABELS golden)
thresher_add_python_test(GgufDifferential "${CMAKE_CURRENT_SOURCE_DIR}/gguf_differential.py" ARGS --files 2000 LABELS golden)
thresher_add_python_test(GgufDifferentialSoak "${CMAKE_CURRENT_SOURCE_DIR}/gguf_differential.py" ARGS --files 100000 LABELS soak
                         TIMEOUT 7200)
