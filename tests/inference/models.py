"""Small real models for tests of serving."""

import numpy as np
from onnx import TensorProto, helper

from lepton.v1 import common_pb2, registry_pb2
from services.inference.serving.loading import load_model
from services.inference.serving.model import LoadedModel

KINDS = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def identity(datatype: str, deployment: str = "echo", columns: int = 3) -> LoadedModel:
    """Return a model that gives back its one input `x`, (-1, columns), as `y`."""
    return load_model(deployment, registry_pb2.Version(number=1, digest="d"), identity_graph(datatype, columns))


def identity_graph(datatype: str, columns: int = 3) -> bytes:
    """Return the graph that gives back its one input `x`, (-1, columns), as `y`."""
    kind = KINDS[datatype]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "echo",
        [helper.make_tensor_value_info("x", kind, [None, columns])],
        [helper.make_tensor_value_info("y", kind, [None, columns])],
    )
    return _serialized(graph)


def columns(handle_unknown: str = "ignore", *, nullable: bool = False, number: int = 1) -> LoadedModel:
    """Return a model of two columns, `amount` (FP64) and `purpose` (BYTES), that gives both back."""
    names = {"amount": TensorProto.DOUBLE, "purpose": TensorProto.STRING}
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in names],
        "columns",
        [helper.make_tensor_value_info(name, kind, [None, 1]) for name, kind in names.items()],
        [helper.make_tensor_value_info(f"{name}_out", kind, [None, 1]) for name, kind in names.items()],
    )
    signature = common_pb2.Signature(
        inputs=[
            common_pb2.TensorSpec(name="amount", kind=common_pb2.COLUMN_KIND_NUMERIC, nullable=nullable),
            common_pb2.TensorSpec(
                name="purpose",
                kind=common_pb2.COLUMN_KIND_CATEGORICAL,
                nullable=nullable,
                categories=["car", "house", *([""] if nullable else [])],
            ),
        ],
        handle_unknown=handle_unknown,
    )
    version = registry_pb2.Version(number=number, digest="d", signature=signature)
    return load_model("columns", version, _serialized(graph), epoch=number)


def failing() -> LoadedModel:
    """Return a model that loads, answers a row of ones, and fails on any other: its table has two rows."""
    table = helper.make_tensor("t", TensorProto.FLOAT, [2, 1], np.zeros(2, dtype=np.float32).tolist())
    graph = helper.make_graph(
        [helper.make_node("Gather", ["t", "x"], ["y"])],
        "failing",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [table],
    )
    return load_model("failing", registry_pb2.Version(number=1, digest="d"), _serialized(graph))


def _serialized(graph: object) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())
