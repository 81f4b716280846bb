"""Facts on NATS JetStream, load reports on plain NATS, and desired state in NATS KV.

Subjects are lepton.<workspace>.<service>.<noun>.<past tense>; payloads are Protobuf; headers are CloudEvents and W3C's
trace context. Delivery is at least once: handlers are idempotent by event id and acknowledge after their commit.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import nats
import structlog
from google.protobuf.message import Message
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    KeyValueConfig,
    RetentionPolicy,
    StreamConfig,
)
from nats.js.errors import NoStreamResponseError, NotFoundError
from nats.js.kv import KeyValue

from servicekit.consumers import ACK_WAIT_SECONDS, Event, handle
from servicekit.errors import Unavailable
from servicekit.settings import ProcessSettings

__all__ = ["STREAM", "Event", "Nats", "connect"]

_log = structlog.get_logger(__name__)

STREAM = "LEPTON"
_STREAM_BYTES = 1 << 30
_STREAM_SECONDS = 7 * 24 * 3600.0
# Long enough that a relay that was killed between publish and delete cannot publish twice.
_DEDUPLICATION_SECONDS = 3600.0
_ACKNOWLEDGE_SECONDS = 5.0
_RETRY_SECONDS = 0.5
_RECONNECT_SECONDS: Any = 0.25  # the client takes fractions, though it says int
_FETCH_SECONDS = 30.0
# How long the server keeps a place for a watcher that is gone.
_FORGET_SECONDS = 60.0
_CONNECT_SECONDS = 0.1

_Payload = TypeVar("_Payload", bound=Message)


class Nats:
    """A connection that comes back by itself.

    Args:
        settings: where NATS is, and how to get in.
        name: this process, for NATS's own monitoring.
    """

    def __init__(self, settings: ProcessSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._client = Client()
        self._jetstream: JetStreamContext | None = None
        self._connected = asyncio.Event()
        self._dropped = asyncio.Event()
        self._closed = asyncio.Event()
        self._plain: list[tuple[str, Callable[[Msg], Awaitable[None]]]] = []

    @property
    def is_connected(self) -> bool:
        """Whether NATS answers now."""
        return bool(self._connected.is_set() and self._client.is_connected)

    async def wait_connected(self, timeout_seconds: float | None = None) -> None:
        """Wait for NATS.

        Args:
            timeout_seconds: how long; None for as long as it takes.

        Raises:
            Unavailable: it does not answer in time.
        """
        try:
            await asyncio.wait_for(self._connected.wait(), timeout_seconds)
        except TimeoutError:
            raise Unavailable("NATS does not answer", reason="NATS_AWAY") from None

    async def wait_dropped(self) -> None:
        """Wait until the connection is lost; at once where it is. What waits for an answer may then stop waiting."""
        await self._dropped.wait()

    async def publish(self, event: Event, source: str) -> None:
        """Publish a fact and wait until JetStream has it; the same id twice is kept once.

        Raises:
            Unavailable: JetStream did not acknowledge it; it may have it nevertheless.
        """
        headers = {
            "Nats-Msg-Id": event.id,
            "ce-specversion": "1.0",
            "ce-id": event.id,
            "ce-source": f"lepton/{source}",
            "ce-type": f"dev.lepton.{event.subject}",
            "ce-time": event.time.isoformat(),
            "ce-subject": event.workspace,
            "content-type": "application/protobuf",
            **({"traceparent": event.traceparent} if event.traceparent else {}),
        }
        subject = f"lepton.{event.workspace}.{event.subject}"
        try:
            await self._context().publish(subject, event.payload, timeout=_ACKNOWLEDGE_SECONDS, headers=headers)
        except NoStreamResponseError as error:
            # NATS came back without its files, say: the outbox still has the fact, so only the stream is to be made.
            await self._ensure_stream(self._context())
            raise Unavailable("the stream of events was away", reason="NATS_AWAY") from error
        except (TimeoutError, NatsError) as error:
            raise Unavailable(f"NATS did not take an event: {_told(error)}", reason="NATS_AWAY") from error

    async def publish_plain(self, subject: str, message: Message) -> None:
        """Publish a report that may get lost; without NATS it does."""
        if self.is_connected:
            await self._client.publish(subject, message.SerializeToString())

    async def subscribe_plain(
        self, subject: str, message_type: type[_Payload], handler: Callable[[_Payload], Awaitable[None]]
    ) -> None:
        """Call a handler with each report on a subject, from the first connection on."""

        async def receive(message: Msg) -> None:
            try:
                await handler(message_type.FromString(message.data))
            except Exception as error:
                _log.warning("report not handled", subject=message.subject, exc_info=error)

        await self.wait_connected()
        self._plain.append((subject, receive))
        await self._client.subscribe(subject, cb=receive)

    async def key_value(self, bucket: str, ttl_seconds: float | None = None) -> KeyValue:
        """Return a KV bucket, made where it lacks; waits for NATS.

        Args:
            bucket: its name.
            ttl_seconds: how long a value lives after its last write; None for ever.

        Raises:
            Unavailable: NATS went away meanwhile.
        """
        await self.wait_connected()
        context = self._context()
        try:
            try:
                return await context.key_value(bucket)
            except NotFoundError:
                return await context.create_key_value(KeyValueConfig(bucket=bucket, history=1, ttl=ttl_seconds))
        except (TimeoutError, NatsError) as error:
            raise Unavailable(f"NATS did not open the bucket {bucket}: {_told(error)}", reason="NATS_AWAY") from error

    async def follow_last(self, stream: str, subject: str) -> JetStreamContext.PushSubscription:
        """Subscribe to the last message of each subject and all to come; the server forgets it when we are gone.

        Args:
            stream: its name.
            subject: one, or several by NATS wildcards.
        """
        configuration = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=_FORGET_SECONDS,
        )
        return await self._context().subscribe(subject, stream=stream, config=configuration)

    async def follow(self, durable: str, subjects: Sequence[str], handler: Callable[[Event], Awaitable[None]]) -> None:
        """Handle facts for ever, each until its handler returns; run it as a task.

        Args:
            durable: the consumer's name, so that a restart goes on where it was; processes with one name share facts.
            subjects: service.noun.past-tense, with NATS wildcards; of all workspaces.
            handler: commits, and is idempotent by event id; what it raises has the event delivered again, later. An
                event that fails 20 times, or is not of its schema, is logged and given up.
        """
        while True:
            try:
                await self.wait_connected()
                await self._consume(durable, subjects, handler)
            except Exception as error:
                _log.info("consumer waits", durable=durable, error=_told(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _consume(
        self, durable: str, subjects: Sequence[str], handler: Callable[[Event], Awaitable[None]]
    ) -> None:
        configuration = ConsumerConfig(
            durable_name=durable,
            filter_subjects=[f"lepton.*.{subject}" for subject in subjects],
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_SECONDS,
            # Counted here: the server would drop the event without a word.
            max_deliver=-1,
            max_ack_pending=64,
        )
        context = self._context()
        await context.add_consumer(STREAM, configuration)
        subscription = await context.pull_subscribe_bind(durable, STREAM)
        try:
            while (message := await self._next(subscription)) is not None:
                await handle(message, handler, durable)
        finally:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()

    async def _next(self, subscription: JetStreamContext.PullSubscription) -> Msg | None:
        """Return the next message, or None once the connection is lost: a server that is gone answers no request."""
        dropped = asyncio.ensure_future(self._dropped.wait())
        try:
            while not dropped.done():
                # One at a time: a larger fetch holds what it has until its batch is full or its time is up.
                fetch = asyncio.ensure_future(subscription.fetch(1, timeout=_FETCH_SECONDS))
                # Where nobody waits for it any more, how it ended tells nothing.
                fetch.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                try:
                    await asyncio.wait({fetch, dropped}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not fetch.done():
                        fetch.cancel()
                if fetch.done() and not fetch.cancelled():
                    with contextlib.suppress(TimeoutError, nats.errors.TimeoutError):
                        return fetch.result()[0]
            return None
        finally:
            dropped.cancel()

    def _context(self) -> JetStreamContext:
        if self._jetstream is None:
            raise Unavailable("NATS does not answer", reason="NATS_AWAY")
        return self._jetstream

    async def run(self) -> None:
        """Connect, as often as it takes, for ever; between, the client itself reconnects."""
        while True:
            try:
                await self._connect()
                await self._closed.wait()
            except Exception as error:
                _log.debug("NATS is away", error=_told(error))
                await asyncio.sleep(0.1)
            await self.close()

    async def close(self) -> None:
        """Close the connection; what was published plainly goes out first."""
        self._connected.clear()
        self._dropped.set()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._client.close(), 2.0)

    async def _connect(self) -> None:
        settings = self._settings
        password = settings.nats_password.get_secret_value()
        if settings.nats_password_file is not None:
            password = settings.nats_password_file.read_text().strip()
        # The client waits two seconds after a refused connection: an open port first is quicker.
        await _wait_open(settings.nats_url)
        self._closed.clear()
        self._client = Client()
        await self._client.connect(
            settings.nats_url.split(","),
            name=self._name,
            user=settings.nats_user,
            password=password,
            tls=ssl.create_default_context(cafile=str(settings.tls_ca)),
            connect_timeout=2,
            reconnect_time_wait=_RECONNECT_SECONDS,
            max_reconnect_attempts=-1,
            allow_reconnect=True,
            ping_interval=20,
            error_cb=_log_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_connected,
            closed_cb=self._on_closed,
        )
        await self._on_connected()
        for subject, receive in self._plain:
            await self._client.subscribe(subject, cb=receive)

    async def _on_connected(self) -> None:
        self._jetstream = self._client.jetstream(timeout=_ACKNOWLEDGE_SECONDS)
        # A server that was killed takes connections a moment before JetStream answers.
        for _ in range(50):
            try:
                await self._ensure_stream(self._jetstream)
                break
            except (TimeoutError, NatsError) as error:
                _log.debug("JetStream is not ready", error=_told(error))
                await asyncio.sleep(0.1)
        self._dropped.clear()
        self._connected.set()

    async def _on_disconnected(self) -> None:
        self._connected.clear()
        self._dropped.set()

    async def _on_closed(self) -> None:
        # It gives up by itself where the password is refused, say: then begin anew, and read the file again.
        await self._on_disconnected()
        self._closed.set()

    @staticmethod
    async def _ensure_stream(context: JetStreamContext) -> None:
        configuration = StreamConfig(
            name=STREAM,
            subjects=["lepton.>"],
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD,
            max_bytes=_STREAM_BYTES,
            max_age=_STREAM_SECONDS,
            duplicate_window=_DEDUPLICATION_SECONDS,
        )
        try:
            await context.stream_info(STREAM)
        except NotFoundError:
            await context.add_stream(configuration)


@contextlib.asynccontextmanager
async def connect(settings: ProcessSettings, name: str) -> AsyncIterator[Nats]:
    """Connect in the background: a service starts, and serves, while NATS is away."""
    connection = Nats(settings, name)
    task = asyncio.create_task(connection.run(), name="nats connect")
    try:
        yield connection
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.close()


async def _wait_open(urls: str) -> None:
    """Return if one of the servers takes connections.

    Raises:
        OSError: none does.
    """
    failure: OSError | None = None
    for url in urls.split(","):
        address = urlsplit(url)
        try:
            _, writer = await asyncio.open_connection(address.hostname, address.port or 4222)
        except OSError as error:
            failure = error
        else:
            writer.close()
            return
    raise failure or OSError("no servers are named")


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _log_error(error: Exception) -> None:
    _log.debug("NATS", error=_told(error))
