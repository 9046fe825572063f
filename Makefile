# A thin face over tools/setup.sh and the CMake presets. `make demo` and `make test` may each be the first command.
.PHONY: build demo test soak asan tsan fuzz cuda clean help
.DEFAULT_GOAL := help

JOBS ?= $(shell nproc)

help:
	@echo "make demo   install, build, fetch model and text, harvest, train two SAEs, evaluate (about 15 min)"
	@echo "make test   install, build, run the default test tier"
	@echo "make build  install, build: build/bin/thresher"
	@echo "make soak   the long tests (kills, recovery of known features)"
	@echo "make asan   unit tests under AddressSanitizer and UBSan"
	@echo "make tsan   the layers without LibTorch under ThreadSanitizer"
	@echo "make fuzz   every parser of input files under libFuzzer for SECONDS=60 each (Clang)"
	@echo "make cuda   everything with THRESHER_CUDA=ON (needs nvcc, no GPU)"

build:
	tools/setup.sh build
	cmake --preset cpu-release -Wno-dev --log-level=WARNING
	cmake --build --preset cpu-release --target thresher -j $(JOBS)
	ln -sfn cpu-release/bin build/bin

demo:
	tools/demo.sh

test:
	tools/run_tests.sh

soak:
	tools/setup.sh test
	cmake --preset cpu-release -Wno-dev --log-level=WARNING
	cmake --build --preset cpu-release -j $(JOBS)
	ctest --test-dir build/cpu-release -L soak --output-on-failure -j 2

asan:
	tools/setup.sh test
	cmake --preset asan -Wno-dev --log-level=WARNING
	cmake --build --preset asan -j $(JOBS)
	ctest --preset asan

tsan:
	tools/setup.sh test
	cmake --preset tsan -Wno-dev --log-level=WARNING
	cmake --build --preset tsan -j $(JOBS)
	ctest --preset tsan

fuzz:
	tools/fuzz.sh $(or $(SECONDS),60)

cuda:
	tools/setup.sh test
	cmake --preset cuda-release -Wno-dev --log-level=WARNING
	cmake --build --preset cuda-release -j $(JOBS)
	ctest --preset cuda-release

clean:
	rm -rf build/cpu-release build/cpu-debug build/cuda-release build/cuda-tests build/gpu-kernels build/asan build/tsan build/fuzz build/bin
