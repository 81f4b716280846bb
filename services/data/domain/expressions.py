"""The filter's language, as in pandas' query, compiled to SQL: comparisons joined by and / or / not.

Nothing of the user's text reaches SQL: names are looked up and quoted, constants are written anew.
"""

import ast
import re
from collections.abc import Mapping

from servicekit.errors import InvalidArgument

_BACKTICKED = re.compile(r"`([^`]+)`")
_COMPARISONS: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "=",
    ast.NotEq: "<>",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
_ARITHMETIC: Mapping[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def to_sql(expression: str, columns: list[str]) -> str:
    """Return an expression as a SQL condition.

    Args:
        expression: such as `age >= 18 and job != 'none'`; names with blanks stand in backticks.
        columns: the names that may occur.

    Raises:
        InvalidArgument: it is no such expression, or names an unknown column.
    """
    aliases: dict[str, str] = {}

    def alias(match: re.Match[str]) -> str:
        name = f"backticked_{len(aliases)}"
        aliases[name] = match[1]
        return name

    text = _BACKTICKED.sub(alias, expression.strip())
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise _refused(expression, "it is no expression") from error
    return _Compiler(expression, columns, aliases).condition(tree)


def quoted(name: str) -> str:
    """Return a column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'


class _Compiler:
    def __init__(self, expression: str, columns: list[str], aliases: Mapping[str, str]) -> None:
        self._expression = expression
        self._columns = columns
        self._aliases = aliases

    def condition(self, node: ast.expr) -> str:
        if isinstance(node, ast.BoolOp):
            joiner = " AND " if isinstance(node.op, ast.And) else " OR "
            return "(" + joiner.join(self.condition(value) for value in node.values) + ")"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
            joiner = " AND " if isinstance(node.op, ast.BitAnd) else " OR "
            return f"({self.condition(node.left)}{joiner}{self.condition(node.right)})"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            return f"(NOT {self.condition(node.operand)})"
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.Name):
            return self._name(node)
        raise _refused(self._expression, f"{ast.unparse(node)!r} is no condition")

    def _comparison(self, node: ast.Compare) -> str:
        parts = []
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            parts.append(self._compared(left, operator, right))
            left = right
        return "(" + " AND ".join(parts) + ")"

    def _compared(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> str:
        if isinstance(operator, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple) or not right.elts:
                raise _refused(self._expression, "`in` needs a list of constants")
            word = "IN" if isinstance(operator, ast.In) else "NOT IN"
            return f"{self._value(left)} {word} ({', '.join(self._value(item) for item in right.elts)})"
        symbol = _COMPARISONS.get(type(operator))
        if symbol is None:
            raise _refused(self._expression, "only ==, !=, <, <=, >, >= and in compare")
        return f"{self._value(left)} {symbol} {self._value(right)}"

    def _value(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.Constant):
            return self._constant(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return f"(- {self._value(node.operand)})"
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return f"({self._value(node.left)} {_ARITHMETIC[type(node.op)]} {self._value(node.right)})"
        raise _refused(self._expression, f"{ast.unparse(node)!r} is neither a column nor a constant")

    def _name(self, node: ast.Name) -> str:
        name = self._aliases.get(node.id, node.id)
        if name not in self._columns:
            raise _refused(self._expression, f"there is no column {name!r}")
        return quoted(name)

    def _constant(self, value: object) -> str:
        if isinstance(value, bool):
            return "TRUE" if value else "FALSE"
        if isinstance(value, int | float):
            return repr(value)
        if isinstance(value, str):
            return "'" + value.replace("'", "''") + "'"
        raise _refused(self._expression, f"{value!r} is no constant of a table")


def _refused(expression: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"cannot read the filter {expression!r}: {why}", reason="BAD_FILTER_EXPRESSION")
