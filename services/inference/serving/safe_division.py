"""Integer divisions that cannot end the process.

The least integer divided by -1 is no integer: processors raise a signal for it, ONNX Runtime does not look, and one
request would end a worker. So a division by what may be -1 divides by 1 there and changes the sign, which wraps as
NumPy's does.
"""

import contextlib
from collections.abc import Iterator
from itertools import count

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, shape_inference

_OPERATORS = frozenset(("Div", "Mod"))
_TRAPPING = {onnx.TensorProto.INT32: np.int32, onnx.TensorProto.INT64: np.int64}
# Where takes these from opset 9 on.
_LEAST_OPSET = 9
_MOST_BYTES = 1 << 28


def guard_divisions(content: bytes, outline: onnx.ModelProto) -> bytes:
    """Return a graph in which no integer division traps; the same bytes where there is none that could.

    Args:
        content: a graph that ONNX Runtime loads.
        outline: the same graph; its larger initializers may lack their contents.
    """
    if len(content) > _MOST_BYTES or not any(_may_trap(node) for node in _nodes(outline.graph)):
        return content
    if any(item.domain in ("", "ai.onnx") and item.version < _LEAST_OPSET for item in outline.opset_import):
        return content
    types, safe = _types(outline), _safe_constants(outline.graph)
    if not any(_traps(node, types, safe) for node in _nodes(outline.graph)):
        return content
    model = onnx.ModelProto.FromString(content)
    if model.functions:
        model = inliner.inline_local_functions(model)
    _guard(model.graph, types, safe, count())
    return bytes(model.SerializeToString())


def _guard(graph: onnx.GraphProto, types: dict[str, int], safe: set[str], numbers: Iterator[int]) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for body in _bodies(node):
            _guard(body, types, safe, numbers)
        nodes.extend(_guarded(node, types, numbers) if _traps(node, types, safe) else [node])
    del graph.node[:]
    graph.node.extend(nodes)


def _guarded(node: onnx.NodeProto, types: dict[str, int], numbers: Iterator[int]) -> list[onnx.NodeProto]:
    start = f"lepton_division_{next(numbers)}"
    divisor = node.input[1]
    kind = _TRAPPING[_type_of(node, types)]
    names = {part: f"{start}_{part}" for part in ("minus", "one", "is_minus", "divisor", "quotient", "negated")}
    division = onnx.NodeProto()
    division.CopyFrom(node)
    division.input[1], division.output[0] = names["divisor"], names["quotient"]
    return [
        helper.make_node("Constant", [], [names["minus"]], value=numpy_helper.from_array(np.array(-1, kind))),
        helper.make_node("Constant", [], [names["one"]], value=numpy_helper.from_array(np.array(1, kind))),
        helper.make_node("Equal", [divisor, names["minus"]], [names["is_minus"]]),
        helper.make_node("Where", [names["is_minus"], names["one"], divisor], [names["divisor"]]),
        division,
        helper.make_node("Neg", [names["quotient"]], [names["negated"]]),
        helper.make_node("Where", [names["is_minus"], names["negated"], names["quotient"]], [node.output[0]]),
    ]


def _may_trap(node: onnx.NodeProto) -> bool:
    return node.op_type in _OPERATORS and node.domain in ("", "ai.onnx")


def _traps(node: onnx.NodeProto, types: dict[str, int], safe: set[str]) -> bool:
    return _may_trap(node) and _type_of(node, types) in _TRAPPING and node.input[1] not in safe


def _type_of(node: onnx.NodeProto, types: dict[str, int]) -> int:
    names = (*node.output, *node.input)
    return next((types[name] for name in names if types.get(name)), onnx.TensorProto.UNDEFINED)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element types of tensors by name, as far as they can be known."""
    # What it cannot read is read without it.
    with contextlib.suppress(Exception):
        model = shape_inference.infer_shapes(model)
    types: dict[str, int] = {}
    for graph in _graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            types[value.name] = value.type.tensor_type.elem_type
        types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    return types


def _safe_constants(graph: onnx.GraphProto) -> set[str]:
    """Return the names of constants without -1."""
    found: dict[str, onnx.TensorProto] = {}
    for part in _graphs(graph):
        found.update((tensor.name, tensor) for tensor in part.initializer)
        for node in part.node:
            for item in node.attribute:
                if node.op_type == "Constant" and item.name == "value":
                    found[node.output[0]] = item.t
    safe = set()
    for name, tensor in found.items():
        # A larger one, whose contents are not at hand, is guarded.
        has_contents = tensor.raw_data or tensor.int32_data or tensor.int64_data
        if tensor.data_type in _TRAPPING and has_contents and not (numpy_helper.to_array(tensor) == -1).any():
            safe.add(name)
    return safe


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for body in _bodies(node):
            yield from _graphs(body)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for part in _graphs(graph):
        yield from part.node


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [item.g for item in node.attribute if item.type == onnx.AttributeProto.GRAPH]
