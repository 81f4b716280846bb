"""Rules of operators that move elements: shapes, joins, parts, repetitions."""

from services.inference.independence.nodes import MICROSOFT, Node, rule
from services.inference.independence.values import (
    BATCH,
    ONE,
    Dim,
    Mixed,
    Places,
    Value,
    broadcast,
    fresh,
    product,
    reshaped,
    resolved,
    rows_at,
)

# What exporters write for "to the end".
_TO_THE_END = (1 << 31) - 1


@rule("Transpose")
def transpose(node: Node) -> list[Value]:
    """Move axes."""
    data = node.input(0)
    order = list(node.attributes.get("perm", reversed(range(data.rank))))
    assert data.dims is not None
    batch = None if data.batch is None else order.index(data.batch)
    return [Value(tuple(data.dims[axis] for axis in order), batch, before=data.before)]


@rule("Reshape")
def reshape(node: Node) -> list[Value]:
    """Put a tensor into another shape, where each row stays by itself."""
    data, shape = node.input(0), node.input(1)
    if shape.batch is not None or shape.elements is None:
        raise Mixed("the target shape is not known")
    target = resolved(data, shape.elements, allows_zero=bool(node.attributes.get("allowzero", 0)))
    return [reshaped(data, target)]


@rule("Flatten")
def flatten(node: Node) -> list[Value]:
    """Put a tensor into a matrix."""
    data = node.input(0)
    axis = int(node.attributes.get("axis", 1))
    axis = axis + data.rank if axis < 0 else axis
    assert data.dims is not None
    return [reshaped(data, (product(data.dims[:axis]), product(data.dims[axis:])))]


@rule("Squeeze")
def squeeze(node: Node) -> list[Value]:
    """Leave out axes of one element."""
    data = node.input(0)
    axes = node.ints("axes", 1)
    if axes is None:
        if data.batch is not None or node.optional(1) is not None:
            raise Mixed("which axes it leaves out depends on the number of rows")
        assert data.dims is not None
        return [Value(None)]
    gone = {data.axis(axis) for axis in axes}
    if data.batch in gone:
        raise Mixed("it leaves out the batch axis")
    assert data.dims is not None
    return [_without(data, gone)]


def _without(data: Value, gone: set[int]) -> Value:
    assert data.dims is not None
    dims = tuple(dim for axis, dim in enumerate(data.dims) if axis not in gone)
    batch = None if data.batch is None else data.batch - sum(axis < data.batch for axis in gone)
    return Value(dims, batch)


@rule("Unsqueeze")
def unsqueeze(node: Node) -> list[Value]:
    """Insert axes of one element."""
    data = node.input(0)
    axes = node.ints("axes", 1)
    if axes is None:
        raise Mixed("which axes it inserts is not known")
    rank = data.rank + len(axes)
    new = {axis + rank if axis < 0 else axis for axis in axes}
    assert data.dims is not None
    rest = iter(data.dims)
    dims = tuple(Dim(1) if axis in new else next(rest) for axis in range(rank))
    kept = [axis for axis in range(rank) if axis not in new]
    return [Value(dims, None if data.batch is None else kept[data.batch])]


@rule("Concat")
def concat(node: Node) -> list[Value]:
    """Join tensors along an axis that is not the batch."""
    values = node.given()
    axis = values[0].axis(int(node.attributes["axis"]))
    batches = {value.batch for value in values}
    if len(batches) > 1:
        raise Mixed("it joins rows with what is no row")
    (batch,) = batches
    if batch is not None and (batch == axis or len({value.axis_dim for value in values}) > 1):
        raise Mixed("it joins along the batch axis")
    dims = list(values[0].dims or ())
    sizes = [value.dims[axis].number for value in values if value.dims is not None]
    numbers = [size for size in sizes if size is not None]
    dims[axis] = Dim(sum(numbers)) if len(numbers) == len(values) else fresh()
    return [Value(tuple(dims), batch)]


