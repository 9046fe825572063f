thresher_add_test(config_test SOURCES config_test.cpp DEPENDS core)
