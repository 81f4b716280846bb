"""The contents of small whole-number tensors: what exporters compute of shapes, before they reshape by it."""

import math
from collections.abc import Callable

from services.inference.independence.nodes import Node
from services.inference.independence.values import Dim, Mixed, Value, fresh, product

# A shape has few dimensions; what is longer is data.
_MOST = 64
Elements = tuple[Dim, ...]


def elements_of(node: Node) -> Elements | None:
    """Return the contents of a node's first output; None where they are not known."""
    if node.domain:
        return None
    operation = _OPERATIONS.get(node.op)
    if operation is None or any(value.batch is not None for value in node.given() if node.op not in ("Shape", "Size")):
        return None
    found = operation(node)
    return found if found is None or len(found) <= _MOST else None


def _known(value: Value | None) -> Elements | None:
    return None if value is None else value.elements


def _counted(value: Value | None) -> Elements | None:
    """Return the contents of a tensor of whole numbers; unknown numbers where only their count is known."""
    if value is None or value.elements is not None:
        return _known(value)
    if value.dims is None or len(value.dims) > 1 or any(dim.symbols for dim in value.dims):
        return None
    count = math.prod(dim.factor for dim in value.dims)
    return tuple(fresh() for _ in range(count)) if 0 <= count <= _MOST else None


def _shape(node: Node) -> Elements | None:
    dims = node.input(0).dims
    if dims is None:
        return None
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    return dims[start:end]


def _size(node: Node) -> Elements | None:
    dims = node.input(0).dims
    return None if dims is None else (product(dims),)


def _same(node: Node) -> Elements | None:
    return _known(node.input(0))


def _cast(node: Node) -> Elements | None:
    # A shape that becomes a number with a fraction, or a text, is data.
    return _counted(node.input(0)) if node.attributes.get("to") in (2, 3, 4, 5, 6, 7, 9, 12, 13) else None


def _gather(node: Node) -> Elements | None:
    data, places = _known(node.input(0)), node.input(1).ints()
    if data is None or places is None or int(node.attributes.get("axis", 0)):
        return None
    return tuple(data[place] for place in places) if all(-len(data) <= place < len(data) for place in places) else None


def _slice(node: Node) -> Elements | None:
    data = _known(node.input(0))
    starts, ends = node.ints("starts", 1), node.ints("ends", 2)
    steps = node.ints("steps", 4) or ([1] if node.optional(4) is None else None)
    if data is None or not starts or not ends or not steps or len(starts) > 1:
        return None
    return data[slice(starts[0], ends[0] if abs(ends[0]) < 1 << 31 else None, steps[0])]


def _concat(node: Node) -> Elements | None:
    if all(_known(value) is None for value in node.inputs):
        return None
    parts = [_counted(value) for value in node.inputs]
    if any(part is None for part in parts):
        return None
    return tuple(element for part in parts for element in part or ())


def _filled(node: Node) -> Elements | None:
    counts = node.input(0).ints()
    if counts is None or len(counts) > 1:
        return None
    value = node.attributes.get("value")
    number = 0 if value is None else value.reshape(-1)[0]
    return (Dim(int(number)),) * math.prod(counts) if value is None or value.dtype.kind in "iub" else None


def _pairs(node: Node, combine: Callable[[Dim, Dim], Dim | None]) -> Elements | None:
    one, other = _known(node.input(0)), _known(node.input(1))
    if one is None or other is None:
        return None
    if len(one) != len(other) and 1 not in (len(one), len(other)):
        return None
    count = max(len(one), len(other))
    found = []
    for left, right in zip(
        one * (count // max(len(one), 1)) if len(one) == 1 else one,
        other * (count // max(len(other), 1)) if len(other) == 1 else other,
        strict=True,
    ):
        result = combine(left, right)
        if result is None:
            if left.has_rows or right.has_rows:
                raise Mixed("it computes with the number of rows")
            result = fresh()
        found.append(result)
    return tuple(found)


def _numbers(left: Dim, right: Dim, combine: Callable[[int, int], int]) -> Dim | None:
    return None if left.symbols or right.symbols else Dim(combine(left.factor, right.factor))


def _added(left: Dim, right: Dim) -> Dim | None:
    if Dim(0) in (left, right):
        return right if left == Dim(0) else left
    return _numbers(left, right, lambda one, other: one + other)


def _taken(left: Dim, right: Dim) -> Dim | None:
    return left if right == Dim(0) else _numbers(left, right, lambda one, other: one - other)


def _divided(left: Dim, right: Dim) -> Dim | None:
    whole = left.over(right)
    if whole is not None or not right.factor:
        return whole
    # ONNX cuts towards zero.
    return _numbers(left, right, lambda one, other: int(one / other))


def _remainder(left: Dim, right: Dim) -> Dim | None:
    return _numbers(left, right, lambda one, other: one % other) if right.factor else None


def _equal(left: Dim, right: Dim) -> Dim | None:
    if left == right:
        return Dim(1)
    # A dimension is never negative, and two numbers are equal or not.
    if not left.symbols and not right.symbols:
        return Dim(0)
    return Dim(0) if (left.factor < 0) != (right.factor < 0) else None


def _where(node: Node) -> Elements | None:
    flags, one, other = (_known(node.input(place)) for place in range(3))
    if flags is None or one is None or other is None:
        return None
    count = max(len(flags), len(one), len(other))
    columns = [part * count if len(part) == 1 else part for part in (flags, one, other)]
    if any(len(column) != count for column in columns):
        return None
    found = []
    for flag, left, right in zip(*columns, strict=True):
        if flag.symbols and left != right:
            if left.has_rows or right.has_rows:
                raise Mixed("it chooses between the number of rows and another")
            found.append(fresh())
        else:
            found.append(left if flag.symbols or flag.factor else right)
    return tuple(found)


def _product(node: Node) -> Elements | None:
    found = _known(node.input(0))
    return None if found is None else (product(found),)


def _expanded(node: Node) -> Elements | None:
    data, counts = _known(node.input(0)), node.input(1).ints()
    if data is None or counts is None or len(counts) > 1:
        return None
    count = math.prod(counts)
    return data if len(data) == count else (data * count if len(data) == 1 else None)


_OPERATIONS: dict[str, Callable[[Node], Elements | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Cast": _cast,
    "Squeeze": _same,
    "Unsqueeze": _same,
    "Reshape": _same,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Mul": lambda node: _pairs(node, lambda left, right: left.times(right)),
    "Add": lambda node: _pairs(node, _added),
    "Sub": lambda node: _pairs(node, _taken),
    "Div": lambda node: _pairs(node, _divided),
    "Mod": lambda node: _pairs(node, _remainder),
    "Equal": lambda node: _pairs(node, _equal),
    "Where": _where,
    "ReduceProd": _product,
    "Expand": _expanded,
}