@rule("Split")
def split(node: Node) -> list[Value]:
    """Cut a tensor along an axis that is not the batch."""
    node.need_constant(1)
    data = node.input(0)
    axis = data.axis(int(node.attributes.get("axis", 0)))
    if axis == data.batch:
        raise Mixed("it cuts the batch axis")
    sizes = node.ints("split", 1)
    assert data.dims is not None
    found = []
    for place in range(len(node.outputs)):
        dims = list(data.dims)
        dims[axis] = Dim(sizes[place]) if sizes is not None and place < len(sizes) else _even(dims[axis], node)
        found.append(Value(tuple(dims), data.batch))
    return found


def _even(dim: Dim, node: Node) -> Dim:
    whole = dim.over(Dim(len(node.outputs)))
    return whole if whole is not None else fresh()


@rule("Slice")
def slice_(node: Node) -> list[Value]:
    """Take parts of axes that are not the batch; the whole of an axis may be any."""
    data = node.input(0)
    node.need_constant(1, 2, 3, 4)
    starts, ends, steps = node.ints("starts", 1), node.ints("ends", 2), node.ints("steps", 4)
    axes = node.ints("axes", 3)
    if axes is None and node.optional(3) is None:
        count = len(starts) if starts is not None else (data.rank if data.batch is None else None)
        axes = None if count is None else list(range(count))
    if axes is None:
        raise Mixed("which axes it takes parts of is not known")
    dims = list(data.dims or ())
    for place, axis in enumerate(data.axis(axis) for axis in axes):
        is_known = starts is not None and ends is not None and (steps is not None or node.optional(4) is None)
        is_whole = is_known and (starts[place], steps[place] if steps else 1) == (0, 1) and ends[place] >= _TO_THE_END  # type: ignore[index]
        if is_whole:
            continue
        if axis == data.batch:
            raise Mixed("it takes a part of the batch axis")
        dims[axis] = fresh()
    return [Value(tuple(dims), data.batch)]


@rule("Expand")
def expand(node: Node) -> list[Value]:
    """Repeat a tensor into a shape."""
    data, shape = node.input(0), node.input(1)
    if shape.batch is not None or shape.elements is None:
        raise Mixed("the target shape is not known")
    return [broadcast([data, Value(shape.elements, rows_at(shape.elements))])]


@rule("ConstantOfShape")
def constant_of_shape(node: Node) -> list[Value]:
    """Make a tensor of one value."""
    shape = node.input(0)
    if shape.batch is not None or shape.elements is None:
        raise Mixed("the shape is not known")
    return [Value(shape.elements, rows_at(shape.elements))]


@rule("Range")
def steps(node: Node) -> list[Value]:
    """Count from one number to another."""
    node.need_constant(0, 1, 2)
    begin, end, step = node.ints("start", 0), node.input(1).elements, node.ints("delta", 2)
    if end is None or (begin, step) != ([0], [1]):
        if end is not None and end[0].has_rows:
            raise Mixed("it computes with the number of rows")
        return [Value((fresh(),))]
    if not end[0].has_rows:
        return [Value(end, places=Places(None, end[0]))]
    if end[0] != BATCH:
        raise Mixed("it computes with the number of rows")
    return [Value(end, 0, places=Places(ONE, ONE))]


@rule("Tile")
def tile(node: Node) -> list[Value]:
    """Repeat a tensor along axes that are not the batch."""
    data, repeats = node.input(0), node.input(1)
    if repeats.batch is not None or repeats.elements is None or len(repeats.elements) != data.rank:
        raise Mixed("how often it repeats is not known")
    assert data.dims is not None
    if data.batch is not None and not repeats.elements[data.batch].is_one:
        raise Mixed("it repeats the batch axis")
    for dim, times in zip(data.dims, repeats.elements, strict=True):
        # The copies of a longer axis lie behind each other: a row has no block of its own.
        if times.has_rows and not dim.is_one:
            raise Mixed("it repeats as often as there are rows")
    dims = tuple(dim.times(times) for dim, times in zip(data.dims, repeats.elements, strict=True))
    return [Value(dims, rows_at(dims))]


