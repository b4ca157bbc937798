# Makefile - builds the program and runs the tests.
#
#   make          the program, build/ssm             make demo       ranks this repository's own history
#   make check    the tests                          make check-all  everything slow: sanitizers, valgrind, fuzzing, headers
#   make asan     the tests under sanitizers         make bench      speed of the shipped model on this machine
#   make warnings every warning there is, and static analysis
#   make stack    frames and chains of calls, Cortex-M4 and x86-64
#   make faults   memory, calls and disks that fail  make tsan       many threads under ThreadSanitizer, g++ and clang
#   make replay   the kept inputs of the fuzzers     make fuzz       new ones; FUZZ_SECONDS=600 or -runs=N, FUZZ_TARGETS
#   make msan     no answer depends on memory never written   make coverage   what the tests reach of ssm.hpp
#   make mutants  small faults in ssm.hpp, one at a time: do the tests notice?
#   make scoreboard what is counted of all this, beside what is aimed at: 46 minutes; first in check-all
#   make dist     what a release consists of: build/dist          make release  its rules, Q-01 to Q-06
#   make levels   integer models with g++ and clang at -O0 to -Os, with and without UBSan: the same bits
#   make cross    models on every kind of processor  make headers    the header alone, every compiler and switch
#   make firmware the README's firmware on boards    make firmware-report, firmware-counts   its flash, RAM, instructions
#   make web      the page of tools/web in a browser without a window
#   make cuda     the program and GPU tests with ssm_cuda.cu, which needs nvcc and runs on what GPU there is
#   make coverage-of-rules   which tests cover which rule of tests/rules.md; fails where a MUST has none
#   make packages what package managers are told     sh tests/cmake.sh      install, find_package, pkg-config, FetchContent
#   make weights  trains the shipped models again: make weights DATA=folder-with-gittouch
#
# SPDX-License-Identifier: MIT

CXX      ?= g++
CLANG    ?= $(firstword $(foreach c,clang++-16 clang++-14 clang++,$(shell command -v $c)))
OPT      ?= -O2
WARN     := -Wall -Wextra -Wshadow -Wconversion -Werror
# Where the sources lie is not in the program: Q-05.
FLAGS    := -std=c++17 -g $(WARN) -MMD -MP -pthread -ffile-prefix-map=$(CURDIR)=. $(EXTRA)
BUILD    ?= build
FUZZ_SECONDS ?= 600

# As many compilers at once as there are processors, up to 8; -j1 and the like on the command line have the last word.
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell n=$$(nproc 2>/dev/null || echo 2); [ "$$n" -lt 8 ] && echo "$$n" || echo 8)
endif

# The trainer takes the longest to compile, so it begins first.
SOURCES := tools/train.cpp $(filter-out tools/train.cpp,$(wildcard tools/*.cpp))
TOOLS := $(SOURCES:tools/%.cpp=$(BUILD)/tools/%.o)
TESTS := $(patsubst tests/%.cpp,$(BUILD)/tests/%.o,$(wildcard tests/*.cpp))
UNITS := $(filter-out $(BUILD)/tools/ssm.o,$(TOOLS))

.PHONY: all demo check check-all long asan asan-quick hostile valgrind valgrind-all fuzz headers levels cross clang bench weights \
    clean doctest firmware firmware-report firmware-counts packages web cuda warnings warnings-quick stack stack-quick \
    coverage-of-rules replay faults tsan tsan-g++ tsan-clang msan coverage mutants dist release release-quick scoreboard
all: $(BUILD)/ssm

$(BUILD)/ssm: $(TOOLS)
	$(CXX) $(EXTRA) -o $@ $^ -pthread
$(BUILD)/test: $(TESTS) $(UNITS)
	$(CXX) $(EXTRA) -o $@ $^ -pthread
$(BUILD)/tools/%.o: tools/%.cpp
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) $(OPT) -c $< -o $@
$(BUILD)/tests/%.o: tests/%.cpp | doctest
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) $(OPT) '-DSSM_TEST_DIR="$(CURDIR)/tests"' -c $< -o $@
$(BUILD)/tools/train.o $(BUILD)/tools/bench_train.o: OPT += -O3
-include $(wildcard $(BUILD)/*/*.d)

# Fuzz targets with a main that replays the kept inputs.
FUZZ_ALL := header json score serve state history load bits int
$(BUILD)/replay/%.o: tests/fuzz/%.cpp | doctest
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) $(OPT) '-DSSM_TEST_DIR="$(CURDIR)/tests"' -c $< -o $@
$(BUILD)/replay/%: $(BUILD)/replay/%.o $(BUILD)/replay/replay.o $(UNITS)
	$(CXX) $(EXTRA) -o $@ $^ -pthread
