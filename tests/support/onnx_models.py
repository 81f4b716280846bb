"""Small real ONNX models for tests, and some that are broken or mean harm."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSETS = (("", 17), ("ai.onnx.ml", 3))


def linear_model(weights: Sequence[float] = (2.0, -1.0), bias: float = 0.5, batch: int | str = "batch") -> bytes:
    """Return a model: prediction[batch, 1] = x[batch, n] · weights + bias, all FP32."""
    size = len(weights)
    return _model(
        [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Add", ["xw", "b"], ["prediction"])],
        [("x", TensorProto.FLOAT, [batch, size])],
        [("prediction", TensorProto.FLOAT, [batch, 1])],
        {"w": np.array(weights, np.float32).reshape(size, 1), "b": np.array([bias], np.float32)},
    )


def column_model() -> bytes:
    """Return a model of two columns: amount FP32 [batch, 1] and kind, a string, either "a" or "b"; as fit() makes."""
    return _model(
        [
            helper.make_node(
                "LabelEncoder",
                ["kind"],
                ["code"],
                domain="ai.onnx.ml",
                keys_strings=["a", "b"],
                values_floats=[0.0, 1.0],
                default_float=-1.0,
            ),
            helper.make_node("Add", ["amount", "code"], ["prediction"]),
        ],
        [("amount", TensorProto.FLOAT, ["batch", 1]), ("kind", TensorProto.STRING, ["batch", 1])],
        [("prediction", TensorProto.FLOAT, ["batch", 1])],
    )


def fixed_batch_model() -> bytes:
    """Return a model that says it takes any batch, and takes one row alone."""
    return _model(
        [helper.make_node("Reshape", ["x", "shape"], ["prediction"])],
        [("x", TensorProto.FLOAT, ["batch", 2])],
        [("prediction", TensorProto.FLOAT, [1, 2])],
        {"shape": np.array([1, 2], np.int64)},
    )


def sequence_model() -> bytes:
    """Return a model whose output is a sequence of tensors: nothing that the wire can carry."""
    node = helper.make_node("SequenceConstruct", ["x"], ["prediction"])
    output = helper.make_tensor_sequence_value_info("prediction", TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph([node], "g", [_value("x", TensorProto.FLOAT, ["batch", 1])], [output])
    return _serialized(graph)


def endless_model() -> bytes:
    """Return a model whose prediction counts to 2^62 before it answers."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Sin", ["value"], ["next"])],
        "body",
        [
            _value("i", TensorProto.INT64, []),
            _value("going", TensorProto.BOOL, []),
            _value("value", TensorProto.FLOAT, ["batch", 1]),
        ],
        [_value("on", TensorProto.BOOL, []), _value("next", TensorProto.FLOAT, ["batch", 1])],
    )
    return _model(
        [helper.make_node("Loop", ["most", "true", "x"], ["prediction"], body=body)],
        [("x", TensorProto.FLOAT, ["batch", 1])],
        [("prediction", TensorProto.FLOAT, ["batch", 1])],
        {"most": np.array(1 << 62, np.int64), "true": np.array(True)},
    )


