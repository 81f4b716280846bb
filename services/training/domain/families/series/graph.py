"""A recurrent network as an ONNX graph, built by hand: ONNX's own GRU and LSTM take the length of each row.

torch's exporter cannot say that shorter rows end earlier; this graph answers a row alike, however far it is padded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from services.training.domain.families.encoding import Graph
from services.training.domain.families.frame import Array
from services.training.domain.families.model import WIRE_TYPES, label_values
from services.training.domain.families.output_names import OUTPUT_NAMES
from services.training.domain.families.series.steps import INTERVAL_NAMES
from services.training.domain.families.target import Target

# Gates as torch orders them (reset, update, new; input, forget, cell, output), in ONNX's order.
_GATES = {"gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
_FLOAT = TensorProto.FLOAT


class SeriesGraph:
    """The graph in the making.

    Args:
        shape: the network's, by its fields' names.
        weights: the network's, by torch's names.
        names: of the channels, in order.
        least_spread: as the network has it.
    """

    def __init__(
        self, shape: Mapping[str, Any], weights: Mapping[str, Array], names: Sequence[str], least_spread: float
    ) -> None:
        self._shape = shape
        self._weights = weights
        self._names = names
        self._least_spread = least_spread
        self._graph = Graph([*OUTPUT_NAMES, *INTERVAL_NAMES, *names])

    def build(self, target: Target) -> bytes:
        """Return the ONNX model: a (rows, steps) tensor a channel in; a class or a forecast with its interval out."""
        self._add_scaling()
        found = self._linear("head", self._state())
        if target.classes:
            self._add_classes(found, target)
            outputs = [("prediction", WIRE_TYPES[target.datatype], 1), ("probabilities", _FLOAT, len(target.classes))]
        else:
            self._add_forecast(found)
            outputs = [(name, _FLOAT, target.horizon) for name in ("prediction", *INTERVAL_NAMES)]
        return self._graph.build(
            [helper.make_tensor_value_info(name, _FLOAT, ["rows", "steps"]) for name in self._names],
            [helper.make_tensor_value_info(name, kind, ["rows", width]) for name, kind, width in outputs],
        )

    def _add_scaling(self) -> None:
        add = self._graph.add
        columns = [add("Unsqueeze", [name, self._whole(2)]) for name in self._names]
        steps = add("Concat", columns, axis=2)
        self._known = add("Not", [add("IsNaN", [steps])])
        marks = add("Cast", [self._known], to=TensorProto.DOUBLE)
        any_known = add("ReduceMax", [marks, self._whole(2)], keepdims=0)
        size = add("Gather", [add("Shape", [steps]), self._whole(1, scalar=True)], axis=0)
        places = add(
            "Range", [self._whole(1, scalar=True), self._plus(size, 1, scalar=True), self._whole(1, scalar=True)]
        )
        ends = add("Mul", [add("Cast", [any_known], to=TensorProto.INT64), places])
        # (rows, 1): where each row ends. A row without any value counts as one step.
        ended = add("ReduceMax", [ends, self._whole(1)], keepdims=1)
        self._has_value = add("Greater", [ended, self._whole(0)])
        self._lengths = add("Max", [ended, self._whole(1)])
        nothing = self._graph.constant(np.array(0.0))
        # In doubles, as the network has it.
        moved = add("Sub", [add("Cast", [steps], to=TensorProto.DOUBLE), self._weight("mean")])
        values = add("Where", [self._known, add("Div", [moved, self._weight("std")]), nothing])
        counts = add(
            "Max", [add("ReduceSum", [marks, self._whole(1)], keepdims=0), self._graph.constant(np.array(1.0))]
        )
        center = add("Div", [add("ReduceSum", [values, self._whole(1)], keepdims=0), counts])
        from_center = add("Sub", [values, add("Unsqueeze", [center, self._whole(1)])])
        apart = add("Where", [self._known, from_center, nothing])
        squares = add("ReduceSum", [add("Mul", [apart, apart]), self._whole(1)], keepdims=0)
        least = self._graph.constant(np.array(self._least_spread**2))
        spread = add("Sqrt", [add("Add", [add("Div", [squares, counts]), least])])
        beside = add("Unsqueeze", [spread, self._whole(1)])
        scaled = add("Div", [apart, beside]) if self._shape["scaling"] == "window" else values
        self._scaled, self._apart, self._center, self._spread = (
            add("Cast", [part], to=_FLOAT) for part in (scaled, apart, center, spread)
        )

    def _state(self) -> str:
        """Add the recurrent layers; return the last one's states with the window's mean and spread."""
        add, hidden = self._graph.add, self._shape["hidden_size"]
        found = add("Transpose", [self._scaled], perm=[1, 0, 2])
        lengths = add("Cast", [add("Squeeze", [self._lengths, self._whole(1)])], to=TensorProto.INT32)
        operator = self._shape["cell"].upper()
        gru: dict[str, Any] = {"linear_before_reset": 1} if operator == "GRU" else {}
        last = self._shape["layers"] - 1
        for layer in range(last + 1):
            found = add(
                operator,
                [found, *self._layer(layer), lengths],
                skipped=int(layer == last),
                hidden_size=hidden,
                direction="bidirectional" if self._shape["bidirectional"] else "forward",
                **gru,
            )
            if layer < last:
                beside = add("Transpose", [found], perm=[0, 2, 1, 3])
                found = add("Reshape", [beside, self._graph.constant(np.array([0, 0, -1]))])
        found = add("Transpose", [found], perm=[1, 0, 2])
        state = add("Reshape", [found, self._graph.constant(np.array([0, -1]))])
        return add("Concat", [state, self._center, self._spread], axis=1)

    def _layer(self, layer: int) -> list[str]:
        """Return a layer's weights in ONNX's order: of what comes in, of the state, and the biases."""
        order = _GATES[self._shape["cell"]]
        parts: dict[str, list[Array]] = {"weight_ih": [], "weight_hh": [], "bias": []}
        for suffix in ("", "_reverse")[: 2 if self._shape["bidirectional"] else 1]:
            place = f"l{layer}{suffix}"
            one = {
                name: self._reordered(f"recurrent.{name}_{place}", order)
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
            parts["weight_ih"].append(one["weight_ih"])
            parts["weight_hh"].append(one["weight_hh"])
            parts["bias"].append(np.concatenate([one["bias_ih"], one["bias_hh"]]))
        return [self._graph.constant(np.stack(values)) for values in parts.values()]

    def _reordered(self, name: str, order: tuple[int, ...]) -> Array:
        gates = np.split(self._weights[name], len(order))
        return np.concatenate([gates[place] for place in order])

    def _around(self, found: str) -> str:
        """Add what the last steps say by weights of their own."""
        count = self._shape["linear_steps"]
        if not count:
            return found
        add = self._graph.add
        places = add("Add", [self._lengths, self._graph.constant(np.arange(count)[np.newaxis] - count)])
        last = self._gathered(self._scaled, add("Max", [places, self._whole(0)]))
        is_there = add("Unsqueeze", [add("GreaterOrEqual", [places, self._whole(0)]), self._whole(2)])
        last = add("Where", [is_there, last, self._number(0.0)])
        flat = add("Reshape", [last, self._graph.constant(np.array([0, -1]))])
        return add("Add", [found, add("MatMul", [flat, self._graph.constant(self._weights["linear.weight"].T)])])

    def _add_classes(self, found: str, target: Target) -> None:
        odds = self._around(found)
        self._graph.add("Softmax", [odds], output="probabilities", axis=1)
        best = self._graph.add("ArgMax", [odds], axis=1, keepdims=1)
        self._graph.add("Gather", [self._graph.constant(label_values(target)), best], output="prediction")

    def _add_forecast(self, found: str) -> None:
        add, own = self._graph.add, self._shape["own"]
        middle, below, above = (self._part(found, place) for place in range(3))
        middle = self._around(middle)
        below, above = add("Softplus", [below]), add("Softplus", [above])
        if own is not None:
            if self._shape["scaling"] == "window":
                scale = add("Gather", [self._spread, self._whole(own)], axis=1)
                middle, below, above = (add("Mul", [part, scale]) for part in (middle, below, above))
            center = add("Gather", [self._center, self._whole(own)], axis=1)
            middle = add("Add", [middle, center])
            if self._shape["season"]:
                middle = add("Add", [middle, self._season_before(own)])
        widening = self._weight("widening")
        lower = add("Sub", [middle, add("Mul", [below, widening])])
        upper = add("Add", [middle, add("Mul", [above, widening])])
        for name, part in zip(("prediction", *INTERVAL_NAMES), (middle, lower, upper), strict=True):
            raw = add("Add", [add("Mul", [part, self._weight("goal_std")]), self._weight("goal_mean")])
            # What is said of nothing is no number.
            add("Where", [self._has_value, raw, self._number(float("nan"))], output=name)

    def _season_before(self, own: int) -> str:
        add, season = self._graph.add, self._shape["season"]
        ahead = np.arange(self._shape["outputs"]) % season - season
        places = add("Add", [self._lengths, self._graph.constant(ahead[np.newaxis])])
        is_there = add("GreaterOrEqual", [places, self._whole(0)])
        places = add("Where", [is_there, places, self._plus(self._lengths, -1)])
        own_steps = add("Gather", [self._apart, self._whole(own, scalar=True)], axis=2)
        return self._gathered(own_steps, places)

    def _gathered(self, steps: str, places: str) -> str:
        """Return what (rows, steps, ...) hold at (rows, n) places of their own."""
        return self._graph.add(
            "GatherND", [steps, self._graph.add("Unsqueeze", [places, self._whole(2)])], batch_dims=1
        )

    def _part(self, found: str, place: int) -> str:
        width = self._shape["outputs"]
        ends = (self._whole(place * width), self._whole((place + 1) * width), self._whole(1))
        return self._graph.add("Slice", [found, *ends])

    def _linear(self, name: str, state: str) -> str:
        product = self._graph.add("MatMul", [state, self._graph.constant(self._weights[f"{name}.weight"].T)])
        return self._graph.add("Add", [product, self._weight(f"{name}.bias")])

    def _plus(self, name: str, number: int, *, scalar: bool = False) -> str:
        return self._graph.add("Add", [name, self._whole(number, scalar=scalar)])

    def _weight(self, name: str) -> str:
        return self._graph.constant(self._weights[name])

    def _whole(self, number: int, *, scalar: bool = False) -> str:
        return self._graph.constant(np.array(number if scalar else [number], dtype=np.int64))

    def _number(self, number: float) -> str:
        return self._graph.constant(np.array(number, dtype=np.float32))
