"""A node as rules see it, and the table of rules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.inference.independence.values import ONE, Dim, Mixed, Value

MICROSOFT = "com.microsoft"
ML = "ai.onnx.ml"


@dataclass(frozen=True)
class Node:
    """A node with what is known of its inputs.

    Args:
        op: its type.
        domain: of the type; empty for ONNX's own.
        inputs: in order; None for one that is left out.
        outputs: their names; empty for one that is left out.
        attributes: by name, as Python values.
        opset: the version of the domain.
    """

    op: str
    domain: str
    inputs: Sequence[Value | None]
    outputs: Sequence[str]
    attributes: Mapping[str, Any]
    opset: int

    def input(self, place: int) -> Value:
        """Return an input that must be there.

        Raises:
            Mixed: it is left out.
        """
        found = self.optional(place)
        if found is None:
            raise Mixed("an input is missing")
        return found

    def optional(self, place: int) -> Value | None:
        """Return an input; None where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def given(self) -> list[Value]:
        """Return the inputs that are not left out."""
        return [value for value in self.inputs if value is not None]

    def has_output(self, place: int) -> bool:
        """Return whether an output is asked for."""
        return place < len(self.outputs) and bool(self.outputs[place])

    def ints(self, name: str, place: int) -> list[int] | None:
        """Return whole numbers that are an attribute in old opsets and an input in new ones; None where unknown."""
        if name in self.attributes:
            found = self.attributes[name]
            return [int(item) for item in found] if isinstance(found, list | tuple) else [int(found)]
        value = self.optional(place)
        return None if value is None else value.ints()

    def need_constant(self, *places: int) -> None:
        """Check that some inputs, where they are there, are the same for all rows.

        Raises:
            Mixed: one differs from row to row.
        """
        for place in places:
            value = self.optional(place)
            if value is not None and value.batch is not None:
                raise Mixed("a parameter differs from row to row")

    def need_rows_first(self, *places: int) -> Dim:
        """Check that some inputs, where they are there, have their rows along the first axis; return its dimension.

        Raises:
            Mixed: one has not, or they have different numbers of them.
        """
        given = [value for place in places if (value := self.optional(place)) is not None]
        found = {value.axis_dim if value.batch == 0 and value.before == ONE else None for value in given}
        size = found.pop() if len(found) == 1 else None
        if size is None:
            raise Mixed("rows do not lie along the first axis of its inputs")
        return size


Rule = Callable[[Node], list[Value]]
RULES: dict[tuple[str, str], Rule] = {}


def rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a rule for some operators."""

    def register(function: Rule) -> Rule:
        for op in ops:
            RULES[domain, op] = function
        return function

    return register
