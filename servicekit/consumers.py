"""One delivered fact: handled, then acknowledged; tried again with pauses; given up aloud when it never works."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import structlog
from google.protobuf.message import DecodeError, Message
from nats.aio.msg import Msg
from opentelemetry.trace import SpanKind

from servicekit import telemetry
from servicekit.auth import Identity, act_as

_log = structlog.get_logger(__name__)

# How long a consumer that died keeps an event from the others, seconds.
ACK_WAIT_SECONDS = 12.0
_DELIVERIES = 20
_BACKOFF_SECONDS = (0.2, 1.0, 5.0, 30.0)

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
        consumer: the durable consumer that it was delivered to; empty before.
    """

    id: str
    workspace: str
    subject: str
    time: datetime
    payload: bytes
    traceparent: str = ""
    consumer: str = ""

    def parse(self, payload_type: type[_Payload]) -> _Payload:
        """Return the payload as its message type."""
        return payload_type.FromString(self.payload)


async def handle(message: Msg, handler: Callable[[Event], Awaitable[None]], durable: str) -> None:
    """Hand a message to a handler as an event, in its publisher's trace and workspace; tell the server how it went."""
    event = _event(message, durable)
    parent = telemetry.linked_context(event.traceparent)
    tracer = telemetry.tracer(__name__)
    with (
        tracer.start_as_current_span(f"handle {event.subject}", context=parent, kind=SpanKind.CONSUMER),
        act_as(Identity.for_service(event.workspace)),
    ):
        working = asyncio.create_task(_keep(message))
        try:
            await handler(event)
        except asyncio.CancelledError:
            # Another process, or this one's next start, need not wait until the delivery lapses.
            with contextlib.suppress(Exception):
                await message.nak()
            raise
        except Exception as error:
            await _refuse(message, event, error)
        else:
            await message.ack()
        finally:
            working.cancel()


def _event(message: Msg, durable: str) -> Event:
    headers = message.headers or {}
    _, workspace, subject = message.subject.split(".", 2)
    return Event(
        headers.get("ce-id", ""),
        workspace,
        subject,
        datetime.fromisoformat(headers.get("ce-time", datetime.now(UTC).isoformat())),
        message.data,
        headers.get("traceparent", ""),
        durable,
    )


async def _keep(message: Msg) -> None:
    """Tell the server that a slow handler is at work, so that nobody else gets the event."""
    while True:
        await asyncio.sleep(ACK_WAIT_SECONDS / 3)
        await message.in_progress()


async def _refuse(message: Msg, event: Event, error: Exception) -> None:
    delivery = message.metadata.num_delivered
    if delivery >= _DELIVERIES or isinstance(error, DecodeError):
        _log.error("event given up", event_id=event.id, subject=event.subject, delivery=delivery, exc_info=error)
        await message.term()
        return
    _log.warning("event not handled yet", event_id=event.id, subject=event.subject, delivery=delivery, exc_info=error)
    await message.nak(delay=_BACKOFF_SECONDS[min(delivery, len(_BACKOFF_SECONDS)) - 1])
