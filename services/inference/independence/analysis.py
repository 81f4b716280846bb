"""Follows the batch axis from a graph's inputs to its outputs, node by node."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from services.inference.independence import elementwise, indexing, layers, linear, reductions, shapes, tables
from services.inference.independence.arithmetic import elements_of
from services.inference.independence.nodes import RULES, Node
from services.inference.independence.places import by_places
from services.inference.independence.values import BATCH, ONE, Dim, Mixed, Value, constant, fresh, is_small

_log = structlog.get_logger(__name__)

# Their decorators fill the table.
_RULES = (elementwise, indexing, layers, linear, reductions, shapes, tables)
# In these places a tensor may hold the number of rows: the rule reads it there.
_SHAPE_INPUTS = {"Reshape": (1,), "Expand": (1,), "ConstantOfShape": (0,), "Tile": (1,), "Resize": (3,), "Range": (1,)}
# Before, a broadcast was an attribute, and dropout and normalisation had a mode of their own.
_OLDEST_OPSET = 7
_RANDOM = frozenset(
    (
        "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
        "Loop", "Scan", "SequenceMap",
    )
)  # fmt: skip
# Rules that keep how often rows are repeated along the batch axis.
_MOVING = frozenset(("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Reshape", "Flatten", "Transpose", "Shape", "Size"))
_LONGEST_NAME = 60

Scope = dict[str, Value]


@dataclass(frozen=True)
class Verdict:
    """Whether a graph was shown to answer each row by itself.

    Args:
        is_independent: whether it was.
        why: else the reason against it, for people.
    """

    is_independent: bool
    why: str = ""


def analyse(model: Any, outputs: Collection[str] = ()) -> Verdict:
    """Return whether every row's outputs depend on that row alone, with any other rows in the run.

    Args:
        model: the onnx.ModelProto. Contents of weights are not read, and may be left out.
        outputs: those that count; empty for all.
    """
    try:
        _check_model(model, outputs)
    except Mixed as mixed:
        return Verdict(False, str(mixed))
    except Exception as error:
        # A graph is untrusted input: where a rule fails on it, it is not shown to be independent.
        _log.debug("graph not analysed", exc_info=error)
        return Verdict(False, f"the graph could not be analysed ({type(error).__name__})")
    return Verdict(True)


def _check_model(model: Any, outputs: Collection[str]) -> None:
    graph = model.graph
    opsets = {"" if item.domain == "ai.onnx" else item.domain: item.version for item in model.opset_import}
    if opsets.get("", _OLDEST_OPSET) < _OLDEST_OPSET:
        raise Mixed(f"opset {opsets['']} is older than the table of rules ({_OLDEST_OPSET})")
    if graph.sparse_initializer:
        raise Mixed("it has sparse initializers")
    scope = {tensor.name: _initializer(tensor) for tensor in graph.initializer}
    scope |= _inputs(graph, scope)
    _run(graph.node, scope, opsets)
    for output in graph.output:
        if outputs and output.name not in outputs:
            continue
        value = scope.get(output.name)
        if value is not None and value.names_rows:
            raise Mixed(f"output {_short(output.name)} depends on the places of rows")
        if value is None or value.batch != 0 or value.rows != (BATCH, ONE):
            raise Mixed(f"output {_short(output.name)} does not have one row for each row")


def _inputs(graph: Any, initializers: Mapping[str, Value]) -> Scope:
    given = [item for item in graph.input if item.name not in initializers]
    if not given:
        raise Mixed("it has no inputs")
    shapes_by_name = {item.name: _declared(item) for item in given}
    batches = {dims[0] for dims in shapes_by_name.values() if dims and isinstance(dims[0], str)} - {""}
    found: Scope = {}
    for name, dims in shapes_by_name.items():
        if not dims or isinstance(dims[0], int):
            raise Mixed(f"input {_short(name)} has no batch axis")
        if batches & set(dims[1:]):
            raise Mixed(f"input {_short(name)} has the batch's name on another axis")
        rest = (Dim(dim) if isinstance(dim, int) else Dim(1, (dim,)) if dim else fresh() for dim in dims[1:])
        found[name] = Value((BATCH, *rest), 0)
    return found


def _declared(item: Any) -> list[int | str] | None:
    """Return an input's dimensions: numbers, names, or an empty name; None where they are not declared."""
    if item.type.WhichOneof("value") != "tensor_type" or not item.type.tensor_type.HasField("shape"):
        return None
    dims = item.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param for dim in dims]


def _initializer(tensor: Any) -> Value:
    from onnx import TensorProto, numpy_helper

    dims = tuple(tensor.dims)
    if tensor.data_location == TensorProto.EXTERNAL or not is_small(dims):
        return Value(tuple(Dim(size) for size in dims))
    if tensor.data_type == TensorProto.STRING:
        return Value(tuple(Dim(size) for size in dims))
    return constant(numpy_helper.to_array(tensor))


