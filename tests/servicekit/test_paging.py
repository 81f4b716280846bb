"""Lists in pages, on SQLite and Postgres: every row once, filters that never reach SQL as text, clear refusals."""

import base64
import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Boolean, Column, DateTime, MetaData, String, Table, delete, insert, select

from servicekit.database import BigNumber, Database
from servicekit.errors import InvalidArgument
from servicekit.paging import Page, next_token, page_query, parse_filter, parse_order

metadata = MetaData()
models = Table(
    "models",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("number", BigNumber),
    Column("time", DateTime(timezone=True), nullable=False),
    Column("is_ready", Boolean, nullable=False),
)
FIELDS = {"name": models.c.name, "state": models.c.state, "number": models.c.number, "is_ready": models.c.is_ready}
ORDERS = {"name": models.c.name, "number": models.c.number, "time": models.c.time}


@pytest.fixture
async def filled(database: Database) -> Database:
    """A table of 25 models; every fifth has no number, and numbers and times repeat."""
    async with database.transaction() as transaction:
        await transaction.run_sync(lambda connection: metadata.create_all(connection))
        for index in range(25):
            await _add(transaction, f"model-{index:02d}", None if index % 5 == 0 else index // 3, index)
    return database


async def _add(transaction: Any, name: str, number: int | None, index: int) -> None:
    time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=index // 4)
    row = {"name": name, "state": "READY" if index % 2 else "FAILED", "number": number, "time": time}
    await transaction.execute(insert(models).values(**row, is_ready=bool(index % 2)))


async def _page(database: Database, page: Page, default_order: str = "name") -> tuple[list[str], str]:
    query = page_query(
        select(models), page, filters=FIELDS, orders=ORDERS, default_order=default_order, tie=models.c.name
    )
    async with database.reading() as connection:
        rows = (await connection.execute(query)).all()
    return [row.name for row in rows[: page.limit]], next_token(page, rows)


async def _all(database: Database, **wanted: Any) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        names, token = await _page(database, Page(token=token, **wanted))
        found += names
        if not token:
            return found


@pytest.mark.parametrize("size", [1, 4, 24, 25, 26])
@pytest.mark.parametrize("order", ["name", "name desc", "number", "number desc", "time", "time desc"])
async def test_pages_hold_every_row_once(filled: Database, size: int, order: str) -> None:
    found = await _all(filled, size=size, order_by=order)
    assert sorted(found) == [f"model-{index:02d}" for index in range(25)]


async def test_rows_without_a_value_come_last(filled: Database) -> None:
    for order in ("number", "number desc"):
        found = await _all(filled, size=7, order_by=order)
        assert set(found[-5:]) == {"model-00", "model-05", "model-10", "model-15", "model-20"}


async def test_rows_that_come_and_go_between_pages_hide_no_others(filled: Database) -> None:
    first, token = await _page(filled, Page(size=10))
    async with filled.transaction() as transaction:
        await transaction.execute(delete(models).where(models.c.name.in_(first)))
        await _add(transaction, "aaa", 1, 1)
    second, _ = await _page(filled, Page(size=10, token=token))
    assert second == [f"model-{index:02d}" for index in range(10, 20)]


async def test_filters_take_rows_that_match_all_conditions(filled: Database) -> None:
    assert await _all(filled, filter='state = "READY" AND name : "-1"') == [f"model-{n}" for n in (11, 13, 15, 17, 19)]
    assert await _all(filled, filter='number = "1"') == ["model-03", "model-04"]
    assert len(await _all(filled, filter='is_ready = "true"')) == 12


@pytest.mark.parametrize("value", ["%", "_", "' OR 1=1 --", '\\"; DROP TABLE models; --', "model-0' AND '1'='1"])
async def test_filters_are_values_never_sql(filled: Database, value: str) -> None:
    assert await _all(filled, filter=f'name = "{value}"') == []
    assert await _all(filled, filter=f'name : "{value}"') == []
    assert len(await _all(filled)) == 25


@pytest.mark.parametrize(
    "text",
    [
        'colour = "red"',
        "name",
        'name = "x" state = "y"',
        'name = "x" OR name = "y"',
        'name = "x" AND',
        'name > "x"',
        "AND",
    ],
)
async def test_a_bad_filter_is_refused_with_the_known_names(database: Database, text: str) -> None:
    with pytest.raises(InvalidArgument, match="is_ready, name, number, state") as caught:
        await _page(database, Page(filter=text))
    assert caught.value.violations[0][0] == "filter"


@pytest.mark.parametrize(
    "text", ['number = "one"', 'number : "1"', 'is_ready = "maybe"', 'number = "99999999999999999999"']
)
async def test_a_filter_of_the_wrong_type_is_refused(database: Database, text: str) -> None:
    with pytest.raises(InvalidArgument):
        await _page(database, Page(filter=text))


@pytest.mark.parametrize("text", ["colour", "name up", "name desc, number", "name; DROP TABLE models", ";"])
async def test_a_bad_order_is_refused_with_the_known_names(database: Database, text: str) -> None:
    with pytest.raises(InvalidArgument, match="name, number, time"):
        await _page(database, Page(order_by=text))


def _token(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


@pytest.mark.parametrize(
    "token",
    [
        "garbage",
        "!",
        "äöü",
        "AAAA",
        _token(7),
        _token([["a", "b"], ["", "other"]]),
        _token([[1, "b"], ["", ""]]),
        _token([[{"time": "x"}, "b"], ["", ""]]),
        _token([["a"], ["", ""]]),
    ],
)
async def test_a_token_that_no_list_gave_is_refused(database: Database, token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await _page(database, Page(token=token))
    assert caught.value.reason == "BAD_PAGE_TOKEN"


async def test_a_token_of_another_filter_is_refused(filled: Database) -> None:
    _, token = await _page(filled, Page(size=2))
    with pytest.raises(InvalidArgument):
        await _page(filled, Page(size=2, token=token, filter='state = "READY"'))


def test_a_quoted_and_joins_nothing() -> None:
    text = r'name = "a AND b" AND state = "say \"x\""'
    assert parse_filter(text, {"name": 1, "state": 1}) == [("name", "=", "a AND b"), ("state", "=", 'say "x"')]


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    for parse in (parse_filter, parse_order):
        with contextlib.suppress(InvalidArgument):
            parse(text, {"name": 1})


@given(st.lists(st.text(max_size=12), max_size=4))
def test_any_value_survives_quoting(values: list[str]) -> None:
    quoted = ['name = "' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values]
    assert [value for _, _, value in parse_filter(" AND ".join(quoted), {"name": 1})] == values
