# Lepton. `make demo` and `make test` do all of their set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-proto
# The protobuf-6 line, so that the SDK also runs beside clients that need protobuf 6.
GRPC_TOOLS := 'grpcio-tools==1.81.1' 'mypy-protobuf==5.1.0'
PROTO_OUT ?= .
# Where pip finds torch. On Linux the default index serves a CUDA build of several GB; for the CPU build say
#   make install TORCH_INDEX=https://download.pytorch.org/whl/cpu
# (its 2.13.0+cpu satisfies the constraint torch==2.13.0 and wins over the plain one). Empty: the configured indexes alone.
TORCH_INDEX ?=
EXTRAS := platform,postgres,ray,dev
# How many tests run at once, and which: `make test TESTS=tests/servicekit JOBS=1`.
JOBS ?= 2
TESTS ?= tests
PYTEST := $(BIN)/python -m pytest -q --numprocesses $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help
help:  ## Show what there is to make.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.PHONY: install
install: $(VENV)/installed  ## Make the environment in .venv, with the `lepton` command in it.

# The stamp makes a second run instant; a change of what is installed makes it stale.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	    --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

.PHONY: demo
demo: install  ## From a CSV to a gRPC prediction, on a platform of its own.
	$(BIN)/python examples/credit/demo.py

# Beside each other: types take a core for a minute, and tests wait for processes a third of their time.
.PHONY: test
test: install  ## Every check, and every test but those marked slow, gpu, ray or clients.
	$(MAKE) --no-print-directory -j2 check quick

.PHONY: quick
quick: install
	$(PYTEST) -m 'not slow and not gpu and not ray and not clients' $(TESTS)

# Busy processes of an ordinary priority; whatever ends the tests ends them, too.
BUSY ?= 6
.PHONY: test-loaded
test-loaded: install  ## `make test` while BUSY (6) busy loops run.
	$(PYTHON) -m tests.support.busy $(BUSY) $(MAKE) --no-print-directory test

.PHONY: test-ray
test-ray: install  ## The tests that start a Ray cluster.
	$(PYTEST) --numprocesses 0 -m ray tests/training/ray

.PHONY: test-onnx-backend
test-onnx-backend: install  ## ONNX's own backend tests through a platform, compared with bare ONNX Runtime: half an hour.
	$(BIN)/python -m benchmarks.onnx_backend

.PHONY: test-slow
test-slow: install  ## The tests marked slow: larger jobs, more kills, longer loads.
	$(PYTEST) --hypothesis-profile search -m 'slow and not gpu and not ray and not clients' $(TESTS)

.PHONY: test-six-ways
test-six-ways: install  ## 1,000 made tables, each predicted in six ways: all answers are equal.
	LEPTON_SIX_WAYS_TABLES=1000 $(PYTEST) --numprocesses 0 tests/e2e/test_six_ways.py

.PHONY: test-all
test-all: check test-ray  ## Every check and every test.
	$(PYTEST) --hypothesis-profile search -m 'not ray and not clients' $(TESTS)

# Compilers and libraries are Debian's, npm's packages come into build/. As root on Debian, what lacks is installed; elsewhere
# a language that lacks something is skipped, and the report says what to install.
.PHONY: test-clients
test-clients: install  ## A client each in Go, Java, Node and Ruby, from a file to a prediction.
	if test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then tests/clients/install-debian.sh || true; fi
	$(PYTEST) --numprocesses 0 -rs -m clients tests/clients

# Coverage-guided; the fuzzer has an environment of its own beside the project's, for it has wheels for few Pythons.
FUZZ_VENV := .venv-fuzz
SECONDS ?= 60
.PHONY: fuzz
fuzz: install $(FUZZ_VENV)/installed  ## Throw bytes at the request parsers for SECONDS (60).
	mkdir -p build/fuzz
	PYTHONPATH=$(CURDIR):$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	    $(FUZZ_VENV)/bin/python tests/fuzz/infer_request.py build/fuzz/corpus \
	    -max_total_time=$(SECONDS) -rss_limit_mb=2048 -timeout=10 -artifact_prefix=build/fuzz/

$(FUZZ_VENV)/installed:
	$(PYTHON) -m venv $(FUZZ_VENV)
	$(FUZZ_VENV)/bin/pip install --quiet 'atheris==3.0.0'
	touch $@

# The oldest versions that pyproject.toml allows the SDK, in an environment of their own; what those depend on is new.
# uv takes the machine's certificates, for behind a proxy that inspects TLS its own ones do not do.
LOWEST_VENV := .venv-lowest
LOWEST_TOOLS := pytest pytest-asyncio pytest-timeout hypothesis pillow ml_dtypes 'cryptography>=45' 'pyjwt>=2.11'
# They test what only the platform has.
LOWEST_IGNORED := tests/lepton/test_embedded.py tests/lepton/test_model_files.py
.PHONY: test-lowest
test-lowest: $(LOWEST_VENV)/installed  ## The SDK's tests with the oldest versions of its dependencies.
	$(LOWEST_VENV)/bin/python -m pytest -q --noconftest -W default::DeprecationWarning \
	    $(addprefix --ignore=,$(LOWEST_IGNORED)) tests/lepton

$(LOWEST_VENV)/installed: pyproject.toml Makefile
	rm -rf $(LOWEST_VENV)
	$(PYTHON) -m venv $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/pip install --quiet uv
	$(LOWEST_VENV)/bin/uv pip install --quiet --system-certs --python $(LOWEST_VENV)/bin/python --resolution lowest-direct \
	    --requirement pyproject.toml
	$(LOWEST_VENV)/bin/uv pip install --quiet --system-certs --python $(LOWEST_VENV)/bin/python $(LOWEST_TOOLS)
	touch $@

.PHONY: check
check: lint types arrows contract stubs  ## Lint, format, types, arrows, contract, stubs.

.PHONY: lint
lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: install  ## Put the code in shape.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: install
	$(BIN)/mypy

.PHONY: arrows
arrows: install
	$(BIN)/lint-imports --no-logo

.PHONY: contract
contract: install
	$(BIN)/buf lint

.PHONY: stubs
stubs:
	rm -rf build/stubs
	$(MAKE) --no-print-directory --silent proto PROTO_OUT=build/stubs
	diff --recursive --exclude=__init__.py --exclude=__pycache__ --exclude=py.typed build/stubs/lepton/v1 lepton/v1
	diff --recursive --exclude=__init__.py --exclude=__pycache__ \
	    build/stubs/services/inference/open_inference services/inference/open_inference

.PHONY: proto
proto: $(PROTO_VENV)/installed  ## Generate the committed stubs from protos/.
	mkdir -p $(PROTO_OUT)
	$(PROTO_VENV)/bin/python -m grpc_tools.protoc -I protos -I services/inference/open_inference=protos/inference \
	    --plugin=protoc-gen-mypy=$(PROTO_VENV)/bin/protoc-gen-mypy \
	    --plugin=protoc-gen-mypy_grpc=$(PROTO_VENV)/bin/protoc-gen-mypy_grpc \
	    --python_out=$(PROTO_OUT) --grpc_python_out=$(PROTO_OUT) --mypy_out=quiet:$(PROTO_OUT) --mypy_grpc_out=quiet:$(PROTO_OUT) \
	    $(shell cd protos && ls lepton/v1/*.proto) services/inference/open_inference/grpc_service.proto

$(PROTO_VENV)/installed:
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/pip install --quiet $(GRPC_TOOLS)
	touch $@