def _run(nodes: Sequence[Any], scope: Scope, opsets: Mapping[str, int]) -> None:
    for proto in nodes:
        try:
            values = _outputs(proto, scope, opsets)
        except Mixed as mixed:
            raise Mixed(f"node {_label(proto)}: {mixed}") from None
        for name, value in zip(proto.output, values, strict=False):
            if name:
                scope[name] = value


def _outputs(proto: Any, scope: Scope, opsets: Mapping[str, int]) -> list[Value]:
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    if proto.op_type == "If" and not domain:
        return _branches(proto, scope, opsets)
    inputs = [scope[name] if name else None for name in proto.input]
    node = Node(proto.op_type, domain, inputs, proto.output, _attributes(proto), opsets.get(domain, 1))
    if node.op == "Constant" and not domain:
        return [_constant(node)]
    depends = any(value.batch is not None for value in node.given())
    try:
        return _by_rule(node)
    except Mixed:
        counts = any(value.counts_rows for value in node.given())
        is_known = (domain, node.op) in RULES or (not domain and node.op not in _RANDOM)
        if depends or counts or not is_known or _has_graphs(proto):
            raise
        # Constants give constants of any shape.
        return [Value(None)] * len(proto.output)


def _by_rule(node: Node) -> list[Value]:
    placed = by_places(node)
    if placed is not None:
        return placed
    elements = elements_of(node)
    if elements is None:
        _check_counts(node)
    if node.op in ("Shape", "Size") and not node.domain:
        dims = () if node.op == "Size" else (Dim(len(elements)) if elements is not None else fresh(),)
        if elements is None:
            raise Mixed("the rank of its input is not known")
        return [Value(dims, None, elements)]
    found = RULES.get((node.domain, node.op))
    if found is not elementwise.elementwise and node.op not in _MOVING:
        _check_repeats(node)
    if found is None:
        raise Mixed("its operator is not in the table of rules")
    values = found(node)
    if elements is None or not values:
        return values
    return [replace(values[0], elements=elements), *values[1:]]


def _check_counts(node: Node) -> None:
    """Check that the number of rows is used as a shape alone."""
    allowed = _SHAPE_INPUTS.get(node.op, ()) if not node.domain else ()
    for place, value in enumerate(node.inputs):
        if value is not None and value.counts_rows and place not in allowed:
            raise Mixed("it computes with the number of rows")


def _check_repeats(node: Node) -> None:
    if any(value.before != ONE for value in node.given()):
        raise Mixed("rows are repeated along its batch axis")


def _constant(node: Node) -> Value:
    if "value" in node.attributes:
        found = node.attributes["value"]
        return found if isinstance(found, Value) else constant(found)
    import numpy as np

    for name, kind in (("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32)):
        if name in node.attributes:
            return constant(np.array(node.attributes[name], dtype=kind))
    if "value_string" in node.attributes:
        return Value(())
    for name in ("value_floats", "value_strings"):
        if name in node.attributes:
            return Value((Dim(len(node.attributes[name])),))
    raise Mixed("what it holds is not in the table")


def _branches(proto: Any, scope: Scope, opsets: Mapping[str, int]) -> list[Value]:
    """Return what an If gives: only for a condition that is the same for all rows, and branches of one shape."""
    condition = scope[proto.input[0]]
    if condition.batch is not None or condition.counts_rows:
        raise Mixed("its condition depends on the rows")
    graphs = [attribute.g for attribute in proto.attribute]
    results = []
    for graph in graphs:
        inner = dict(scope)
        inner |= {tensor.name: _initializer(tensor) for tensor in graph.initializer}
        _run(graph.node, inner, opsets)
        results.append([inner[output.name] for output in graph.output])
    found = []
    for pair in zip(*results, strict=True):
        first = pair[0]
        if any((value.batch, value.before) != (first.batch, first.before) for value in pair):
            raise Mixed("its branches have their rows along different axes")
        if any(value.counts_rows or value.names_rows for value in pair):
            raise Mixed("its branches compute with the number or the places of rows")
        if any(value.dims != first.dims for value in pair):
            if first.batch is not None or any(value.dims is None for value in pair):
                raise Mixed("its branches have different shapes")
            first = Value(None)
        found.append(replace(first, elements=None, array=None))
    return found


def _attributes(proto: Any) -> dict[str, Any]:
    from onnx import AttributeProto, helper

    found: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.type == AttributeProto.TENSOR:
            value = _initializer(attribute.t)
            found[attribute.name] = value.array if value.array is not None else value
        elif attribute.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            found[attribute.name] = helper.get_attribute_value(attribute)
    return found


def _has_graphs(proto: Any) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in proto.attribute)


def _label(proto: Any) -> str:
    name = proto.name or next((output for output in proto.output if output), "")
    return f"{proto.op_type} {_short(name)}"


def _short(name: str) -> str:
    return repr(name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "...")
