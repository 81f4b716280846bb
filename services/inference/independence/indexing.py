"""Rules of operators that look up elements by their places."""

from services.inference.independence.nodes import Node, rule
from services.inference.independence.values import Dim, Mixed, Value, fresh


@rule("Gather")
def gather(node: Node) -> list[Value]:
    """Take slices of a tensor along an axis that is not the batch."""
    data, places = node.input(0), node.input(1)
    axis = data.axis(int(node.attributes.get("axis", 0)))
    if data.batch is not None and places.batch is not None:
        raise Mixed("each row picks from every row")
    if data.batch == axis:
        raise Mixed("it picks rows by their place")
    assert data.dims is not None and places.rank >= 0
    dims = (*data.dims[:axis], *(places.dims or ()), *data.dims[axis + 1 :])
    batch = None
    if places.batch is not None:
        batch = axis + places.batch
    elif data.batch is not None:
        batch = data.batch if data.batch < axis else data.batch + places.rank - 1
    return [Value(dims, batch)]


@rule("GatherElements")
def gather_elements(node: Node) -> list[Value]:
    """Take elements along an axis that is not the batch."""
    data, places = node.input(0), node.input(1)
    _check_same_rows(data, places, axis=int(node.attributes.get("axis", 0)))
    return [Value(places.dims, places.batch)]


@rule("Scatter", "ScatterElements")
def scatter_elements(node: Node) -> list[Value]:
    """Replace elements along an axis that is not the batch."""
    data = node.input(0)
    for other in (node.input(1), node.input(2)):
        _check_same_rows(data, other, axis=int(node.attributes.get("axis", 0)))
    return [Value(data.dims, data.batch)]


def _check_same_rows(data: Value, other: Value, *, axis: int) -> None:
    if data.batch != other.batch or (data.batch is not None and data.axis_dim != other.axis_dim):
        raise Mixed("it picks rows by their place")
    if data.batch is not None and data.axis(axis) == data.batch:
        raise Mixed("it picks along the batch axis")


@rule("GatherND")
def gather_nd(node: Node) -> list[Value]:
    """Take slices of a tensor, of each row by itself or of one table."""
    data, places = node.input(0), node.input(1)
    shared = int(node.attributes.get("batch_dims", 0))
    assert places.dims is not None and data.dims is not None
    depth = places.dims[-1].number
    if data.batch is None:
        if places.batch is not None and (shared > 0 or places.batch == places.rank - 1):
            raise Mixed("it picks from a table by the place of a row")
    elif data.batch >= shared or places.batch != data.batch or places.axis_dim != data.axis_dim:
        raise Mixed("it picks rows by their place")
    if depth is None:
        raise Mixed("how deep it looks is not known")
    dims = (*places.dims[:-1], *data.dims[shared + depth :])
    return [Value(dims, places.batch)]


@rule("OneHot")
def one_hot(node: Node) -> list[Value]:
    """Insert an axis that is one at the place that each element names."""
    node.need_constant(1, 2)
    places = node.input(0)
    rank = places.rank + 1
    axis = int(node.attributes.get("axis", -1))
    axis = axis + rank if axis < 0 else axis
    assert places.dims is not None
    depth = node.ints("depth", 1)
    dims = (*places.dims[:axis], Dim(depth[0]) if depth else fresh(), *places.dims[axis:])
    batch = None if places.batch is None else places.batch + (places.batch >= axis)
    return [Value(dims, batch)]
