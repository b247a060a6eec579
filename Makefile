# Two commands do everything: `make demo` and `make test`. Both set up .venv and build first.
#
#   VENV=            use the Python on PATH as it is and install nothing (TensorRT and its Python module already there)
#   VENV=folder      another place for the virtual environment
#   PYTHON=python3   the Python to make it from
#   JOBS=n           compile n files at once
#   WERROR=ON        a compiler's warning is an error, as in continuous integration

VENV ?= .venv
PYTHON ?= python3
JOBS ?= $(shell nproc)
WERROR ?= OFF

ifeq ($(VENV),)
RUN_PYTHON := $(PYTHON)
READY :=
else
RUN_PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
endif

BUILD_FOLDER := build/native
PACKAGE_FOLDER := torch_trt_ext

.PHONY: demo examples docs wheels test test-gpu sanitize sanitize-gpu build lint format clean

demo: build
	$(RUN_PYTHON) -m examples.retinanet.demo --out out/demo

# Every example in its small form, a few minutes in all.
examples: build
	$(RUN_PYTHON) -m examples.leaky_network.demo --small --out out/examples/leaky_network
	$(RUN_PYTHON) -m examples.packnet.demo --small --out out/examples/packnet
	$(RUN_PYTHON) -m examples.detr.demo --small --out out/examples/detr
	$(RUN_PYTHON) -m examples.engine_table.demo --small --out out/examples/engine_table
	$(RUN_PYTHON) -m examples.serving.demo --small --out out/examples/serving
	$(RUN_PYTHON) -m examples.retinanet.demo --scenes 16 --warmup 3 --runs 10 --out out/examples/retinanet

# The documentation site, in site/; a warning is an error. Needs no build of the package.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(RUN_PYTHON) -m mkdocs build --strict

# Wheels for torch 2.11 in dist/, for the Pythons of PYTHONS="python3.11 python3.12"; needs Python 3.11 or newer.
wheels: $(READY)
	$(RUN_PYTHON) packaging/build_wheels.py --torch 2.11 --out dist $(PYTHONS)

test: build
	$(RUN_PYTHON) -m pytest

# A GPU test that would be skipped fails instead.
test-gpu: build
	TORCH_TRT_EXT_REQUIRE_GPU=1 $(RUN_PYTHON) -m pytest tests/gpu

# The CPU path under AddressSanitizer and UndefinedBehaviorSanitizer, then under ThreadSanitizer; minutes of compiling.
sanitize: $(READY)
	$(if $(VENV),PATH="$(abspath $(VENV))/bin:$$PATH") tests/sanitize/run \
	  "$(if $(VENV),$(abspath $(RUN_PYTHON)),$(shell command -v $(PYTHON)))" build/sanitize $(JOBS)

# The engines' calls on a GPU under compute-sanitizer, which CUDA has; first without it, to build the tests' engines. What
# a test says of time, of memory that is left or of other processes does not hold under it.
SANITIZED_TESTS := tests/gpu/test_tensorrt_engine.py tests/gpu/test_cuda_graphs.py \
  -k "not does_not_wait and not out_of_memory and not process and not no_gpu"
sanitize-gpu: export TORCH_TRT_EXT_REQUIRE_GPU := 1
sanitize-gpu: export TORCH_TRT_EXT_TEST_PLANS := build/test_plans
sanitize-gpu: build
	$(RUN_PYTHON) -m pytest -q $(SANITIZED_TESTS)
	compute-sanitizer --tool memcheck --target-processes application-only --report-api-errors no --error-exitcode 1 \
	  $(RUN_PYTHON) -m pytest -q $(SANITIZED_TESTS)

# Incremental: ninja compiles what changed.
build: $(READY)
	$(if $(VENV),PATH="$(abspath $(VENV))/bin:$$PATH") cmake -G Ninja -S . -B $(BUILD_FOLDER) --log-level=WARNING \
	  -DPython_EXECUTABLE="$(if $(VENV),$(abspath $(RUN_PYTHON)),$(shell command -v $(PYTHON)))" \
	  -DTORCH_TRT_EXT_WERROR=$(WERROR) $(CMAKE_ARGS)
	$(if $(VENV),PATH="$(abspath $(VENV))/bin:$$PATH") cmake --build $(BUILD_FOLDER) --parallel $(JOBS)
	@$(if $(VENV),PATH="$(abspath $(VENV))/bin:$$PATH") cmake --install $(BUILD_FOLDER) --prefix $(PACKAGE_FOLDER) > $(BUILD_FOLDER)/install.log

$(VENV)/.ready: constraints.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN_PYTHON) -m pip install --upgrade --quiet pip
	@echo "Installing PyTorch, OpenVINO and the build tools into $(VENV) (about 5 GB, a few minutes)"
	$(RUN_PYTHON) -m pip install -c constraints.txt -r requirements-dev.txt
	touch $@

lint: $(READY)
	$(RUN_PYTHON) -m ruff check .
	$(RUN_PYTHON) -m ruff format --check .
	$(RUN_PYTHON) -m mypy
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(if $(VENV),$(VENV)/bin/)clang-format --dry-run --Werror

format: $(READY)
	$(RUN_PYTHON) -m ruff check --fix .
	$(RUN_PYTHON) -m ruff format .
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(if $(VENV),$(VENV)/bin/)clang-format -i

clean:
	rm -rf build out site $(PACKAGE_FOLDER)/_C.*.so $(PACKAGE_FOLDER)/lib $(PACKAGE_FOLDER)/include $(PACKAGE_FOLDER)/share
