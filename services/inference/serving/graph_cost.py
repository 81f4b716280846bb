"""Whether what a graph computes for one shape is bounded: pure.

The shape of a request bounds most graphs. It does not bound a loop whose trip count is an input, a tensor whose size is
an input's value, or an operator whose output's size depends on values: one request of such a graph may take a
thousand times as long as another of the same shape.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_KNOWN_DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))
# Loops, generation, decoders of images, and attention that reads lengths from a tensor.
_UNBOUNDED = frozenset(
    (
        "BeamSearch", "GreedySearch", "GroupQueryAttention", "ImageDecoder", "Loop", "PagedAttention", "Sampling",
        "Scan", "SequenceMap", "SparseAttention", "WhisperBeamSearch",
    )
)  # fmt: skip
# Inputs whose values decide how much is computed or how large an output is, by operator; `If` by its condition.
_SIZES: dict[str, Sequence[int]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "Compress": (0, 1),
    "ConstantOfShape": (0,),
    "CropAndResize": (3,),
    "DFT": (1,),
    "Expand": (1,),
    "GRU": (4,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "If": (0,),
    "LSTM": (4,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "NonMaxSuppression": (0, 1, 2, 3, 4),
    "NonZero": (0,),
    "OneHot": (1,),
    "Pad": (1,),
    "RNN": (4,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "StringSplit": (0,),
    "Tile": (1, 2),
    "Tokenizer": (0,),
    "TopK": (1,),
    "Unique": (0,),
    "Upsample": (1,),
}
# What they return depends on shapes alone.
_SHAPES_ALONE = frozenset(("Shape", "Size"))


def has_value_dependent_cost(model: "onnx.ModelProto") -> bool:
    """Return whether the time of a run may depend on the values of the inputs, not on their shapes alone.

    Args:
        model: a graph that ONNX Runtime loads.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {item.name for item in model.graph.input} - constants
    try:
        return _Scan(model.functions).is_unbounded(model.graph.node, inputs)
    except RecursionError:
        return True


class _Scan:
    def __init__(self, functions: "Iterable[onnx.FunctionProto]") -> None:
        self._functions = {(function.domain, function.name): function for function in functions}
        # By function and the places of its inputs that hold values: is it unbounded, and which outputs hold values.
        self._known: dict[tuple[str, str, frozenset[int]], tuple[bool, list[bool]]] = {}

    def is_unbounded(self, nodes: "Iterable[onnx.NodeProto]", values: set[str]) -> bool:
        """Follow the inputs' values through nodes; `values` grows by the tensors that depend on them."""
        for node in nodes:
            places = frozenset(place for place, name in enumerate(node.input) if name in values)
            function = self._functions.get((node.domain, node.op_type))
            if function is not None:
                unbounded, outputs = self._of_function(function, places)
                if unbounded:
                    return True
                values.update(name for name, holds in zip(node.output, outputs, strict=False) if holds)
            elif self._is_unbounded_node(node, places, values):
                return True
            elif node.op_type not in _SHAPES_ALONE and (places or _bodies(node)):
                values.update(node.output)
        return False

    def _is_unbounded_node(self, node: "onnx.NodeProto", places: frozenset[int], values: set[str]) -> bool:
        if node.domain not in _KNOWN_DOMAINS or node.op_type in _UNBOUNDED:
            return True
        if places.intersection(_SIZES.get(node.op_type, ())):
            return True
        return any(self.is_unbounded(body.node, set(values)) for body in _bodies(node))

    def _of_function(self, function: "onnx.FunctionProto", places: frozenset[int]) -> tuple[bool, list[bool]]:
        key = function.domain, function.name, places
        if key not in self._known:
            values = {name for place, name in enumerate(function.input) if place in places}
            unbounded = self.is_unbounded(function.node, values)
            self._known[key] = unbounded, [name in values for name in function.output]
        return self._known[key]


def _bodies(node: "onnx.NodeProto") -> "list[onnx.GraphProto]":
    return [item.g for item in node.attribute if item.HasField("g")]
