# Lepton. `make demo` and `make test` do all of their set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-proto
# The protobuf-6 line, so that the SDK also runs beside clients that need protobuf 6.
GRPC_TOOLS := 'grpcio-tools==1.81.1' 'mypy-protobuf==5.1.0'
PROTO_OUT ?= .

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
