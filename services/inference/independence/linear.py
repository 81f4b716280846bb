"""Rules of products and sums over axes, written as Einstein sums: what matters is where the batch axis goes."""

import string
from collections.abc import Sequence

from services.inference.independence.nodes import MICROSOFT, Node, rule
from services.inference.independence.values import Dim, Mixed, Value, broadcast, fresh

_LETTERS = string.ascii_letters


def contracted(values: Sequence[Value], labels: Sequence[str], output: str) -> Value:
    """Return an Einstein sum.

    Args:
        values: the factors.
        labels: a letter for each axis of each factor.
        output: a letter for each axis of the result.

    Raises:
        Mixed: rows are summed over, or meet each other.
    """
    for value, own in zip(values, labels, strict=True):
        if value.rank != len(own):
            raise Mixed("the ranks of its inputs do not fit")
    batches = {own[value.batch] for value, own in zip(values, labels, strict=True) if value.batch is not None}
    if len(batches) > 1:
        raise Mixed("each row meets every other")
    label = batches.pop() if batches else None
    dims = tuple(_size(letter, values, labels) for letter in output)
    if label is None:
        return Value(dims)
    _check_batch(label, values, labels, output)
    befores = {value.before for value in values if value.batch is not None}
    if len(befores) > 1:
        raise Mixed("rows meet an axis that is not the batch")
    return Value(dims, output.index(label), before=befores.pop())


def _check_batch(label: str, values: Sequence[Value], labels: Sequence[str], output: str) -> None:
    if label not in output:
        raise Mixed("it sums over the batch axis")
    sizes = set()
    for value, own in zip(values, labels, strict=True):
        if own.count(label) > 1:
            raise Mixed("it takes a diagonal of the batch axis")
        if label in own:
            assert value.dims is not None
            sizes.add(value.dims[own.index(label)])
    # A factor of one element along the batch is the same for each row.
    if len(sizes - {Dim(1)}) > 1:
        raise Mixed("rows meet an axis that is not the batch")


def _size(letter: str, values: Sequence[Value], labels: Sequence[str]) -> Dim:
    found = [
        value.dims[own.index(letter)]
        for value, own in zip(values, labels, strict=True)
        if letter in own and value.dims is not None
    ]
    return next((dim for dim in found if not dim.is_one), found[0] if found else fresh())


def matrix_product(one: Value, other: Value) -> Value:
    """Return a product of matrices, or of stacks of them, by NumPy's rules."""
    rank = max(one.rank, other.rank)
    stack = _LETTERS[: rank - 2] if rank > 2 else ""
    left = "y" if one.rank == 1 else stack[len(stack) - (one.rank - 2) :] + "xy"
    right = "y" if other.rank == 1 else stack[len(stack) - (other.rank - 2) :] + "yz"
    output = stack + ("x" if one.rank > 1 else "") + ("z" if other.rank > 1 else "")
    return contracted([one, other], [left, right], output)


@rule("MatMul")
def matmul(node: Node) -> list[Value]:
    """Multiply matrices."""
    return [matrix_product(node.input(0), node.input(1))]


@rule("MatMulInteger")
def integer_matmul(node: Node) -> list[Value]:
    """Multiply whole numbers with fixed zero points."""
    node.need_constant(2, 3)
    return [matrix_product(node.input(0), node.input(1))]


@rule("MatMulIntegerToFloat", domain=MICROSOFT)
def scaled_matmul(node: Node) -> list[Value]:
    """Multiply whole numbers with fixed scales and zero points."""
    node.need_constant(2, 3, 4, 5, 6)
    return [matrix_product(node.input(0), node.input(1))]


@rule("QLinearMatMul")
def quantized_matmul(node: Node) -> list[Value]:
    """Multiply quantised matrices with fixed scales and zero points."""
    node.need_constant(1, 2, 4, 5, 6, 7)
    return [matrix_product(node.input(0), node.input(3))]


@rule("QGemm", domain=MICROSOFT)
def quantized_gemm(node: Node) -> list[Value]:
    """Multiply quantised matrices with fixed scales, and add a fixed bias."""
    node.need_constant(1, 2, 4, 5, 6, 7, 8)
    return [_transposed_product(node, node.input(0), node.input(3))]


@rule("MatMulNBits", domain=MICROSOFT)
def packed_matmul(node: Node) -> list[Value]:
    """Multiply by packed weights."""
    node.need_constant(1, 2, 3, 4, 5)
    weights = Value((fresh(), Dim(int(node.attributes["N"]))))
    return [matrix_product(node.input(0), weights)]


@rule("Gemm")
@rule("FusedGemm", domain=MICROSOFT)
def gemm(node: Node) -> list[Value]:
    """Multiply two matrices and add a third."""
    found = _transposed_product(node, node.input(0), node.input(1))
    added = node.optional(2)
    return [found if added is None else broadcast([found, added])]


def _transposed_product(node: Node, one: Value, other: Value) -> Value:
    left = "yx" if node.attributes.get("transA") else "xy"
    right = "zy" if node.attributes.get("transB") else "yz"
    return contracted([one, other], [left, right], "xz")


@rule("FusedMatMul", domain=MICROSOFT)
def fused_matmul(node: Node) -> list[Value]:
    """Multiply stacks of matrices, each perhaps transposed."""
    if node.attributes.get("transBatchA") or node.attributes.get("transBatchB"):
        raise Mixed("it moves the batch axis in a way that is not in the table")
    one, other = node.input(0), node.input(1)
    if node.attributes.get("transA"):
        one = _matrix_transposed(one)
    if node.attributes.get("transB"):
        other = _matrix_transposed(other)
    return [matrix_product(one, other)]


def _matrix_transposed(value: Value) -> Value:
    if value.rank < 2:
        return value
    order = [*range(value.rank - 2), value.rank - 1, value.rank - 2]
    assert value.dims is not None
    batch = None if value.batch is None else order.index(value.batch)
    return Value(tuple(value.dims[axis] for axis in order), batch, before=value.before)


@rule("Einsum")
def einsum(node: Node) -> list[Value]:
    """Sum products over axes."""
    equation = node.attributes["equation"].decode().replace(" ", "")
    if "." in equation or "->" not in equation:
        raise Mixed("its equation is not in the table")
    inputs, _, output = equation.partition("->")
    return [contracted(node.given(), inputs.split(","), output)]
