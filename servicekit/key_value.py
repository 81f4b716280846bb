"""Desired state in NATS KV, watched over every loss of the connection."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import nats.errors
import structlog
from nats.js.kv import KeyValue

from servicekit.events import Nats

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 30.0
_RETRY_SECONDS = 0.5


async def watch(connection: Nats, bucket: str, keys: str) -> AsyncGenerator[KeyValue.Entry | None, None]:
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
            watcher = await (await connection.key_value(bucket)).watch(keys)
            try:
                async for entry in _entries(connection, watcher):
                    yield entry
            finally:
                with contextlib.suppress(Exception):
                    await watcher.stop()  # type: ignore[no-untyped-call]
        except Exception as error:
            _log.info("watch waits", bucket=bucket, keys=keys, error=str(error) or type(error).__name__)
        await asyncio.sleep(_RETRY_SECONDS)


async def _entries(connection: Nats, watcher: KeyValue.KeyWatcher) -> AsyncIterator[KeyValue.Entry | None]:
    """Yield what a watcher gives until the connection is lost: a server that is gone sends no more."""
    dropped = asyncio.ensure_future(connection.wait_dropped())
    try:
        while not dropped.done():
            update = asyncio.ensure_future(watcher.updates(timeout=_LOOK_SECONDS))  # type: ignore[no-untyped-call]
            update.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            try:
                await asyncio.wait({update, dropped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                update.cancel()
            if update.done() and not update.cancelled():
                try:
                    entry = update.result()
                except (TimeoutError, nats.errors.TimeoutError):
                    continue
                yield entry
    finally:
        dropped.cancel()
