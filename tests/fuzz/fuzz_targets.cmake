# One libFuzzer program a parser, fuzz_<name>; fuzz_all builds them.
add_custom_target(fuzz_all)
foreach(parser safetensors safetensors_index gguf gguf_tokenizer tokenizer_json model_config npy commit_log cache_manifest
        cache_identity checkpoint_commit checkpoint_state yaml override json json_lines)
  add_executable(fuzz_${parser} libfuzzer_main.cpp)
  thresher_compile_settings(fuzz_${parser})
  target_compile_definitions(fuzz_${parser} PRIVATE THRESHER_FUZZ_PARSER="${parser}")
  target_link_libraries(fuzz_${parser} PRIVATE fuzz_parsers)
  target_link_options(fuzz_${parser} PRIVATE -fsanitize=fuzzer)
  add_dependencies(fuzz_all fuzz_${parser})
endforeach()
