"""What a graph is made of. For the child alone: it loads onnx."""

from collections import Counter
from collections.abc import Iterator

import onnx

from services.inference.plans.candidates import GraphFacts

_PRODUCTS = ("MatMul", "Gemm", "Conv")
_INDEXED = "Gather"


def read_facts(model: onnx.ModelProto) -> GraphFacts:
    """Return what a graph is made of."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    counts: Counter[str] = Counter()
    products = 0
    for node in _nodes(model.graph):
        counts[node.op_type] += 1
        products += node.op_type in _PRODUCTS and len(node.input) > 1 and node.input[1] in constants
    return GraphFacts(dict(counts), products)


def index_limits(model: onnx.ModelProto) -> dict[str, int]:
    """Return, by input, the size of the smallest table that its values look up."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    source = {item.name: item.name for item in model.graph.input if item.name not in sizes}
    limits: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in ("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape") and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        if node.op_type == _INDEXED and node.input[0] in sizes and node.input[1] in source:
            axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
            name, size = source[node.input[1]], sizes[node.input[0]][axis]
            limits[name] = min(size, limits.get(name, size))
    return limits


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)
