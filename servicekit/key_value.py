"""Desired state in NATS KV, watched over every loss of the connection."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

import structlog
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.client import JetStreamContext

from servicekit.events import Nats

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 30.0
_RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class Entry:
    """One value of a bucket.

    Args:
        key: its key.
        value: the bytes; none where the key was deleted.
        revision: grows with every write to the bucket.
    """

    key: str
    value: bytes
    revision: int


async def watch(connection: Nats, bucket: str, keys: str) -> AsyncGenerator[Entry | None, None]:
    """Yield each value of some keys, now and whenever it changes, for ever; None once all present ones were given.

    After a lost connection everything present comes once more, and another None: what changed meanwhile is among it,
    but a key that was deleted meanwhile is just not there.

    Args:
        connection: the connection; while it is away, the watch waits.
        bucket: the bucket's name.
        keys: a key, or several by NATS wildcards.
    """
    while True:
        try:
            await connection.key_value(bucket)
            # Not the client's own watcher: for its flow control that wakes four times a second, for ever.
            subscription = await connection.follow_last(f"KV_{bucket}", f"$KV.{bucket}.{keys}")
            try:
                async for entry in _entries(connection, subscription, f"$KV.{bucket}."):
                    yield entry
            finally:
                with contextlib.suppress(Exception):
                    await subscription.unsubscribe()
        except Exception as error:
            _log.info("watch waits", bucket=bucket, keys=keys, error=str(error) or type(error).__name__)
        await asyncio.sleep(_RETRY_SECONDS)


async def _entries(
    connection: Nats, subscription: JetStreamContext.PushSubscription, prefix: str
) -> AsyncIterator[Entry | None]:
    """Yield what a subscription gives until the connection is lost: a server that is gone sends no more."""
    about = await subscription.consumer_info()
    is_complete = about.num_pending == 0 and about.delivered is not None and about.delivered.consumer_seq == 0
    if is_complete:
        yield None
    async for message in _messages(connection, subscription):
        metadata = message.metadata
        yield Entry(message.subject.removeprefix(prefix), message.data, metadata.sequence.stream)
        if not is_complete and metadata.num_pending == 0:
            is_complete = True
            yield None


async def _messages(connection: Nats, subscription: JetStreamContext.PushSubscription) -> AsyncIterator[Msg]:
    dropped = asyncio.ensure_future(connection.wait_dropped())
    try:
        while not dropped.done():
            update = asyncio.ensure_future(subscription.next_msg(timeout=_LOOK_SECONDS))
            update.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            try:
                await asyncio.wait({update, dropped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                update.cancel()
            if update.done() and not update.cancelled():
                try:
                    message = update.result()
                except (TimeoutError, NatsTimeoutError):
                    # The node of a cluster that held the subscription may be gone, and another one we are connected to.
                    await subscription.consumer_info()
                    continue
                yield message
    finally:
        dropped.cancel()
