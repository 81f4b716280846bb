"""The transactional outbox and inbox: a state change and its fact share a transaction, and a fact is applied once.

`publish` writes a row in the caller's transaction; the relay sends rows to JetStream in order by key and deletes what
was acknowledged. `first_time` marks an event as seen in the handler's transaction.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import structlog
from google.protobuf.message import Message
from sqlalchemy import Column, DateTime, LargeBinary, MetaData, Row, Select, String, Table, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from servicekit.database import BigNumber, Database, Transaction, next_number
from servicekit.events import Event, Nats
from servicekit.telemetry import current_traceparent

_log = structlog.get_logger(__name__)

_BATCH = 100
# A commit wakes the relay at once; this is for rows that another process left when it died, of which SQLite has none.
_POLL_SECONDS = 5.0
_POLL_ALONE_SECONDS = 60.0
_RETRY_SECONDS = 1.0
_LAST_SECONDS = 2.0
_SEEN_FOR = timedelta(days=8)


def outbox_table(metadata: MetaData) -> Table:
    """Add the outbox to a service's schema."""
    return Table(
        "outbox",
        metadata,
        Column("sequence", BigNumber, primary_key=True, autoincrement=False),
        Column("event_id", String(32), nullable=False),
        Column("workspace", String(63), nullable=False),
        Column("subject", String(128), nullable=False),
        Column("key", String(255), nullable=False, index=True),
        Column("payload", LargeBinary, nullable=False),
        Column("traceparent", String(64), nullable=False),
        Column("time", DateTime(timezone=True), nullable=False),
    )


def inbox_table(metadata: MetaData) -> Table:
    """Add the inbox, the events that were handled, to a service's schema."""
    return Table(
        "inbox",
        metadata,
        # Each consumer of a service handles an event once.
        Column("consumer", String(128), primary_key=True),
        Column("event_id", String(64), primary_key=True),
        Column("time", DateTime(timezone=True), nullable=False, index=True),
    )


async def publish(
    transaction: Transaction,
    outbox: Table,
    counters: Table,
    *,
    workspace: str,
    subject: str,
    payload: Message,
    key: str,
) -> None:
    """Write a fact in the transaction that makes it true.

    Args:
        transaction: the write transaction.
        outbox: the service's table of facts to send.
        counters: the service's table of counters.
        workspace: whose fact it is.
        subject: service.noun.past-tense, such as data.version.created.
        payload: the fact.
        key: facts with the same key are delivered in order.
    """
    row = {
        "sequence": await next_number(transaction, counters, "outbox"),
        "event_id": uuid.uuid4().hex,
        "workspace": workspace,
        "subject": subject,
        "key": f"{workspace}/{key}",
        "payload": payload.SerializeToString(),
        "traceparent": current_traceparent(),
        "time": datetime.now(UTC),
    }
    await transaction.execute(insert(outbox).values(row))


async def first_time(transaction: Transaction, inbox: Table, event: Event) -> bool:
    """Mark an event as seen; return whether it had not been, so that a redelivery does nothing."""
    dialect = sqlite if transaction.dialect.name == "sqlite" else postgresql
    now = datetime.now(UTC)
    await transaction.execute(delete(inbox).where(inbox.c.time < now - _SEEN_FOR))
    row = {"consumer": event.consumer, "event_id": event.id, "time": now}
    statement = dialect.insert(inbox).values(row).on_conflict_do_nothing().returning(inbox.c.event_id)
    return (await transaction.execute(statement)).first() is not None


class Relay:
    """Sends a service's outbox to JetStream while it is open.

    Args:
        database: the service's database.
        outbox: its outbox table.
        nats: the connection; while it is away, rows wait.
        source: the service, for CloudEvents.
    """

    def __init__(self, database: Database, outbox: Table, nats: Nats, source: str) -> None:
        self._database = database
        self._outbox = outbox
        self._nats = nats
        self._source = source
        self._sending = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="outbox relay")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            # What the last calls wrote goes out before the process does, if NATS takes it quickly.
            if self._nats.is_connected:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(self._drain(), _LAST_SECONDS)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = _POLL_SECONDS if self._database.is_postgres else _POLL_ALONE_SECONDS
        while True:
            self._database.published.clear()
            try:
                await self._drain()
            except Exception as error:
                _log.info("outbox waits", error=str(error) or type(error).__name__)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            # Not wait_for: on Python 3.11 it may swallow a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._database.published.wait()

    async def _drain(self) -> None:
        async with self._sending:
            # A look without the write lock first: most commits publish nothing.
            while await self._is_waiting():
                await self._nats.wait_connected()
                if not await self._send_batch():
                    # Another process is at these rows; the poll sees whether it finished.
                    return

    async def _is_waiting(self) -> bool:
        async with self._database.reading() as connection:
            return (await connection.execute(select(self._outbox.c.sequence).limit(1))).first() is not None

    async def _send_batch(self) -> bool:
        """Send the oldest rows; one is deleted only after JetStream acknowledged it. Return whether there were any."""
        if self._database.is_postgres:
            async with self._database.transaction() as transaction:
                return await self._send(transaction, await self._claim(transaction))
        # SQLite has one writer, who must not wait for NATS; and one process, so that no row needs a claim.
        async with self._database.reading() as connection:
            rows = (await connection.execute(self._oldest())).all()
        return await self._send(None, rows)

    def _oldest(self) -> "Select[Any]":
        return select(self._outbox).order_by(self._outbox.c.sequence).limit(_BATCH)

    async def _claim(self, transaction: Transaction) -> "Sequence[Row[Any]]":
        """Lock the oldest rows that no other process has, leaving out keys with an earlier row that another has."""
        rows = (await transaction.execute(self._oldest().with_for_update(skip_locked=True))).all()
        keys = self._outbox.c.key
        earliest = (
            select(keys, func.min(self._outbox.c.sequence)).where(keys.in_({row.key for row in rows})).group_by(keys)
        )
        first = {key: sequence for key, sequence in await transaction.execute(earliest)}  # noqa: C416 - rows are no pairs
        mine: dict[str, int] = {}
        for row in rows:
            mine.setdefault(row.key, row.sequence)
        return [row for row in rows if first.get(row.key) == mine[row.key]]

    async def _send(self, transaction: Transaction | None, rows: "Sequence[Row[Any]]") -> bool:
        by_key: dict[str, list[Row[Any]]] = {}
        for row in rows:
            by_key.setdefault(row.key, []).append(row)
        sent: list[int] = []
        results = await asyncio.gather(
            *(self._send_in_order(key, sent) for key in by_key.values()), return_exceptions=True
        )
        forget = delete(self._outbox).where(self._outbox.c.sequence.in_(sent))
        if transaction is not None:
            await transaction.execute(forget)
        elif sent:
            async with self._database.transaction() as own:
                await own.execute(forget)
        failure = next((result for result in results if isinstance(result, BaseException)), None)
        # With some sent the transaction must commit; what failed shows again in the next batch.
        if failure is not None and not sent:
            raise failure
        return bool(rows)

    async def _send_in_order(self, rows: "Sequence[Row[Any]]", sent: list[int]) -> None:
        """Send the rows of one key, each once the one before was acknowledged."""
        for row in rows:
            event = Event(row.event_id, row.workspace, row.subject, row.time, row.payload, row.traceparent)
            await self._nats.publish(event, self._source)
            sent.append(row.sequence)
