"""Facts on NATS JetStream, load reports on plain NATS, and desired state in NATS KV.

Subjects are lepton.<workspace>.<service>.<noun>.<past tense>; payloads are Protobuf; headers are CloudEvents and the W3C trace
context. Delivery is at least once: handlers are idempotent by event id and acknowledge after their commit.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import nats
import structlog
from google.protobuf.message import DecodeError, Message
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, KeyValueConfig, RetentionPolicy, StreamConfig
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue
from opentelemetry.trace import SpanKind

from servicekit import telemetry
from servicekit.errors import Unavailable
from servicekit.settings import ProcessSettings

_log = structlog.get_logger(__name__)

STREAM = "LEPTON"
_STREAM_BYTES = 1 << 30
_STREAM_SECONDS = 7 * 24 * 3600.0
# Long enough that a relay that was killed between publish and delete cannot publish twice.
_DEDUPLICATION_SECONDS = 3600.0
_DELIVERIES = 20
_BACKOFF_SECONDS = (0.2, 1.0, 5.0, 30.0)
_FETCH_SECONDS = 30.0
_CONNECT_SECONDS = 0.1

_Payload = TypeVar("_Payload", bound=Message)


@dataclass(frozen=True)
class Event:
    """One fact.

    Args:
        id: unique; a redelivery has the same.
        workspace: whose fact it is.
        subject: service.noun.past-tense.
        time: when it became true, UTC.
        payload: the Protobuf message, serialised.
        traceparent: the trace it belongs to; may be empty.
    """

    id: str
    workspace: str
    subject: str
    time: datetime
    payload: bytes
    traceparent: str = ""

    def parse(self, payload_type: type[_Payload]) -> _Payload:
        """Return the payload as its message type."""
        return payload_type.FromString(self.payload)


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

    @property
    def is_connected(self) -> bool:
        """Whether NATS answers now."""
        return bool(self._connected.is_set() and self._client.is_connected)

    async def wait_connected(self, timeout_seconds: float) -> None:
        """Wait for NATS.

        Raises:
            Unavailable: it does not answer in time.
        """
        try:
            await asyncio.wait_for(self._connected.wait(), timeout_seconds)
        except TimeoutError:
            raise Unavailable("NATS does not answer", reason="NATS_AWAY") from None
        if not self._client.is_connected:
            raise Unavailable("NATS does not answer", reason="NATS_AWAY")

    async def publish(self, event: Event, source: str) -> None:
        """Publish a fact and wait until JetStream has it; the same id twice is kept once."""
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
        await self._context().publish(subject, event.payload, timeout=5.0, stream=STREAM, headers=headers)

    async def publish_plain(self, subject: str, message: Message) -> None:
        """Publish a report that may get lost; without NATS it does."""
        if self.is_connected:
            await self._client.publish(subject, message.SerializeToString())

    async def subscribe_plain(
        self, subject: str, message_type: type[_Payload], handler: Callable[[_Payload], Awaitable[None]]
    ) -> None:
        """Call a handler with each report on a subject, from the first connection on."""
        await self._connected.wait()

        async def receive(message: Msg) -> None:
            try:
                await handler(message_type.FromString(message.data))
            except Exception as error:
                _log.warning("report not handled", subject=message.subject, exc_info=error)

        await self._client.subscribe(subject, cb=receive)

    async def key_value(self, bucket: str) -> KeyValue:
        """Return a KV bucket, made where it lacks; waits for NATS."""
        await self._connected.wait()
        try:
            return await self._context().key_value(bucket)
        except NotFoundError:
            return await self._context().create_key_value(KeyValueConfig(bucket=bucket, history=1))

    async def follow(
        self, durable: str, subjects: Sequence[str], handler: Callable[[Event], Awaitable[None]]
    ) -> None:
        """Handle facts for ever, each until its handler returns; run it as a task.

        Args:
            durable: the consumer's name, so that a restart goes on where it was.
            subjects: service.noun.past-tense, with NATS wildcards; of all workspaces.
            handler: commits, and is idempotent by event id; what it raises has the event delivered again, later.
        """
        while True:
            try:
                await self._connected.wait()
                await self._consume(durable, subjects, handler)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                _log.warning("consumer waits", durable=durable, error=str(error) or type(error).__name__)
                await asyncio.sleep(1.0)

    async def _consume(
        self, durable: str, subjects: Sequence[str], handler: Callable[[Event], Awaitable[None]]
    ) -> None:
        configuration = ConsumerConfig(
            durable_name=durable,
            filter_subjects=[f"lepton.*.{subject}" for subject in subjects],
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=30.0,
            max_deliver=_DELIVERIES,
            max_ack_pending=64,
        )
        context = self._context()
        await context.add_consumer(STREAM, configuration)
        subscription = await context.pull_subscribe_bind(durable, STREAM)
        while True:
            try:
                messages = await subscription.fetch(16, timeout=_FETCH_SECONDS)
            except (TimeoutError, nats.errors.TimeoutError):
                continue
            for message in messages:
                await _handle(message, handler)

    def _context(self) -> JetStreamContext:
        if self._jetstream is None:
            raise Unavailable("NATS does not answer", reason="NATS_AWAY")
        return self._jetstream

    async def _connect(self) -> None:
        """Connect, as often as it takes; afterwards the client itself reconnects."""
        password = self._settings.nats_password.get_secret_value()
        if self._settings.nats_password_file is not None:
            password = self._settings.nats_password_file.read_text().strip()
        context = ssl.create_default_context(cafile=str(self._settings.tls_ca))
        host, _, port = self._settings.nats_url.split(",")[0].rpartition("://")[2].partition(":")
        while True:
            try:
                # The client waits two seconds after a refused connection: an open port first is quicker.
                _, writer = await asyncio.open_connection(host, int(port or 4222))
                writer.close()
                await self._client.connect(
                    self._settings.nats_url.split(","),
                    name=self._name,
                    user=self._settings.nats_user,
                    password=password,
                    tls=context,
                    connect_timeout=2,
                    reconnect_time_wait=0.5,
                    max_reconnect_attempts=-1,
                    allow_reconnect=True,
                    error_cb=_log_error,
                )
                self._jetstream = self._client.jetstream(timeout=5.0)
                await self._ensure_stream(self._jetstream)
                self._connected.set()
                return
            except asyncio.CancelledError:
                raise
            except Exception as error:
                _log.debug("NATS is away", error=str(error) or type(error).__name__)
                with contextlib.suppress(Exception):
                    await self._client.close()
                self._client = Client()
                await asyncio.sleep(_CONNECT_SECONDS)

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
    task = asyncio.create_task(connection._connect(), name="nats connect")
    try:
        yield connection
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(connection._client.close(), 2.0)


async def _handle(message: Msg, handler: Callable[[Event], Awaitable[None]]) -> None:
    headers = message.headers or {}
    _, workspace, subject = message.subject.split(".", 2)
    event = Event(
        headers.get("ce-id", ""),
        workspace,
        subject,
        datetime.fromisoformat(headers.get("ce-time", datetime.now(UTC).isoformat())),
        message.data,
        headers.get("traceparent", ""),
    )
    tracer = telemetry.tracer(__name__)
    parent = telemetry.linked_context(event.traceparent)
    with tracer.start_as_current_span(f"handle {subject}", context=parent, kind=SpanKind.CONSUMER):
        try:
            await handler(event)
        except DecodeError as error:
            _log.error("event dropped: not of its schema", event_id=event.id, subject=subject, exc_info=error)
            await message.term()
        except Exception as error:
            delivery = message.metadata.num_delivered
            pause = _BACKOFF_SECONDS[min(delivery - 1, len(_BACKOFF_SECONDS) - 1)]
            _log.warning("event not handled yet", event_id=event.id, subject=subject, delivery=delivery, exc_info=error)
            await message.nak(delay=pause)
        else:
            await message.ack()


async def _log_error(error: Any) -> None:
    _log.info("NATS", error=str(error) or type(error).__name__)
