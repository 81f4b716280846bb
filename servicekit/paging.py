"""Lists: page tokens, filters and orders, checked and never spliced into SQL."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, or_

from servicekit.errors import InvalidArgument

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_CONDITION = re.compile(r'\s*([a-z_]+)\s*([=:])\s*"((?:[^"\\]|\\.)*)"\s*')
_AND = re.compile(r"AND\b", re.IGNORECASE)
# What page_query adds to each row, for the token of the next page.
_ORDER, _TIE = "_page_order", "_page_tie"


@dataclass(frozen=True)
class Page:
    """Which part of a list is wanted.

    Args:
        size: most rows.
        token: where the last page ended; empty for the first.
        filter: `name = "x" AND state = "y"`, or `name : "part"`; empty for all.
        order_by: a field, optionally with ` desc`; empty for the default.
    """

    size: int = 0
    token: str = ""
    filter: str = ""
    order_by: str = ""

    @property
    def limit(self) -> int:
        """Most rows, with the default for 0."""
        return min(self.size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def page_query(
    query: "Select[Any]",
    page: Page,
    *,
    filters: Mapping[str, ColumnElement[Any]],
    orders: Mapping[str, ColumnElement[Any]],
    default_order: str,
    tie: ColumnElement[Any],
) -> "Select[Any]":
    """Return a query for one page and one row more, which tells whether another page follows.

    A page begins after the last row of the one before, wherever that row would be now: rows that come and go in between
    neither repeat others nor hide them. Rows without a value in the order's column come last.

    Args:
        query: what is listed; each row also gets where it stands, for `next_token`.
        page: which part of it.
        filters: column by filter name.
        orders: column by order name; no aggregates.
        default_order: the order without order_by, such as `name` or `create_time desc`.
        tie: a unique column that orders rows that are otherwise equal.

    Raises:
        InvalidArgument: the filter, order or token is no such thing; the message lists the known names.
    """
    if page.size < 0:
        raise InvalidArgument("page_size must not be negative", violations=[("page_size", "must not be negative")])
    for name, operator, value in parse_filter(page.filter, filters):
        query = query.where(_condition(filters[name], name, operator, value))
    name, descending = parse_order(page.order_by or default_order, orders)
    column = orders[name]
    if page.token:
        query = query.where(_after(column, tie, _decode(page, column, tie), descending=descending))
    # The two databases put missing values at different ends.
    direction = (column.desc(), tie.desc()) if descending else (column.asc(), tie.asc())
    query = query.add_columns(column.label(_ORDER), tie.label(_TIE))
    return query.order_by(column.is_(None), *direction).limit(page.limit + 1)


def next_token(page: Page, rows: "Sequence[Row[Any]]") -> str:
    """Return the token of the next page; empty on the last page.

    Args:
        page: the page that was wanted.
        rows: all rows that its `page_query` found, the one too many included.
    """
    if len(rows) <= page.limit:
        return ""
    last = rows[page.limit - 1]._mapping
    place = [_packed(last[_ORDER]), _packed(last[_TIE])]
    return base64.urlsafe_b64encode(json.dumps([place, _listing(page)]).encode()).decode().rstrip("=")


def parse_filter(text: str, known: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return a filter's conditions as (name, operator, value).

    Raises:
        InvalidArgument: it is no filter, or names an unknown field.
    """
    conditions: list[tuple[str, str, str]] = []
    position = 0
    while position < len(text.rstrip()):
        joined = _AND.match(text, position) if conditions else None
        start = joined.end() if joined else position
        match = _CONDITION.match(text, start)
        if match is None or match[1] not in known or (conditions and joined is None):
            rest = text[position:].strip()
            raise InvalidArgument(
                f'cannot read the filter at {rest!r}: expected NAME = "value" or NAME : "part", joined by AND, '
                f"where NAME is one of {', '.join(sorted(known)) or '(none here)'}",
                reason="BAD_FILTER",
                violations=[("filter", f"cannot read {rest!r}")],
            )
        conditions.append((match[1], match[2], re.sub(r"\\(.)", r"\1", match[3])))
        position = match.end()
    return conditions


def parse_order(text: str, known: Mapping[str, Any]) -> tuple[str, bool]:
    """Return an order's field and whether it descends.

    Raises:
        InvalidArgument: it names an unknown field.
    """
    name, _, direction = text.strip().partition(" ")
    if name not in known or direction.strip().lower() not in ("", "asc", "desc"):
        raise InvalidArgument(
            f"cannot order by {text!r}: expected one of {', '.join(sorted(known))}, optionally with ' desc'",
            reason="BAD_ORDER",
            violations=[("order_by", f"unknown order {text!r}")],
        )
    return name, direction.strip().lower() == "desc"


def _condition(column: ColumnElement[Any], name: str, operator: str, value: str) -> ColumnElement[bool]:
    kind = column.type.python_type
    if operator == ":" and kind is str:
        return column.contains(value, autoescape=True)
    wanted: object = None
    if kind is str:
        wanted = value
    elif kind is bool:
        wanted = {"true": True, "false": False}.get(value.lower())
    elif kind is int and re.fullmatch(r"-?\d{1,18}", value):
        wanted = int(value)
    if operator == ":" or wanted is None:
        raise InvalidArgument(
            f"the filter on {name!r} cannot take {operator} {value!r}: it compares {kind.__name__} values by =",
            reason="BAD_FILTER",
            violations=[("filter", f"{name} is of type {kind.__name__}")],
        )
    return column == wanted


def _after(
    column: ColumnElement[Any], tie: ColumnElement[Any], place: tuple[Any, Any], *, descending: bool
) -> ColumnElement[bool]:
    """Return the condition of the rows behind a place."""
    value, tied = place
    tie_after = tie < tied if descending else tie > tied
    if value is None:
        return and_(column.is_(None), tie_after)
    column_after = column < value if descending else column > value
    return or_(column_after, and_(column == value, tie_after), column.is_(None))


def _listing(page: Page) -> list[str]:
    return [page.filter, page.order_by]


def _packed(value: object) -> object:
    return {"time": value.isoformat()} if isinstance(value, datetime) else value


def _unpacked(value: object, column: ColumnElement[Any]) -> object:
    unpacked = datetime.fromisoformat(value["time"]) if isinstance(value, dict) else value
    kind = column.type.python_type
    # A forged value of another type would be the database's error, not the caller's.
    if unpacked is not None and not isinstance(unpacked, (int, float) if kind is float else kind):
        raise TypeError("no value of this order")
    return unpacked


def _decode(page: Page, column: ColumnElement[Any], tie: ColumnElement[Any]) -> tuple[Any, Any]:
    try:
        padded = page.token + "=" * (-len(page.token) % 4)
        (value, tied), listing = json.loads(base64.b64decode(padded.encode(), altchars=b"-_", validate=True))
        if listing != _listing(page):
            raise ValueError("of another list")
        return _unpacked(value, column), _unpacked(tied, tie)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidArgument(
            "the page_token is not one that this list gave, with the same filter and order",
            reason="BAD_PAGE_TOKEN",
            violations=[("page_token", "not one that this list gave")],
        ) from error
