"""Tensors that name places of rows: exporters look up masks by `arange(rows)`, each row in itself."""

from collections.abc import Callable
from dataclasses import replace

from services.inference.independence.nodes import RULES, Node
from services.inference.independence.values import BATCH, ONE, Dim, Mixed, Places, Value, broadcast

# Numbers of which only is known that they depend on the places of rows: only their shape may be used.
_UNKNOWN = Places(ONE, None)


def by_places(node: Node) -> list[Value] | None:
    """Return what a node gives of numbers that name places; None where it has none, or they do not matter.

    Raises:
        Mixed: what it makes of the places of rows is not in the table.
    """
    if not any(value.places or value.columns for value in node.given()) or node.op == "Shape":
        return None
    known = _RULES.get(node.op) if not node.domain else None
    found = None if known is None else known(node)
    if found is None and any(value.names_rows for value in node.given()):
        raise Mixed("it computes with the places of rows")
    return found


def _kept(node: Node) -> list[Value] | None:
    if any(value.columns for value in node.given()):
        return None
    value = RULES["", node.op](replace(node, inputs=[_bare(value) for value in node.inputs]))[0]
    return [replace(value, places=node.input(0).places)]


def _bare(value: Value | None) -> Value | None:
    return value if value is None else replace(value, places=None, columns=())


def _whole(value: Value) -> Dim | None:
    """Return the only element of a tensor; None where it is not known."""
    return value.elements[0] if value.elements is not None and len(value.elements) == 1 else None


def _multiplied(node: Node) -> list[Value] | None:
    one, other = node.input(0), node.input(1)
    if one.places is None:
        one, other = other, one
    factor, places = _whole(other), one.places
    if places is None or factor is None or factor.has_rows or places.stride is None or places.bound != ONE:
        return _unknown(node)
    found = broadcast([_plain(one), _plain(other)])
    return [replace(found, places=Places(places.stride.times(factor), ONE))]


def _added(node: Node) -> list[Value] | None:
    one, other = node.input(0), node.input(1)
    if one.places is None or other.places is None:
        return _unknown(node)
    if one.places.stride is None:
        one, other = other, one
    first, second = one.places, other.places
    if first is None or second is None or first.bound != ONE or second.stride is not None:
        return _unknown(node)
    found = broadcast([_plain(one), _plain(other)])
    return [replace(found, places=Places(first.stride, second.bound))]


def _plain(value: Value) -> Value:
    return replace(value, places=None, columns=(), elements=None)


def _unknown(node: Node) -> list[Value] | None:
    """Return numbers that depend on the places of rows in a way that is not followed."""
    if not any(value.names_rows for value in node.given()):
        return None
    return [replace(broadcast([_plain(value) for value in node.given()]), places=_UNKNOWN)]


def _joined(node: Node) -> list[Value] | None:
    values = node.given()
    axis = values[0].axis(int(node.attributes["axis"]))
    is_last = all(value.rank == axis + 1 and value.dims is not None and value.dims[-1].is_one for value in values)
    if not is_last or len({value.batch for value in values}) > 1:
        return None
    if values[0].batch is not None and len({value.rows for value in values}) > 1:
        return None
    dims = (*(values[0].dims or ())[:-1], Dim(len(values)))
    return [Value(dims, values[0].batch, columns=tuple(values))]


def _gathered(node: Node) -> list[Value] | None:
    """Look a row's own block up: its places begin where the block does, and end before it does."""
    data, places = node.input(0), node.input(1)
    if not places.names_rows:
        return None
    axis, named = data.axis(int(node.attributes.get("axis", 0))), places.places
    is_own = (
        named is not None
        and named.bound is not None
        and data.batch == axis
        and data.before == ONE
        and places.rows == (BATCH, ONE)
        and data.axis_dim == BATCH.times(named.stride or ONE)
        and named.bound in (named.stride, ONE)
    )
    if not is_own or places.batch is None or data.dims is None or places.dims is None:
        return None
    dims = (*data.dims[:axis], *places.dims, *data.dims[axis + 1 :])
    return [Value(dims, axis + places.batch)]


def _gathered_deep(node: Node) -> list[Value] | None:
    """Look up in each row by a first column that names it."""
    data, places = node.input(0), node.input(1)
    if not places.names_rows:
        return None
    columns = places.columns
    is_own = (
        not node.attributes.get("batch_dims", 0)
        and bool(columns)
        and columns[0].places == Places(ONE, ONE)
        and not any(column.names_rows for column in columns[1:])
        and data.batch == 0
        and data.rows == (BATCH, ONE)
        and places.batch is not None
        and places.rows == (BATCH, ONE)
    )
    if not is_own or data.dims is None or places.dims is None:
        return None
    return [Value((*places.dims[:-1], *data.dims[len(columns) :]), places.batch)]


_RULES: dict[str, Callable[[Node], list[Value] | None]] = {
    **dict.fromkeys(("Identity", "Cast", "Unsqueeze", "Expand"), _kept),
    **dict.fromkeys(("Max", "Min", "Sub", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"), _unknown),
    "Mul": _multiplied,
    "Add": _added,
    "Concat": _joined,
    "Gather": _gathered,
    "GatherND": _gathered_deep,
}
