"""The filter's language, as in pandas' query: comparisons of columns and constants, joined by and / or / not.

    age >= 18 and job != 'none'
    `years employed` in [1, 2] or not (is_new == True)
    2 * income - rent > 1000 and phone.notna()

It is parsed by Python's own parser into a tree, of which a few kinds of nodes are understood and computed by Arrow; no
text of the user is ever run. Types are checked before a row is read. As in pandas, what is missing satisfies no
comparison but `!=` and `not in`.
"""

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument
from services.data.domain.columns import SERIES
from services.data.domain.original_texts import is_companion, listed

# Quoted texts come first, so that what stands within them stays.
_TOKENS = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|`([^`]+)`|([&|])""")
# As in pandas, & and | bind as loosely as their words.
_WORDS = {"&": " and ", "|": " or "}
_DEPTH = 100
_COMPARISONS: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_ARITHMETIC: Mapping[type[ast.operator], str] = {
    ast.Add: "add_checked",
    ast.Sub: "subtract_checked",
    ast.Mult: "multiply_checked",
    ast.Div: "divide",
}

Condition: TypeAlias = Callable[[pa.RecordBatch], pa.Array]


@dataclass(frozen=True)
class _Value:
    """A value of a row: what it is, and how it is computed.

    Args:
        type: Arrow's type.
        compute: gives an array, or a scalar where it is constant.
        is_constant: whether it names no column.
    """

    type: pa.DataType
    compute: Callable[[pa.RecordBatch], pa.Array | pa.Scalar]
    is_constant: bool

    @property
    def kind(self) -> str:
        """What it can be compared with."""
        return _kind(self.type)


def compile_filter(expression: str, schema: pa.Schema) -> Condition:
    """Return a function that tells for each row of a batch whether an expression holds.

    Args:
        expression: names with blanks stand in backticks.
        schema: of the batches.

    Raises:
        InvalidArgument: it is no such expression, names an unknown column, or compares what cannot be compared.
    """
    aliases: dict[str, str] = {}

    def plain(match: re.Match[str]) -> str:
        if match[2] is None:
            return match[1] or _WORDS[match[3]]
        name = f"__column_{len(aliases)}__"
        aliases[name] = match[2]
        return name

    text = _TOKENS.sub(plain, expression.strip())
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise refused(expression, "it is no expression") from error
    except (RecursionError, MemoryError) as error:
        raise refused(expression, "it is nested too deeply") from error
    if _depth(tree) > _DEPTH:
        raise refused(expression, "it is nested too deeply")
    return _Compiler(expression, schema, aliases).condition(tree)


def refused(expression: str, why: str) -> InvalidArgument:
    """Return the error of an expression that cannot be read."""
    return InvalidArgument(f"cannot read the filter {expression[:200]!r}: {why}", reason="BAD_FILTER_EXPRESSION")


class _Compiler:
    def __init__(self, expression: str, schema: pa.Schema, aliases: Mapping[str, str]) -> None:
        self._expression = expression
        self._schema = schema
        self._aliases = aliases

    def condition(self, node: ast.expr) -> Condition:
        if isinstance(node, ast.BoolOp):
            return _joined([self.condition(part) for part in node.values], isinstance(node.op, ast.And))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            inner = self.condition(node.operand)
            return lambda batch: pc.invert(inner(batch))
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.Call):
            return self._missing(node)
        if isinstance(node, ast.Name):
            return self._truth(node)
        raise self._refused(f"{ast.unparse(node)!r} is no condition")

    def _comparison(self, node: ast.Compare) -> Condition:
        sides = [node.left, *node.comparators]
        parts = [
            self._compared(left, operator, right)
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return _joined(parts, is_all=True)

    def _compared(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Condition:
        if isinstance(operator, ast.In | ast.NotIn):
            return self._within(left, right, isinstance(operator, ast.NotIn))
        name = _COMPARISONS.get(type(operator))
        if name is None:
            raise self._refused("only ==, !=, <, <=, >, >= and in compare")
        first, second = self._aligned(self._value(left), self._value(right))
        if first.kind == "truth value" and name not in ("equal", "not_equal"):
            raise self._refused("truth values are equal or not, neither is greater")
        holds_for_missing = name == "not_equal"
        return lambda batch: pc.call_function(name, [first.compute(batch), second.compute(batch)]).fill_null(
            holds_for_missing
        )

    def _within(self, left: ast.expr, right: ast.expr, negated: bool) -> Condition:
        if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
            raise self._refused("`in` needs a list of constants, such as [1, 2]")
        pairs = [self._aligned(self._value(left), self._value(item)) for item in right.elts]
        if not all(item.is_constant for _, item in pairs):
            raise self._refused("`in` needs a list of constants, such as [1, 2]")
        value = pairs[0][0]
        kind = _common([value.type, *(item.type for _, item in pairs)]) if value.kind == "number" else value.type
        nothing = pa.RecordBatch.from_arrays([], names=[])
        values = pa.concat_arrays([pa.repeat(item.compute(nothing).cast(kind), 1) for _, item in pairs])

        def condition(batch: pa.RecordBatch) -> pa.Array:
            found = pc.is_in(pc.cast(value.compute(batch), kind, safe=False), value_set=values)
            return pc.invert(found) if negated else found

        return condition

    def _aligned(self, left: _Value, right: _Value) -> tuple[_Value, _Value]:
        """Return both sides as what can be compared: a text beside a time is read as a time."""
        if left.is_constant and right.is_constant:
            raise self._refused("a comparison needs a column")
        if "series" in (left.kind, right.kind):
            raise self._refused("a series cannot be compared; isna() and notna() tell whether there is one")
        if left.kind == "time" and right.kind == "text" and right.is_constant:
            right = self._as_time(right, left.type)
        elif right.kind == "time" and left.kind == "text" and left.is_constant:
            left = self._as_time(left, right.type)
        if left.kind != right.kind or (left.kind == "time" and not _is_same_time(left.type, right.type)):
            raise self._refused(f"a {left.kind} ({left.type}) cannot be compared with a {right.kind} ({right.type})")
        return left, right

    def _as_time(self, constant: _Value, kind: pa.DataType) -> _Value:
        text = constant.compute(pa.RecordBatch.from_arrays([], names=[]))
        try:
            # A column with a zone holds instants: a text without one means UTC.
            value = text.cast(pa.timestamp(kind.unit) if pa.types.is_timestamp(kind) else kind).cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._refused(f"{text.as_py()!r} is no {kind}") from error
        return _constant(value)

    def _missing(self, node: ast.Call) -> Condition:
        called = node.func
        methods = {"isna": pc.is_null, "isnull": pc.is_null, "notna": pc.is_valid, "notnull": pc.is_valid}
        if (
            not isinstance(called, ast.Attribute)
            or not isinstance(called.value, ast.Name)
            or called.attr not in methods
            or node.args
            or node.keywords
        ):
            raise self._refused(f"{ast.unparse(node)!r} is no condition; the only calls are isna() and notna()")
        value, method = self._column(called.value), methods[called.attr]
        return lambda batch: method(value.compute(batch))

    def _truth(self, node: ast.Name) -> Condition:
        value = self._column(node)
        if value.kind != "truth value":
            raise self._refused(f"column {self._name(node)!r} holds no truth values: compare it with something")
        return lambda batch: value.compute(batch).fill_null(False)

    def _value(self, node: ast.expr) -> _Value:
        if isinstance(node, ast.Name):
            return self._column(node)
        if isinstance(node, ast.Constant):
            return _constant(self._scalar(node.value))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            operand = self._number(node.operand)
            return operand if isinstance(node.op, ast.UAdd) else _computed("negate_checked", [_signed(operand)])
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            sides = [self._number(node.left), self._number(node.right)]
            # As in pandas, a quotient is a fraction.
            sides = [_as_double(side) for side in sides] if isinstance(node.op, ast.Div) else sides
            return _computed(_ARITHMETIC[type(node.op)], sides)
        raise self._refused(f"{ast.unparse(node)!r} is neither a column nor a constant")

    def _number(self, node: ast.expr) -> _Value:
        value = self._value(node)
        if value.kind != "number":
            raise self._refused(f"{ast.unparse(node)!r} is no number to calculate with")
        return value

    def _column(self, node: ast.Name) -> _Value:
        name = self._name(node)
        index = self._schema.get_field_index(name)
        if index < 0 or is_companion(name):
            known = ", ".join(listed(self._schema.names)[:50])
            raise self._refused(f"there is no column {name!r}; the table has {known}")
        return _Value(self._schema.field(index).type, lambda batch: batch.column(index), is_constant=False)

    def _name(self, node: ast.Name) -> str:
        return self._aliases.get(node.id, node.id)

    def _scalar(self, value: object) -> pa.Scalar:
        is_known = isinstance(value, bool | int | float | str)
        if not is_known or (isinstance(value, float) and not math.isfinite(value)):
            raise self._refused(f"{value!r} is no constant of a table")
        if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
            return pa.scalar(float(value))
        return pa.scalar(value)

    def _refused(self, why: str) -> InvalidArgument:
        return refused(self._expression, why)


def _depth(tree: ast.expr) -> int:
    depth = 0
    level: list[ast.AST] = [tree]
    while level:
        depth += 1
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


def _joined(parts: list[Condition], is_all: bool) -> Condition:
    join = pc.and_ if is_all else pc.or_

    def condition(batch: pa.RecordBatch) -> pa.Array:
        found = parts[0](batch)
        for part in parts[1:]:
            found = join(found, part(batch))
        return found

    return condition


def _common(kinds: list[pa.DataType]) -> pa.DataType:
    is_whole = all(pa.types.is_integer(kind) and kind != pa.uint64() for kind in kinds)
    return pa.int64() if is_whole else pa.float64()


def _constant(value: pa.Scalar) -> _Value:
    return _Value(value.type, lambda _: value, is_constant=True)


def _computed(function: str, sides: list[_Value]) -> _Value:
    # On no rows at all, Arrow tells the type.
    empty = [pa.array([], side.type) for side in sides]
    return _Value(
        pc.call_function(function, empty).type,
        lambda batch: pc.call_function(function, [side.compute(batch) for side in sides]),
        all(side.is_constant for side in sides),
    )


def _as_double(value: _Value) -> _Value:
    return _Value(
        pa.float64(), lambda batch: pc.cast(value.compute(batch), pa.float64(), safe=False), value.is_constant
    )


def _signed(value: _Value) -> _Value:
    if not pa.types.is_unsigned_integer(value.type):
        return value
    return _Value(pa.int64(), lambda batch: pc.cast(value.compute(batch), pa.int64()), value.is_constant)


def _is_same_time(one: pa.DataType, other: pa.DataType) -> bool:
    if pa.types.is_timestamp(one) and pa.types.is_timestamp(other):
        return (one.tz is None) == (other.tz is None)
    return bool(one == other)


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "truth value"
    if pa.types.is_string(kind):
        return "text"
    if kind == SERIES:
        return "series"
    return "time" if pa.types.is_temporal(kind) else "number"
