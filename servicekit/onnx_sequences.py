"""Graphs as they are served: ZipMap outputs and sequences become tensors, which requests and replies carry."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from servicekit.onnx_graph import read_values, unzip_maps
from servicekit.sample_tensors import RAGGED

_SEQUENCE = "sequence"
_SUFFIX = "__lepton_items"
_LENGTHS = "_lengths"


@dataclass(frozen=True)
class Servable:
    """A graph that is ready to be served.

    Args:
        content: the graph; the same object where nothing had to change.
        labels: by output that was a ZipMap, the classes of its tensor's last dimension.
        lengths: by input or output that was a sequence, the name of the tensor of its items' lengths; empty for a
            sequence of scalars, which is one tensor.
    """

    content: bytes
    labels: dict[str, tuple[str, ...]]
    lengths: dict[str, str]


def to_servable(content: bytes) -> Servable:
    """Return a graph whose inputs, and of whose outputs at least one, are tensors, as far as that can be had.

    A sequence becomes two tensors: the rows of all items one after the other, under its name, and how many rows each
    item has. That is done where a request must bring it, or where no output is a tensor. An additional output is
    not changed: items whose rows differ in shape have no such form, and would make the whole request fail.

    Raises:
        NotAGraph: the bytes are no ONNX model.
    """
    unzipped = unzip_maps(content)
    values = read_values(unzipped.content)
    wanted = [item.name for item in values.inputs if item.kind == _SEQUENCE]
    if not any(item.kind == "tensor" for item in values.outputs):
        wanted += [item.name for item in values.outputs if item.kind == _SEQUENCE]
    if not wanted:
        return Servable(unzipped.content, unzipped.labels, {})
    import onnx

    model = onnx.ModelProto.FromString(unzipped.content)
    lengths = _flatten(model.graph, frozenset(wanted))
    changed = bytes(model.SerializeToString()) if lengths else unzipped.content
    return Servable(changed, unzipped.labels, lengths)


def _flatten(graph: Any, wanted: frozenset[str]) -> dict[str, str]:
    """Make sequences tensors, with nodes that join and split them; return the names of their lengths."""
    inputs = [item for item in graph.input if item.name in wanted and _is_of_tensors(item)]
    outputs = [item for item in graph.output if item.name in wanted and _is_of_tensors(item)]
    used = {item.name for item in (*graph.input, *graph.output)}
    lengths = {
        item.name: "" if _is_of_scalars(item) else _free(item.name + _LENGTHS, used) for item in (*inputs, *outputs)
    }
    _rename(graph, {name: name + _SUFFIX for name in lengths})
    nodes = [node for item in inputs for node in _splitting(item.name, lengths[item.name])]
    nodes += graph.node
    nodes += [node for item in outputs for node in _joining(item.name, lengths[item.name])]
    del graph.node[:]
    graph.node.extend(nodes)
    for values, items in ((graph.input, inputs), (graph.output, outputs)):
        for item in items:
            _as_tensor(item, is_stacked=not lengths[item.name])
            if lengths[item.name]:
                values.append(_lengths_value(lengths[item.name]))
    return lengths


def _free(name: str, used: set[str]) -> str:
    return name if name not in used else _free(name + "_", used)


def _lengths_value(name: str) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.INT64, [name + RAGGED])


def _splitting(name: str, lengths: str) -> list[Any]:
    """Return the nodes that make an input's tensors a sequence."""
    from onnx import helper

    if not lengths:
        return [helper.make_node("SplitToSequence", [name], [name + _SUFFIX], name + "_split", axis=0, keepdims=0)]
    return [helper.make_node("SplitToSequence", [name, lengths], [name + _SUFFIX], name + "_split", axis=0)]


def _joining(name: str, lengths: str) -> list[Any]:
    """Return the nodes that make a sequence an output's tensors."""
    from onnx import TensorProto, helper

    items = name + _SUFFIX
    join = helper.make_node("ConcatFromSequence", [items], [name], name + "_join", axis=0, new_axis=int(not lengths))
    if not lengths:
        return [join]
    names = {
        word: f"{items}_{word}" for word in ("count", "true", "place", "go", "on", "item", "shape", "zero", "rows")
    }
    body = helper.make_graph(
        [
            helper.make_node("SequenceAt", [items, names["place"]], [names["item"]]),
            helper.make_node("Shape", [names["item"]], [names["shape"]]),
            _constant(names["zero"], TensorProto.INT64, 0),
            helper.make_node("Gather", [names["shape"], names["zero"]], [names["rows"]]),
            helper.make_node("Identity", [names["go"]], [names["on"]]),
        ],
        name + "_lengths",
        [
            helper.make_tensor_value_info(names["place"], TensorProto.INT64, []),
            helper.make_tensor_value_info(names["go"], TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info(names["on"], TensorProto.BOOL, []),
            helper.make_tensor_value_info(names["rows"], TensorProto.INT64, []),
        ],
    )
    return [
        join,
        helper.make_node("SequenceLength", [items], [names["count"]]),
        _constant(names["true"], TensorProto.BOOL, 1),
        helper.make_node("Loop", [names["count"], names["true"]], [lengths], name + "_measure", body=body),
    ]


def _constant(name: str, kind: int, value: int) -> Any:
    from onnx import helper

    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name + "_value", kind, [], [value]))


def _is_of_tensors(item: Any) -> bool:
    return bool(item.type.HasField("sequence_type") and item.type.sequence_type.elem_type.HasField("tensor_type"))


def _is_of_scalars(item: Any) -> bool:
    inner = item.type.sequence_type.elem_type.tensor_type
    return bool(inner.HasField("shape") and not inner.shape.dim)


def _as_tensor(item: Any, *, is_stacked: bool) -> None:
    """Make the description of a sequence that of the tensor that holds its items."""
    from onnx import TypeProto

    inner = item.type.sequence_type.elem_type.tensor_type
    whole = TypeProto()
    whole.tensor_type.elem_type = inner.elem_type
    if inner.HasField("shape"):
        whole.tensor_type.shape.dim.add().dim_param = item.name + RAGGED
        whole.tensor_type.shape.dim.extend(inner.shape.dim if is_stacked else inner.shape.dim[1:])
    item.type.CopyFrom(whole)


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Rename values in a graph's nodes, and where the graphs within these read them."""
    for node in graph.node:
        for names_of in (node.input, node.output):
            _replace(names_of, names)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                own = _defined(inner)
                kept = {old: new for old, new in names.items() if old not in own}
                _rename(inner, kept)
                for item in inner.output:
                    item.name = kept.get(item.name, item.name)


def _replace(found: Any, names: dict[str, str]) -> None:
    for place, name in enumerate(found):
        if name in names:
            found[place] = names[name]


def _defined(graph: Any) -> set[str]:
    """Return the names that a graph gives values itself."""
    outputs: Iterable[str] = (name for node in graph.node for name in node.output)
    return {*outputs, *(item.name for item in (*graph.input, *graph.initializer))}