def greedy_model(gigabytes: int = 64) -> bytes:
    """Return a model whose prediction takes many gigabytes, from a few hundred bytes."""
    floats = gigabytes << 28
    return _model(
        [
            helper.make_node("Mul", ["x", "zero"], ["nothing"]),
            helper.make_node("Cast", ["nothing"], ["nothing_int"], to=TensorProto.INT64),
            helper.make_node("ReduceSum", ["nothing_int"], ["zero_int"], keepdims=0),
            helper.make_node("Add", ["zero_int", "floats"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["many"]),
            helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=1),
            helper.make_node("Add", ["x", "sum"], ["prediction"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", 1])],
        [("prediction", TensorProto.FLOAT, ["batch", 1])],
        {"zero": np.array([0.0], np.float32), "floats": np.array([floats], np.int64)},
    )


def picky_model(weights: Sequence[float] = (1.0, 1.0), bias: float = 0.5, most: int = 4) -> bytes:
    """Return the linear model, but one that fails where a row's first value is above a bound."""
    size = len(weights)
    return _model(
        [
            helper.make_node("MatMul", ["x", "w"], ["xw"]),
            helper.make_node("Add", ["xw", "b"], ["sum"]),
            helper.make_node("Slice", ["x", "zero", "one", "one"], ["first"]),
            helper.make_node("Cast", ["first"], ["place"], to=TensorProto.INT64),
            helper.make_node("Gather", ["zeros", "place"], ["nothing"]),
            helper.make_node("Add", ["sum", "nothing"], ["prediction"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", size])],
        [("prediction", TensorProto.FLOAT, ["batch", 1])],
        {
            "w": np.array(weights, np.float32).reshape(size, 1),
            "b": np.array([bias], np.float32),
            "zero": np.array([0], np.int64),
            "one": np.array([1], np.int64),
            "zeros": np.zeros(most + 1, np.float32),
        },
    )


def slow_model(weights: Sequence[float] = (1.0, 1.0), bias: float = 0.5, size: int = 1200) -> bytes:
    """Return the linear model, but one that multiplies two large matrices first."""
    columns = len(weights)
    return _model(
        [
            helper.make_node("MatMul", ["x", "w"], ["xw"]),
            helper.make_node("Add", ["xw", "b"], ["sum"]),
            helper.make_node("ReduceSum", ["x"], ["scalar"], keepdims=0),
            helper.make_node("Expand", ["scalar", "shape"], ["matrix"]),
            helper.make_node("MatMul", ["matrix", "matrix"], ["product"]),
            helper.make_node("ReduceMin", ["product"], ["least"], keepdims=0),
            helper.make_node("Mul", ["least", "nought"], ["nothing"]),
            helper.make_node("Add", ["sum", "nothing"], ["prediction"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", columns])],
        [("prediction", TensorProto.FLOAT, ["batch", 1])],
        {
            "w": np.array(weights, np.float32).reshape(columns, 1),
            "b": np.array([bias], np.float32),
            "shape": np.array([size, size], np.int64),
            "nought": np.array(0.0, np.float32),
        },
    )


def external_data_model(location: str) -> bytes:
    """Return a linear model whose weights lie in another file of the machine that loads it."""
    model = onnx.ModelProto.FromString(linear_model())
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    _make_external(weights, location, len(weights.raw_data))
    serialized: bytes = model.SerializeToString()
    return serialized


def hidden_external_data_model(location: str) -> bytes:
    """Return a model that names another file in a node's attribute, within a subgraph."""
    tensor = numpy_helper.from_array(np.ones((1, 1), np.float32), "hidden")
    _make_external(tensor, location, 4)
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["out"], value=tensor)],
        "branch",
        [],
        [_value("out", TensorProto.FLOAT, [1, 1])],
    )
    return _model(
        [
            helper.make_node("If", ["yes"], ["one"], then_branch=branch, else_branch=branch),
            helper.make_node("Add", ["x", "one"], ["prediction"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", 1])],
        [("prediction", TensorProto.FLOAT, ["batch", 1])],
        {"yes": np.array(True)},
    )


def custom_domain_model() -> bytes:
    """Return a model with an operator that only its maker's library knows."""
    return _model(
        [helper.make_node("RunAnything", ["x"], ["prediction"], domain="com.example.evil")],
        [("x", TensorProto.FLOAT, ["batch", 1])],
        [("prediction", TensorProto.FLOAT, ["batch", 1])],
        opsets=(*_OPSETS, ("com.example.evil", 1)),
    )


def _make_external(tensor: onnx.TensorProto, location: str, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    constants: dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"] | None = None,
    opsets: Sequence[tuple[str, int]] = _OPSETS,
) -> bytes:
    initializers = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(
        nodes, "g", [_value(*item) for item in inputs], [_value(*item) for item in outputs], initializers
    )
    return _serialized(graph, opsets)


def _serialized(graph: onnx.GraphProto, opsets: Sequence[tuple[str, int]] = _OPSETS) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*opset) for opset in opsets], ir_version=9)
    serialized: bytes = model.SerializeToString()
    return serialized


def _value(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
