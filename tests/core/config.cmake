thresher_add_test(core_config_test SOURCES config_test.cpp DEPENDS core)
