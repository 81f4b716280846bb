"""Lists: page tokens, filters and orders, checked and never spliced into SQL."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select

from servicekit.errors import InvalidArgument

DEFAULT_PAGE_SIZE = 50
_CONDITION = re.compile(r'\s*([a-z_]+)\s*([=:])\s*"([^"]*)"\s*')


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
        return self.size or DEFAULT_PAGE_SIZE


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

    Args:
        query: what is listed.
        page: which part of it.
        filters: column by filter name.
        orders: column by order name.
        default_order: the order without order_by, such as `name` or `create_time desc`.
        tie: a unique column that orders rows that are otherwise equal.

    Raises:
        InvalidArgument: the filter, order or token is no such thing; the message lists the known names.
    """
    for name, operator, value in parse_filter(page.filter, filters):
        column = filters[name]
        query = query.where(column == value if operator == "=" else column.contains(value, autoescape=True))
    name, descending = parse_order(page.order_by or default_order, orders)
    column = orders[name]
    if page.token:
        offset = _decode(page.token, f"{page.filter}|{page.order_by}")
        query = query.offset(offset)
    direction = (column.desc(), tie.desc()) if descending else (column.asc(), tie.asc())
    return query.order_by(*direction).limit(page.limit + 1)


def next_token(page: Page, found: int) -> str:
    """Return the token of the next page, given how many rows the page's query found; empty on the last page."""
    if found <= page.limit:
        return ""
    state = f"{page.filter}|{page.order_by}"
    start = _decode(page.token, state) if page.token else 0
    return base64.urlsafe_b64encode(json.dumps([start + page.limit, state]).encode()).decode()


def parse_filter(text: str, known: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return a filter's conditions as (name, operator, value).

    Raises:
        InvalidArgument: it is no filter, or names an unknown field.
    """
    conditions = []
    for part in re.split(r"\s+AND\s+", text.strip()) if text.strip() else ():
        match = _CONDITION.fullmatch(part)
        if match is None or match[1] not in known:
            raise InvalidArgument(
                f'cannot read the filter at {part!r}: expected NAME = "value" or NAME : "part", joined by AND, '
                f"where NAME is one of {', '.join(sorted(known))}",
                reason="BAD_FILTER",
                violations=[("filter", f"cannot read {part!r}")],
            )
        conditions.append((match[1], match[2], match[3]))
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


def _decode(token: str, state: str) -> int:
    try:
        offset, of_state = json.loads(base64.urlsafe_b64decode(token.encode()))
        if of_state != state or not isinstance(offset, int) or offset < 0:
            raise ValueError("of another list")
    except (ValueError, TypeError) as error:
        raise InvalidArgument(
            "the page_token is not one that this list gave, with the same filter and order",
            reason="BAD_PAGE_TOKEN",
            violations=[("page_token", "not one that this list gave")],
        ) from error
    return int(offset)



