"""Rules of operators that put an axis together: sums, extremes, orders, shares."""

from services.inference.independence.nodes import Node, rule
from services.inference.independence.values import Dim, Mixed, Value, fresh

_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"


@rule(*(f"Reduce{name}" for name in _REDUCTIONS.split()))
def reduce(node: Node) -> list[Value]:
    """Put axes together that are not the batch."""
    data = node.input(0)
    node.need_constant(1)
    axes = node.ints("axes", 1)
    if axes is None and node.optional(1) is not None:
        raise Mixed("which axes it reduces is not known")
    if not axes and node.attributes.get("noop_with_empty_axes"):
        return [data]
    return [_reduced(data, axes or list(range(data.rank)), keeps=bool(node.attributes.get("keepdims", 1)))]


def _reduced(data: Value, axes: list[int], *, keeps: bool) -> Value:
    gone = {data.axis(axis) for axis in axes}
    if data.batch in gone:
        raise Mixed("it reduces the batch axis")
    assert data.dims is not None
    if keeps:
        return Value(tuple(Dim(1) if axis in gone else dim for axis, dim in enumerate(data.dims)), data.batch)
    dims = tuple(dim for axis, dim in enumerate(data.dims) if axis not in gone)
    return Value(dims, None if data.batch is None else data.batch - sum(axis < data.batch for axis in gone))


@rule("ArgMax", "ArgMin")
def extreme(node: Node) -> list[Value]:
    """Find the place of the largest or smallest value of an axis."""
    axis = int(node.attributes.get("axis", 0))
    return [_reduced(node.input(0), [axis], keeps=bool(node.attributes.get("keepdims", 1)))]


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: Node) -> list[Value]:
    """Take shares of an axis; before opset 13 of all axes from one on."""
    data = node.input(0)
    axis = data.axis(int(node.attributes.get("axis", -1 if node.opset >= 13 else 1)))
    if data.batch is not None and (data.batch == axis if node.opset >= 13 else data.batch >= axis):
        raise Mixed("it takes shares of the batch axis")
    return [data_only(data)]


def data_only(data: Value) -> Value:
    """Return a tensor of the same shape and other contents."""
    return Value(data.dims, data.batch)


@rule("TopK")
def top(node: Node) -> list[Value]:
    """Sort an axis that is not the batch, and keep its beginning."""
    node.need_constant(1)
    data = node.input(0)
    axis = data.axis(int(node.attributes.get("axis", -1)))
    if axis == data.batch:
        raise Mixed("it sorts the batch axis")
    count = node.ints("k", 1)
    assert data.dims is not None
    dims = list(data.dims)
    dims[axis] = Dim(count[0]) if count else fresh()
    return [Value(tuple(dims), data.batch)] * 2


@rule("CumSum", "CumProd")
def cumulated(node: Node) -> list[Value]:
    """Add up along an axis that is not the batch."""
    data, axes = node.input(0), node.ints("axis", 1)
    node.need_constant(1)
    if axes is None or data.axis(axes[0]) == data.batch:
        raise Mixed("it adds up along the batch axis")
    return [data_only(data)]


@rule("LpNormalization")
def normalized(node: Node) -> list[Value]:
    """Divide by the norm of an axis that is not the batch."""
    data = node.input(0)
    if data.axis(int(node.attributes.get("axis", -1))) == data.batch:
        raise Mixed("it takes the norm of the batch axis")
    return [data_only(data)]


@rule("MeanVarianceNormalization")
def standardized(node: Node) -> list[Value]:
    """Standardise axes that are not the batch."""
    data = node.input(0)
    if data.batch in {data.axis(int(axis)) for axis in node.attributes.get("axes", (0, 2, 3))}:
        raise Mixed("it takes the mean over the batch axis")
    return [data_only(data)]
