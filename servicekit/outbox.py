"""The transactional outbox and inbox: a state change and its fact share a transaction, and a fact is applied once.

`publish` writes a row in the caller's transaction; the relay sends rows to JetStream in order by key and deletes what was
acknowledged. `first_time` marks an event as seen in the handler's transaction.
"""

import asyncio
import contextlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import Self

import structlog
from google.protobuf.message import Message
from sqlalchemy import Column, DateTime, LargeBinary, MetaData, String, Table, delete, exists, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from servicekit.database import BigNumber, Database, Transaction, next_number
from servicekit.events import Event, Nats
from servicekit.telemetry import current_traceparent

_log = structlog.get_logger(__name__)

_BATCH = 100
# A commit wakes the relay at once; this is for rows that an earlier process left.
_POLL_SECONDS = 5.0
_RETRY_SECONDS = 1.0
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
        outbox, counters: the service's tables.
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
    statement = dialect.insert(inbox).values(event_id=event.id, time=now).on_conflict_do_nothing()
    return (await transaction.execute(statement)).rowcount == 1


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
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="outbox relay")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            # What the last calls wrote goes out before the process does, if NATS takes it quickly.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._drain(), 2.0)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._database.published.clear()
            try:
                await self._drain()
            except Exception as error:
                _log.warning("outbox waits", error=str(error) or type(error).__name__)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._database.published.wait(), _POLL_SECONDS)

    async def _drain(self) -> None:
        # A look without the write lock first: most commits publish nothing.
        while await self._is_waiting():
            await self._send_batch()

    async def _is_waiting(self) -> bool:
        async with self._database.reading() as connection:
            return (await connection.execute(select(self._outbox.c.sequence).limit(1))).first() is not None

    async def _send_batch(self) -> None:
        """Send the oldest row of each key, at most a batch; a row is deleted only after JetStream acknowledged it."""
        earlier = self._outbox.alias("earlier")
        is_oldest = ~exists().where(earlier.c.key == self._outbox.c.key, earlier.c.sequence < self._outbox.c.sequence)
        query = select(self._outbox).where(is_oldest).order_by(self._outbox.c.sequence).limit(_BATCH)
        await self._nats.wait_connected(_RETRY_SECONDS)
        async with self._database.transaction() as transaction:
            rows = (await transaction.execute(query.with_for_update(skip_locked=True))).all()
            for row in rows:
                event = Event(row.event_id, row.workspace, row.subject, row.time, row.payload, row.traceparent)
                await self._nats.publish(event, self._source)
            sent = [row.sequence for row in rows]
            await transaction.execute(delete(self._outbox).where(self._outbox.c.sequence.in_(sent)))
        self._database.published.clear()
