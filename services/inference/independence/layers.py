"""Rules of the layers of networks: convolutions, pools, norms, recurrences, attention."""

from services.inference.independence.nodes import MICROSOFT, Node, rule
from services.inference.independence.reductions import data_only
from services.inference.independence.values import Dim, Mixed, Value, broadcast, fresh

_POOLS = "AveragePool MaxPool LpPool"
_GLOBAL_POOLS = "GlobalAveragePool GlobalMaxPool GlobalLpPool"


def _image(node: Node, place: int, channels: Dim) -> Value:
    """Return an image of the same rows, with other channels and places."""
    data = node.input(place)
    size = node.need_rows_first(place)
    return Value((size, channels, *(fresh() for _ in range(data.rank - 2))), 0)


def _windowed(node: Node, channels: Dim, kernel: list[int] | None) -> Value:
    """Return what windows that move over an image give; sizes are known where the image's are.

    Source of the formula: https://onnx.ai/onnx/operators/onnx__Conv.html
    """
    data, found = node.input(0), _image(node, 0, channels)
    count = data.rank - 2
    if kernel is None or len(kernel) != count or node.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return found
    pads = node.attributes.get("pads") or [0] * (2 * count)
    strides = node.attributes.get("strides") or [1] * count
    dilations = node.attributes.get("dilations") or [1] * count
    assert data.dims is not None and found.dims is not None
    sizes = []
    for axis, dim in enumerate(data.dims[2:]):
        if dim.number is None or node.attributes.get("ceil_mode"):
            sizes.append(fresh())
            continue
        span = dim.number + pads[axis] + pads[axis + count] - dilations[axis] * (kernel[axis] - 1) - 1
        sizes.append(Dim(span // strides[axis] + 1))
    return Value((*found.dims[:2], *sizes), 0)


def _kernel(node: Node, weights: Value) -> list[int] | None:
    if "kernel_shape" in node.attributes:
        return list(node.attributes["kernel_shape"])
    sizes = [dim.number for dim in (weights.dims or ())[2:]]
    return [size for size in sizes if size is not None] if None not in sizes else None


def _channels(weights: Value, axis: int) -> Dim:
    return weights.dims[axis] if weights.dims is not None and axis < len(weights.dims) else fresh()


@rule("Conv", "ConvInteger")
@rule("FusedConv", domain=MICROSOFT)
def convolution(node: Node) -> list[Value]:
    """Convolve images with fixed weights; FusedConv may add others of the same rows."""
    node.need_constant(1, 2)
    if node.op == "ConvInteger":
        node.need_constant(3)
    elif node.optional(3) is not None:
        node.need_rows_first(0, 3)
    return [_windowed(node, _channels(node.input(1), 0), _kernel(node, node.input(1)))]


@rule("ConvTranspose")
def transposed_convolution(node: Node) -> list[Value]:
    """Convolve images with fixed weights, the other way round."""
    node.need_constant(1, 2)
    groups = Dim(int(node.attributes.get("group", 1)))
    return [_image(node, 0, _channels(node.input(1), 1).times(groups))]


@rule("QLinearConv")
def quantized_convolution(node: Node) -> list[Value]:
    """Convolve quantised images with fixed weights and scales."""
    node.need_constant(1, 2, 3, 4, 5, 6, 7, 8)
    return [_windowed(node, _channels(node.input(3), 0), _kernel(node, node.input(3)))]


@rule(*_POOLS.split())
def pool(node: Node) -> list[Value]:
    """Put neighbouring places of images together."""
    if node.has_output(1):
        raise Mixed("it gives places counted over all rows")
    data = node.input(0)
    assert data.dims is not None
    return [_windowed(node, data.dims[1], list(node.attributes["kernel_shape"]))]


@rule(*_GLOBAL_POOLS.split())
def global_pool(node: Node) -> list[Value]:
    """Put all places of each image together."""
    data = node.input(0)
    size = node.need_rows_first(0)
    assert data.dims is not None
    return [Value((size, data.dims[1], *(Dim(1) for _ in range(data.rank - 2))), 0)]


@rule("QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)
def quantized_pool(node: Node) -> list[Value]:
    """Put places of quantised images together, with fixed scales."""
    node.need_constant(1, 2, 3, 4)
    if node.attributes.get("channels_last"):
        raise Mixed("its layout is not in the table")
    data = node.input(0)
    assert data.dims is not None
    return [_image(node, 0, data.dims[1])]


@rule("BatchNormalization")
def batch_normalization(node: Node) -> list[Value]:
    """Scale by fixed means and variances."""
    node.need_constant(1, 2, 3, 4)
    data = node.input(0)
    if node.attributes.get("training_mode") or node.has_output(1):
        raise Mixed("it takes the mean over the batch axis")
    if data.batch == 1:
        raise Mixed("it scales each row by its place")
    return [data_only(data)]


@rule("InstanceNormalization", "GroupNormalization")
def instance_normalization(node: Node) -> list[Value]:
    """Standardise each row's channels."""
    node.need_constant(1, 2)
    node.need_rows_first(0)
    return [data_only(node.input(0))]


@rule("LRN")
def response_normalization(node: Node) -> list[Value]:
    """Divide by neighbouring channels."""
    if node.input(0).batch == 1:
        raise Mixed("it divides by neighbouring rows")
    return [data_only(node.input(0))]


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
@rule("LayerNormalization", "SimplifiedLayerNormalization", domain=MICROSOFT)
def layer_normalization(node: Node) -> list[Value]:
    """Standardise the last axes."""
    node.need_constant(1, 2)
    data = node.input(0)
    axis = data.axis(int(node.attributes.get("axis", -1)))
    if data.batch is not None and data.batch >= axis:
        raise Mixed("it takes the mean over the batch axis")
    assert data.dims is not None
    means = tuple(dim if place < axis else Dim(1) for place, dim in enumerate(data.dims))
    return [data_only(data), *[Value(means, data.batch)] * 2]


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_normalization(node: Node) -> list[Value]:
    """Add two tensors and standardise the last axis."""
    node.need_constant(2, 3, 4)
    summed = broadcast([node.input(0), node.input(1)])
    if summed.batch is not None and summed.batch == summed.rank - 1:
        raise Mixed("it takes the mean over the batch axis")
    assert summed.dims is not None
    means = Value((*summed.dims[:-1], Dim(1)), summed.batch)
    return [summed, means, means, summed]


@rule("EmbedLayerNormalization", domain=MICROSOFT)
def embedding(node: Node) -> list[Value]:
    """Look up tokens, their kinds and places, add them and standardise each."""
    node.need_constant(2, 3, 4, 5, 6)
    tokens = node.input(0)
    for place in (1, 7):
        other = node.optional(place)
        if other is not None:
            node.need_rows_first(0, place)
    places = node.optional(8)
    if places is not None and broadcast([tokens, places]).dims != tokens.dims:
        raise Mixed("its places do not fit its tokens")
    size = node.need_rows_first(0)
    assert tokens.dims is not None
    found = Value((*tokens.dims, _channels(node.input(2), 1)), 0)
    return [found, Value((size,), 0), found]


@rule("LSTM", "GRU", "RNN")
def recurrence(node: Node) -> list[Value]:
    """Go through the steps of each row; the batch is the second axis, or the first by the layout."""
    node.need_constant(1, 2, 3, 7)
    data = node.input(0)
    is_first = bool(node.attributes.get("layout", 0))
    for place, axis in ((0, 0 if is_first else 1), (4, 0), (5, 0 if is_first else 1), (6, 0 if is_first else 1)):
        value = node.optional(place)
        if value is not None and (value.batch != axis or value.rows != data.rows):
            raise Mixed("its inputs have their rows along other axes than it goes by")
    assert data.dims is not None
    steps, rows = (data.dims[1], data.dims[0]) if is_first else (data.dims[0], data.dims[1])
    ways = Dim(2 if node.attributes.get("direction") == b"bidirectional" else 1)
    hidden = Dim(int(node.attributes["hidden_size"]))
    if is_first:
        last = Value((rows, ways, hidden), 0)
        return [Value((rows, steps, ways, hidden), 0), last, last]
    last = Value((ways, rows, hidden), 1)
    return [Value((steps, ways, rows, hidden), 2), last, last]


@rule("GridSample")
def grid_sample(node: Node) -> list[Value]:
    """Take places of each image that its own grid names."""
    node.need_rows_first(0, 1)
    data = node.input(0)
    assert data.dims is not None
    return [_image(node, 0, data.dims[1])]


@rule("Attention", domain=MICROSOFT)
def fused_attention(node: Node) -> list[Value]:
    """Attend within each row."""
    node.need_constant(1, 2)
    _check_attention(node, rows=(0, 3), added=5, absent=(4, 6))
    data = node.input(0)
    sizes = node.attributes.get("qkv_hidden_sizes")
    assert data.dims is not None
    width = Dim(int(sizes[-1])) if sizes else _third(_channels(node.input(1), 1))
    return [Value((*data.dims[:2], width), 0)]


def _third(dim: Dim) -> Dim:
    found = dim.over(Dim(3))
    return found if found is not None else fresh()


@rule("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(node: Node) -> list[Value]:
    """Attend within each row."""
    node.need_constant(3)
    _check_attention(node, rows=(0, 1, 2, 4), added=5, absent=(6, 7, 8, 9))
    query, value = node.input(0), node.optional(2)
    if query.rank != 3:
        raise Mixed("its layout is not in the table")
    assert query.dims is not None
    width = value.dims[2] if value is not None and value.rank == 3 and value.dims is not None else query.dims[2]
    return [Value((*query.dims[:2], width), 0)]


@rule("Attention")
def attention(node: Node) -> list[Value]:
    """Attend within each row."""
    _check_attention(node, rows=(0, 1, 2), added=3, absent=(4, 5, 6))
    query, value = node.input(0), node.input(2)
    if query.rank != 4 or value.rank != 4 or node.has_output(3):
        raise Mixed("its layout is not in the table")
    assert query.dims is not None and value.dims is not None
    return [Value((*query.dims[:3], value.dims[3]), 0)]


def _check_attention(node: Node, *, rows: tuple[int, ...], added: int, absent: tuple[int, ...]) -> None:
    """Check that all has its rows first; what is added to the scores may be the same for all rows."""
    size = node.need_rows_first(*rows)
    bias = node.optional(added)
    if bias is not None:
        is_same = bias.batch is None and (bias.rank < 4 or (bias.dims is not None and bias.dims[0].is_one))
        if not is_same and not (bias.batch == 0 and bias.axis_dim == size and bias.rank == 4):
            raise Mixed("rows of its mask do not fit")
    extra = any(node.has_output(place) for place in range(1, len(node.outputs)))
    if extra or any(node.optional(place) is not None for place in absent):
        raise Mixed("its kept state is not in the table")
