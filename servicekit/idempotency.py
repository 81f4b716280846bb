"""Mutations that can be repeated: the first answer to a request_id is kept and given again."""

import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.message import Message
from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    delete,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from servicekit.database import Transaction
from servicekit.errors import InvalidArgument

_Answer = TypeVar("_Answer", bound=Message)
# Longer than any client retries; after that an id may be forgotten.
KEEP = timedelta(hours=24)


def requests_table(metadata: MetaData) -> Table:
    """Add the table of answered requests to a service's schema."""
    return Table(
        "requests",
        metadata,
        Column("workspace", String(63), primary_key=True),
        Column("method", String(128), primary_key=True),
        Column("request_id", String(128), primary_key=True),
        Column("payload_sha256", String(64), nullable=False),
        Column("answer", LargeBinary, nullable=False),
        Column("time", DateTime(timezone=True), nullable=False, index=True),
    )


async def once(
    transaction: Transaction,
    requests: Table,
    workspace: str,
    request: Message,
    answer_type: type[_Answer],
    act: Callable[[], Awaitable[_Answer]],
) -> _Answer:
    """Act, and keep the answer under the request's request_id; a repeat gets the kept answer.

    Args:
        transaction: the write transaction that the act belongs to.
        requests: the service's table of answered requests.
        workspace: the caller's workspace.
        request: the request; its type is the method, its request_id the key. An empty one just acts.
        answer_type: the answer's message type.
        act: does the work within the transaction.

    Raises:
        InvalidArgument: the id came before with another payload.
    """
    request_id = str(getattr(request, "request_id", ""))
    if not request_id:
        return await act()
    digest = _digest(request)
    key = _key(requests, workspace, request)
    values = {
        "workspace": workspace,
        "method": request.DESCRIPTOR.name,
        "request_id": request_id,
        "payload_sha256": digest,
        "answer": b"",
        "time": datetime.now(UTC),
    }
    # The row comes first: on Postgres a repeat at the same time waits here for the first's end, then finds its answer.
    dialect = sqlite if transaction.dialect.name == "sqlite" else postgresql
    claim = dialect.insert(requests).values(values).on_conflict_do_nothing()
    if (await transaction.execute(claim.returning(requests.c.request_id))).first() is not None:
        answer = await act()
        await transaction.execute(update(requests).where(key).values(answer=answer.SerializeToString()))
        return answer
    row = (await transaction.execute(select(requests).where(key))).one()
    return _kept(row, request, answer_type)


async def answered(
    connection: Transaction, requests: Table, workspace: str, request: Message, answer_type: type[_Answer]
) -> _Answer | None:
    """Return the answer that a request got before; None where it is new.

    For a mutation that asks other services before its transaction: to a repeat, they might say something else by now.

    Raises:
        InvalidArgument: the id came before with another payload.
    """
    if not getattr(request, "request_id", ""):
        return None
    row = (await connection.execute(select(requests).where(_key(requests, workspace, request)))).one_or_none()
    return None if row is None else _kept(row, request, answer_type)


def _key(requests: Table, workspace: str, request: Message) -> "ColumnElement[bool]":
    return (
        (requests.c.workspace == workspace)
        & (requests.c.method == request.DESCRIPTOR.name)
        & (requests.c.request_id == str(getattr(request, "request_id")))  # noqa: B009
    )


def _digest(request: Message) -> str:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()


def _kept(row: "Row[Any]", request: Message, answer_type: type[_Answer]) -> _Answer:
    if row.payload_sha256 != _digest(request):
        raise InvalidArgument(
            f"request_id {row.request_id!r} was used before with another payload: use a fresh one",
            reason="REQUEST_ID_REUSED",
            violations=[("request_id", "was used before with another payload")],
        )
    return answer_type.FromString(row.answer)


async def forget_old(transaction: Transaction, requests: Table) -> None:
    """Drop the answers that nobody will ask for again."""
    await transaction.execute(delete(requests).where(requests.c.time < datetime.now(UTC) - KEEP))
