"""A service's state changes: one transaction holds the rows, the fact that goes out, and the answer to a repeat."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from sqlalchemy import MetaData, Select, func, select

from servicekit import idempotency, outbox
from servicekit.auth import current_identity
from servicekit.database import Database, Transaction, counters_table, next_number
from servicekit.events import Event

_Answer = TypeVar("_Answer", bound=Message)
_Repository = TypeVar("_Repository")


class KitTables:
    """The tables that every service has beside its own.

    Args:
        metadata: the service's schema, to which they are added.
    """

    def __init__(self, metadata: MetaData) -> None:
        self.counters = counters_table(metadata)
        self.outbox = outbox.outbox_table(metadata)
        self.inbox = outbox.inbox_table(metadata)
        self.requests = idempotency.requests_table(metadata)


class Unit:
    """One transaction, with what repositories need beside SQL.

    Args:
        transaction: the open transaction.
        tables: the service's kit tables.
        is_writing: whether it may write; a reading one sees one state and locks nothing.
    """

    def __init__(self, transaction: Transaction, tables: KitTables, *, is_writing: bool = True) -> None:
        self.execute = transaction.execute
        self._transaction = transaction
        self._tables = tables
        self._is_writing = is_writing

    def locked(self, query: "Select[Any]") -> "Select[Any]":
        """Return a query whose rows nobody else changes until a writing transaction ends."""
        return query.with_for_update() if self._is_writing else query

    async def lock(self, name: str) -> None:
        """Let one transaction at a time go on under a name, until it ends; SQLite has one writer anyway."""
        if self.dialect_name == "postgresql":
            await self.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))

    @property
    def dialect_name(self) -> str:
        """The database's: sqlite or postgresql."""
        return self._transaction.dialect.name

    async def next_number(self, name: str) -> int:
        """Return the next value of a counter, from 1, without gaps."""
        return await next_number(self._transaction, self._tables.counters, name)

    async def publish(self, workspace: str, subject: str, payload: Message, key: str) -> None:
        """Let a fact out with this transaction: see servicekit.outbox.publish."""
        await outbox.publish(
            self._transaction,
            self._tables.outbox,
            self._tables.counters,
            workspace=workspace,
            subject=subject,
            payload=payload,
            key=key,
        )

    async def first_time(self, event: Event) -> bool:
        """Return whether an event was not handled before, marking it as handled."""
        return await outbox.first_time(self._transaction, self._tables.inbox, event)


class State(Generic[_Repository]):
    """Opens repositories on a service's database.

    Args:
        database: the open database.
        tables: the kit tables of its schema.
        repository: makes the service's repository of a unit.
    """

    def __init__(self, database: Database, tables: KitTables, repository: Callable[[Unit], _Repository]) -> None:
        self.database = database
        self.tables = tables
        self._repository = repository

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[_Repository]:
        """Run a block as one write transaction."""
        async with self.database.transaction() as transaction:
            yield self._repository(Unit(transaction, self.tables))

    @contextlib.asynccontextmanager
    async def handling(self, event: Event) -> AsyncIterator[_Repository | None]:
        """Run an event's handler as one write transaction; None where the event was handled before."""
        async with self.database.transaction() as transaction:
            unit = Unit(transaction, self.tables)
            yield self._repository(unit) if await unit.first_time(event) else None

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[_Repository]:
        """Run a block that only reads."""
        async with self.database.reading() as connection:
            yield self._repository(Unit(connection, self.tables, is_writing=False))

    async def once(
        self, request: Message, answer_type: type[_Answer], act: Callable[[_Repository], Awaitable[_Answer]]
    ) -> _Answer:
        """Answer a mutation in one write transaction; a repeat of its request_id gets the first answer.

        Raises:
            InvalidArgument: the request_id came before with another payload.
        """
        workspace = current_identity().workspace
        async with self.database.transaction() as transaction:
            repository = self._repository(Unit(transaction, self.tables))
            return await idempotency.once(
                transaction, self.tables.requests, workspace, request, answer_type, lambda: act(repository)
            )

    async def answered(self, request: Message, answer_type: type[_Answer]) -> _Answer | None:
        """Return the answer that a mutation got before, for one that asks other services before it calls `once`.

        Raises:
            InvalidArgument: the request_id came before with another payload.
        """
        async with self.database.reading() as connection:
            workspace = current_identity().workspace
            return await idempotency.answered(connection, self.tables.requests, workspace, request, answer_type)

    async def forget_old_requests(self) -> None:
        """Drop answers that nobody will ask for again."""
        async with self.database.transaction() as transaction:
            await idempotency.forget_old(transaction, self.tables.requests)