@rule("Pad")
def pad(node: Node) -> list[Value]:
    """Fill up axes that are not the batch."""
    node.need_constant(1, 2, 3)
    data, pads = node.input(0), node.ints("pads", 1)
    axes = node.ints("axes", 3) if node.optional(3) is not None else list(range(data.rank))
    if axes is None or (pads is None and data.batch is not None and data.batch in {data.axis(axis) for axis in axes}):
        raise Mixed("which axes it fills up is not known")
    dims = list(data.dims or ())
    for place, axis in enumerate(data.axis(axis) for axis in axes):
        if pads is not None and (pads[place], pads[place + len(axes)]) == (0, 0):
            continue
        if axis == data.batch:
            raise Mixed("it fills up the batch axis")
        dims[axis] = fresh()
    return [Value(tuple(dims), data.batch)]


@rule("Resize", "Upsample")
def resize(node: Node) -> list[Value]:
    """Scale axes that are not the batch."""
    data = node.input(0)
    is_old = node.op == "Upsample" or node.opset < 11
    roi = None if is_old else node.optional(1)
    scales, sizes = node.optional(1 if is_old else 2), node.optional(3)
    mode = node.attributes.get("coordinate_transformation_mode", b"half_pixel")
    policy = node.attributes.get("keep_aspect_ratio_policy", b"stretch")
    is_unknown = mode == b"tf_crop_and_resize" or policy != b"stretch" or node.attributes.get("axes")
    if is_unknown or (roi is not None and roi.batch is not None):
        raise Mixed("how it scales the batch axis is not known")
    dims = tuple(fresh() if axis != data.batch else dim for axis, dim in enumerate(data.dims or ()))
    if data.batch is None:
        return [Value(dims)]
    factors = (scales.floats() if scales is not None else node.attributes.get("scales")) or []
    keeps = data.batch < len(factors) and factors[data.batch] == 1.0
    if sizes is not None and sizes.elements:
        keeps = sizes.elements[data.batch] == data.axis_dim
    if not keeps:
        raise Mixed("it scales the batch axis")
    return [Value(dims, data.batch)]


@rule("DepthToSpace", "SpaceToDepth")
def blocks(node: Node) -> list[Value]:
    """Exchange channels and places of images."""
    size = node.need_rows_first(0)
    return [Value((size, fresh(), fresh(), fresh()), 0)]


@rule("Trilu")
def triangle(node: Node) -> list[Value]:
    """Keep a triangle of each matrix."""
    node.need_constant(1)
    data = node.input(0)
    if data.batch is not None and data.batch >= data.rank - 2:
        raise Mixed("the batch is an axis of its matrices")
    return [Value(data.dims, data.batch)]


@rule("ReverseSequence")
def reverse(node: Node) -> list[Value]:
    """Turn the beginning of each row's sequence round."""
    data, lengths = node.input(0), node.input(1)
    axis = int(node.attributes.get("batch_axis", 1))
    if data.batch is not None and (data.batch != axis or lengths.batch != 0):
        raise Mixed("the batch is not the axis that it goes by")
    if data.batch is None and lengths.batch is not None:
        raise Mixed("its lengths differ from row to row")
    return [Value(data.dims, data.batch)]


@rule("QLinearConcat", domain=MICROSOFT)
def quantized_concat(node: Node) -> list[Value]:
    """Join quantised tensors along an axis that is not the batch."""
    tensors = list(node.inputs[2::3])
    node.need_constant(*(place for place in range(len(node.inputs)) if place < 2 or place % 3 != 2))
    return concat(Node("Concat", "", tensors, node.outputs, node.attributes, node.opset))
