"""Graphs as other people's exporters make them: ZipMap, sequences, weights in other files, sizes of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSETS = (("", 17), ("ai.onnx.ml", 3))
Dimensions = Sequence[int | str | None] | None


def classifier(classes: Sequence[str] | Sequence[int] = ("a", "b")) -> bytes:
    """Return a classifier as scikit-learn's converter exports it by default: label, and probabilities as ZipMap's maps.

    The probabilities are softmax(x), x FP32 [N, classes]; label INT64 is the place of the largest.
    """
    are_texts = isinstance(classes[0], str)
    labels = {"classlabels_strings" if are_texts else "classlabels_int64s": list(classes)}
    nodes = [
        helper.make_node("Softmax", ["x"], ["raw"], axis=1),
        helper.make_node("ArgMax", ["raw"], ["label"], axis=1, keepdims=0),
        helper.make_node("ZipMap", ["raw"], ["probabilities"], "zip", domain="ai.onnx.ml", **labels),
    ]
    key = TensorProto.STRING if are_texts else TensorProto.INT64
    maps = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    outputs = [
        value("label", TensorProto.INT64, ["N"]),
        helper.make_value_info("probabilities", helper.make_sequence_type_proto(maps)),
    ]
    return graph(nodes, [value("x", TensorProto.FLOAT, ["N", len(classes)])], outputs)


def with_sequence() -> bytes:
    """Return a graph that gives y = 2x and, besides, the sequence of its rows."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("SplitToSequence", ["y"], ["rows"], axis=0),
    ]
    outputs = [
        value("y", TensorProto.FLOAT, ["N", 2]),
        helper.make_tensor_sequence_value_info("rows", TensorProto.FLOAT, None),
    ]
    return graph(nodes, [value("x", TensorProto.FLOAT, ["N", 2])], outputs)


def takes_sequence() -> bytes:
    """Return a graph whose input is a sequence."""
    node = helper.make_node("ConcatFromSequence", ["xs"], ["y"], axis=0)
    given = helper.make_tensor_sequence_value_info("xs", TensorProto.FLOAT, ["N", 2])
    return graph([node], [given], [value("y", TensorProto.FLOAT, ["N", 2])])


def of_sequences() -> bytes:
    """Return a graph that adds 1 to every item of a sequence of tensors [rows, 2]: ys[i] = xs[i] + 1."""
    body = helper.make_graph(
        [helper.make_node("Add", ["item", "one"], ["more"])],
        "body",
        [value("item", TensorProto.FLOAT, ["rows", 2])],
        [value("more", TensorProto.FLOAT, ["rows", 2])],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    node = helper.make_node("SequenceMap", ["xs"], ["ys"], body=body)
    given = helper.make_tensor_sequence_value_info("xs", TensorProto.FLOAT, ["rows", 2])
    return graph([node], [given], [helper.make_tensor_sequence_value_info("ys", TensorProto.FLOAT, ["rows", 2])])


def of_frames(size: int = 512) -> bytes:
    """Return a graph that says it takes [batch, samples], and takes frames of one size alone: y is their mean."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["frames"]),
        helper.make_node("ReduceMean", ["frames"], ["y"], axes=[1], keepdims=1),
    ]
    inputs = [value("x", TensorProto.FLOAT, ["batch", "samples"])]
    return graph(nodes, inputs, [value("y", TensorProto.FLOAT, [1, 1])], {"shape": np.array([1, size], np.int64)})


def bound_names() -> bytes:
    """Return a graph of two inputs whose dimensions have one name: y = a + b, [time, batch] and [batch, time]."""
    nodes = [helper.make_node("Transpose", ["a"], ["at"], perm=[1, 0]), helper.make_node("Add", ["at", "b"], ["y"])]
    inputs = [value("a", TensorProto.FLOAT, ["time", "batch"]), value("b", TensorProto.FLOAT, ["batch", "time"])]
    return graph(nodes, inputs, [value("y", TensorProto.FLOAT, ["batch", "time"])])


def any_rank() -> bytes:
    """Return y = -x for tensors of any rank."""
    node = helper.make_node("Neg", ["x"], ["y"])
    return graph([node], [value("x", TensorProto.FLOAT, None)], [value("y", TensorProto.FLOAT, None)])


def external(locations: Sequence[str] = ("model.onnx.data",), width: int = 64) -> tuple[bytes, dict[str, bytes]]:
    """Return y = x + w1 + w2 + ..., [N, width], and its files of weights; w1 is all ones, w2 all twos, ..."""
    model = onnx.ModelProto.FromString(
        graph(
            [
                helper.make_node(
                    "Add", ["x" if place == 0 else f"s{place}", f"w{place + 1}"], [_sum_name(place, locations)]
                )
                for place in range(len(locations))
            ],
            [value("x", TensorProto.FLOAT, ["N", width])],
            [value("y", TensorProto.FLOAT, ["N", width])],
            {f"w{place + 1}": np.full(width, place + 1, np.float32) for place in range(len(locations))},
        )
    )
    files: dict[str, bytes] = {}
    for tensor, location in zip(model.graph.initializer, locations, strict=True):
        offset = len(files.get(location, b""))
        files[location] = files.get(location, b"") + tensor.raw_data
        entries = {"location": location, "offset": str(offset), "length": str(len(tensor.raw_data))}
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in entries.items():
            tensor.external_data.add(key=key, value=text)
    return bytes(model.SerializeToString()), files


def look_up(location: str, rows: int, width: int) -> bytes:
    """Return y = w[i], i INT64 [N], for a table of FP32 that is the whole of another file."""
    table = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[rows, width], data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, "offset": "0", "length": str(4 * rows * width)}.items():
        table.external_data.add(key=key, value=text)
    model = onnx.ModelProto.FromString(
        graph(
            [helper.make_node("Gather", ["w", "i"], ["y"])],
            [value("i", TensorProto.INT64, ["N"])],
            [value("y", TensorProto.FLOAT, ["N", width])],
        )
    )
    model.graph.initializer.append(table)
    return bytes(model.SerializeToString())


def _sum_name(place: int, locations: Sequence[str]) -> str:
    return "y" if place == len(locations) - 1 else f"s{place + 1}"


def value(name: str, kind: int, shape: Dimensions) -> onnx.ValueInfoProto:
    """Return an input or output; of unknown rank for no shape."""
    return helper.make_tensor_value_info(name, kind, shape)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Mapping[str, Any] | None = None,
    ir_version: int = 9,
) -> bytes:
    """Return a model."""
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    made = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    opsets = [helper.make_opsetid(*opset) for opset in _OPSETS]
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=ir_version).SerializeToString())