.PRECIOUS: $(BUILD)/replay/%.o
replay: $(FUZZ_ALL:%=$(BUILD)/replay/%)
	@for t in $(FUZZ_ALL); do printf '%s: ' $$t; $(BUILD)/replay/$$t tests/fuzz/corpus/$$t/* || exit; done

# What makes memory and system calls fail under the program. Not with sanitizers, which have their own.
$(BUILD)/faults/inject.so: tests/faults/inject.cpp
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -O1 $(WARN) -shared -fPIC $< -o $@ -ldl
$(BUILD)/faults/points: tests/faults/points.cpp
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -O1 $(WARN) $< -o $@
FAULTS := $(BUILD)/faults/inject.so $(BUILD)/faults/points

# The tests need doctest: a Debian package, installed if this user may, named otherwise.
doctest:
	@echo '#include <doctest/doctest.h>' | $(CXX) -std=c++17 -E -x c++ - >/dev/null 2>&1 || sh tests/need.sh doctest-dev

demo: $(BUILD)/ssm
	@sh tests/demo.sh $(BUILD)/ssm

check: $(BUILD)/test $(BUILD)/ssm $(FAULTS) replay
	sh tests/rules.sh --test
	CXX='$(CXX)' sh tests/gates.sh $(BUILD)
	$(BUILD)/test
	bash tests/cli.sh $(BUILD)/ssm
	bash tests/serve.sh $(BUILD)/ssm
	bash tests/hostile.sh $(BUILD)/ssm $(BUILD)/test
	bash tests/convert.sh $(BUILD)/ssm
	bash tests/quantize.sh $(BUILD)/ssm
	bash tests/compare.sh $(BUILD)/ssm
	$(BUILD)/ssm selftest tests/golden/s4d/*.safetensors tests/golden/mamba/*.safetensors tests/golden/int/*_s4d_*.safetensors tests/golden/int/*_m[123]_*.safetensors
	sh tests/weights.sh $(BUILD)/ssm
	bash tests/faults.sh $(BUILD)/ssm $(BUILD)/faults quick

# Every allocation and system call of every verb fails once: eight thousand runs, a minute.
faults: $(BUILD)/ssm $(FAULTS)
	bash tests/faults.sh $(BUILD)/ssm $(BUILD)/faults

# Which tests cover which rule: see tests/rules.md. And the sentences of refusal that no test holds up.
coverage-of-rules:
	@sh tests/messages.sh
	@sh tests/rules.sh

# Ten million bits through each integer parity model: two minutes. What denormal states cost, and whether a step's work
# depends on its numbers.
long: $(BUILD)/test
	$(BUILD)/test --no-skip --test-case="*ten million bits*,*state is denormal*"
	sh tests/steps.sh

CHECKED = BUILD=$(BUILD)/asan OPT=-O1 EXTRA="-fsanitize=address,undefined,float-divide-by-zero,float-cast-overflow -fno-sanitize-recover=all -fno-omit-frame-pointer -D_GLIBCXX_ASSERTIONS -DSSM_DEBUG"
asan:
	$(MAKE) $(CHECKED) check

# A million hostile lines through `ssm serve`, under the same checks.
hostile:
	$(MAKE) $(CHECKED) $(BUILD)/asan/test
	$(BUILD)/asan/test --no-skip --test-case="*million hostile lines*"

# What runs in firmware or reads foreign bytes, under the same checks, and the hostile lines: what CI has the time for.
QUICK_TESTS := main json json_suite load hostile_models states run s4d mamba sound int_load int_states int_oracle int_reference memory relevance serve tool history coverage
QUICK_UNITS := ssm_impl tool serve_json serve_request serve_rpc relevance relevance_history memory next history score_records quantize \
    quantize_snap sound gpu
asan-quick:
	$(MAKE) $(CHECKED) TESTS="$(QUICK_TESTS:%=$(BUILD)/asan/tests/%.o)" UNITS="$(QUICK_UNITS:%=$(BUILD)/asan/tools/%.o)" $(BUILD)/asan/test
	$(BUILD)/asan/test --test-case-exclude="*slow)*"
	$(BUILD)/asan/test --no-skip --test-case="*million hostile lines*"

# What is long or trains, marked (slow) in the tests' names, is left to valgrind-all; what is (very slow) runs in neither.
valgrind: VALGRIND_SKIP = *slow)*
valgrind-all: VALGRIND_SKIP = *(very slow)*
valgrind valgrind-all: $(BUILD)/test
	sh tests/need.sh valgrind
	valgrind -q --error-exitcode=9 --partial-loads-ok=no $(BUILD)/test --test-case-exclude="$(VALGRIND_SKIP)"

# The header alone: every compiler that is here, every switch, a Cortex-M4 build without libc.
headers:
	sh tests/headers.sh

# Every warning of every compiler, clang-tidy, cppcheck and gcc's analyzer; quick: what CI has the time for.
warnings:
	bash tests/warnings.sh
warnings-quick:
	bash tests/warnings.sh quick

# E-03: frames and chains of calls, from gcc's call graph; quick: without x86-64's vectors.
stack:
	bash tests/stack.sh
stack-quick:
	bash tests/stack.sh quick

# Golden and shipped models under clang's MemorySanitizer: two minutes.
msan:
	bash tests/msan.sh

# Lines and branches of ssm.hpp that the quick tests reach: at least 95 % and 90 %. A few minutes.
coverage: $(BUILD)/test
	bash tests/coverage.sh $(BUILD)

# Small faults in ssm.hpp, one at a time: at least 95 % noticed, the others explained in tests/mutants.md. An hour or more;
# a run that was stopped goes on where it was.
MUTANTS ?= 200
mutants: $(BUILD)/test
	[ -s $(BUILD)/coverage/lines ] || bash tests/coverage.sh $(BUILD)
	bash tests/mutants.sh $(BUILD) $(MUTANTS)

# The header and an example, the same bytes wherever and whenever; what every release promises of its sources.
dist:
	bash tests/dist.sh $(BUILD)/dist
release:
	bash tests/release.sh
release-quick:
	bash tests/release.sh quick

# Integer models give the same bits with g++ and clang, at every level, with and without checks.
levels:
	sh tests/levels.sh

# Models on every kind of processor that can be had here, most of them emulated; see the script for CROSS and TARGETS.
cross:
	CROSS="$(CROSS)" TARGETS="$(TARGETS)" bash tests/cross.sh

# From an empty folder to emulated boards, and damaged models there; see the script for BOARDS.
firmware: $(BUILD)/ssm
	bash tests/firmware.sh $(BUILD)/ssm
firmware-report: $(BUILD)/ssm
	@bash tests/firmware.sh $(BUILD)/ssm --report
# What `make firmware` holds the next build against.
firmware-counts: $(BUILD)/ssm
	bash tests/firmware.sh $(BUILD)/ssm --counts >$(BUILD)/counts.txt
	cp $(BUILD)/counts.txt tests/firmware/counts.txt

# Manifests of PlatformIO, Arduino, ESP-IDF and Zephyr, and a compile with the flags of each.
packages: $(BUILD)/ssm
	bash tests/packages.sh $(BUILD)/ssm

# The page of tools/web in a headless Chromium.
web: $(BUILD)/ssm
	bash tests/web.sh $(BUILD)/ssm

# ssm_cuda.cu for every generation of GPUs from 7.5 on, and what needs it; the tests say "skipped" where there is no GPU.
NVCC ?= $(firstword $(foreach n,nvcc /usr/local/cuda/bin/nvcc,$(shell command -v $n)))
CUDA_ARCHS ?= 75 80 90 100 120
CUDA_LAST = $(lastword $(CUDA_ARCHS))
CUDA_FLAGS = -std=c++17 -O3 -fmad=false --expt-relaxed-constexpr --threads 2 -Werror all-warnings -Xcompiler -Wall,-Wextra,-Wshadow,-Wno-parentheses \
    $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$a,code=sm_$a) -gencode arch=compute_$(CUDA_LAST),code=compute_$(CUDA_LAST)
CUDA_TOOLS := gpu bench_cuda
cuda: | doctest
ifeq ($(NVCC),)
	@echo "cuda: skipped: needs nvcc (CUDA Toolkit 12 or 13); NVCC=... says where it is" >&2; [ "$${CI:-}" != true ]
else
	$(MAKE) $(BUILD)/ssm-gpu $(BUILD)/test-gpu
	$(BUILD)/test-gpu
	bash tests/cuda.sh $(BUILD)/ssm-gpu
endif
$(BUILD)/cuda/ssm_cuda.o: ssm_cuda.cu ssm.hpp
	@mkdir -p $(@D)
	$(NVCC) $(CUDA_FLAGS) -c $< -o $@
$(BUILD)/cuda/%.o: tools/%.cpp
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) $(OPT) -DSSM_CUDA -c $< -o $@
$(BUILD)/ssm-gpu: $(filter-out $(CUDA_TOOLS:%=$(BUILD)/tools/%.o),$(TOOLS)) $(CUDA_TOOLS:%=$(BUILD)/cuda/%.o) $(BUILD)/cuda/ssm_cuda.o
	$(NVCC) -cudart static -o $@ $^ -Xcompiler -pthread
$(BUILD)/test-gpu: $(BUILD)/tests/main.o $(BUILD)/tests/cuda.o $(UNITS) $(BUILD)/cuda/ssm_cuda.o
	$(NVCC) -cudart static -o $@ $^ -Xcompiler -pthread

# One model, many threads: 10^5 steps in each with g++, five minutes on two cores; 10^4 with clang. STEPS says another.
TSAN_UNITS := tests/threads/threads.cpp tools/ssm_impl.cpp tools/quantize.cpp tools/quantize_snap.cpp tools/tool.cpp
tsan: tsan-g++ tsan-clang
tsan-g++ tsan-clang: WITH = $(if $(findstring clang,$@),$(firstword $(foreach c,clang++-14 clang++,$(shell command -v $c))),g++)
tsan-g++ tsan-clang: | doctest
	@mkdir -p $(BUILD)/$@
	for f in $(TSAN_UNITS); do \
	    $(WITH) -std=c++17 -g -O1 -fsanitize=thread '-DSSM_TEST_DIR="$(CURDIR)/tests"' -c $$f -o $(BUILD)/$@/$$(basename $$f .cpp).o || exit; done
	$(WITH) -fsanitize=thread $(BUILD)/$@/*.o -o $(BUILD)/$@/threads -pthread
	STEPS=$${STEPS:-$(if $(findstring clang,$@),10000,100000)} $(BUILD)/$@/threads

# The tests as clang builds them.
clang:
	$(MAKE) CXX=$(CLANG) BUILD=$(BUILD)/clang $(BUILD)/clang/test
	$(BUILD)/clang/test

fuzz: | doctest
	sh tests/fuzz.sh $(BUILD)/fuzz $(FUZZ_SECONDS) $(FUZZ_TARGETS)

# One after the other, so that their outputs and timings do not mix.
check-all:
	for what in scoreboard long headers release levels cross firmware packages web cuda clang asan hostile valgrind-all fuzz; do $(MAKE) $$what || exit; done

scoreboard:
	bash tests/scoreboard.sh $(BUILD)

bench: $(BUILD)/ssm
	$(BUILD)/ssm bench weights/next.safetensors
	$(BUILD)/ssm bench tests/golden/s4d/03_postnorm_mean_h16_n8_l2.safetensors

weights: $(BUILD)/ssm
	sh weights/make.sh $(BUILD)/ssm "$(DATA)"

clean:
	rm -rf $(BUILD)
