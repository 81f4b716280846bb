"""How a service calls another: mTLS, the caller's token or workspace passed on, trace, deadline, our own errors."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message
from opentelemetry.trace import SpanKind, Status, StatusCode

from servicekit import telemetry
from servicekit.auth import find_identity
from servicekit.errors import LeptonError, Unavailable
from servicekit.rpc import statuses
from servicekit.rpc.deadlines import bounded_timeout

DEFAULT_TIMEOUT_SECONDS = 30.0

# Waits before a call is tried again, seconds; each by up to half more, so that callers spread out. Together about as
# long as the supervisor takes to restart a process.
_RETRY_WAITS = (0.05, 0.15, 0.4, 0.8)

_tracer = telemetry.tracer(__name__)


class ChannelSettings(Protocol):
    """What a channel needs of a process's settings: see servicekit.settings.ProcessSettings."""

    @property
    def tls_ca(self) -> Path:
        """PEM file of the platform's CA."""

    @property
    def tls_certificate(self) -> Path:
        """PEM file of this process's certificate."""

    @property
    def tls_key(self) -> Path:
        """PEM file of this process's private key."""

    @property
    def max_message_bytes(self) -> int:
        """Largest message, bytes."""


def open_channel(address: str, settings: ChannelSettings) -> grpc.aio.Channel:
    """Return a channel to another service's private port; close it, or use it as `async with`.

    Calls raise servicekit.errors. They carry the current identity (its token if it has one, else its workspace), the
    current span, and what remains of the deadline of the call under way, at most 30 s for unary calls by default. A
    peer that is away is tried again for one to two seconds, where a repeat is harmless: Gets and Lists, and mutations
    with a request_id.

    Args:
        address: host:port.
        settings: paths of this process's certificate and key, and of the CA.
    """
    return ServiceChannel(raw_channel(address, settings))


def raw_channel(address: str, settings: ChannelSettings) -> grpc.aio.Channel:
    """Return a channel that shows this process's certificate and adds nothing: gRPC's errors, bytes as given.

    Args:
        address: host:port.
        settings: paths of this process's certificate and key, and of the CA.
    """
    credentials = grpc.ssl_channel_credentials(
        settings.tls_ca.read_bytes(), settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes()
    )
    options: list[tuple[str, int]] = [
        # Services reach each other directly: proxies of the environment are for other machines.
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # A peer that restarts is back within a second; gRPC's own back-off grows to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        # How long one attempt to connect may take: a handshake on a busy machine takes its time.
        ("grpc.min_reconnect_backoff_ms", 5000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # A peer whose machine vanished says nothing: ask it.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
    return grpc.aio.secure_channel(address, credentials, options=options)


class ServiceChannel(grpc.aio.Channel):
    """A channel whose calls speak in our metadata and errors.

    A wrapper and not interceptors: those of grpc.aio cannot raise anything but transport errors.
    """

    def __init__(self, inner: grpc.aio.Channel) -> None:
        self._inner = inner

    async def __aenter__(self) -> "ServiceChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._inner.close()

    async def close(self, grace: float | None = None) -> None:
        """Close the channel; calls under way get the grace, seconds."""
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the connection's state."""
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state is another one."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the peer is connected."""
        await self._inner.channel_ready()

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the method as a coroutine function."""
        return _unary(method, self._inner.unary_unary(method, *args, **kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the method as a coroutine function of an async iterator."""
        return _stream_unary(method, self._inner.stream_unary(method, *args, **kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the method as an async generator function."""
        return _stream(method, self._inner.unary_stream(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the method as an async generator function of an async iterator."""
        return _stream(method, self._inner.stream_stream(method, *args, **kwargs))


def _unary(method: str, call: Callable[..., Any]) -> Callable[..., Any]:
    async def invoke(request: Message, *, timeout: float | None = None, metadata: Any = ()) -> Any:
        seconds = bounded_timeout(timeout or DEFAULT_TIMEOUT_SECONDS)
        with _span(method):
            return await _with_retries(call, request, seconds or 0.0, _metadata(metadata), _waits(method, request))

    return invoke


async def _with_retries(
    call: Callable[..., Any], request: Message, seconds: float, metadata: Any, waits: Sequence[float]
) -> Any:
    clock = asyncio.get_running_loop().time
    ends = clock() + seconds
    for wait in (*waits, None):
        try:
            return await call(request, timeout=max(ends - clock(), 0.0), metadata=metadata)
        except grpc.aio.AioRpcError as failure:
            error = statuses.from_rpc_error(failure)
            if wait is None or clock() + wait > ends or not isinstance(error, Unavailable):
                raise error from failure
        await asyncio.sleep(wait * random.uniform(1.0, 1.5))
    raise AssertionError("the last attempt returns or raises")


def _waits(method: str, request: Message) -> Sequence[float]:
    """Return the waits between attempts: none where a repeat might do something twice."""
    is_read = method.rpartition("/")[2].startswith(("Get", "List"))
    # By the contract a repeated request_id gets the first answer.
    has_id = "request_id" in request.DESCRIPTOR.fields_by_name and bool(getattr(request, "request_id"))  # noqa: B009
    return _RETRY_WAITS if is_read or has_id else ()


def _stream_unary(method: str, call: Callable[..., Any]) -> Callable[..., Any]:
    async def invoke(requests: AsyncIterable[Message], *, timeout: float | None = None, metadata: Any = ()) -> Any:
        with _span(method):
            try:
                return await call(requests, timeout=bounded_timeout(timeout), metadata=_metadata(metadata))
            except grpc.aio.AioRpcError as failure:
                raise statuses.from_rpc_error(failure) from failure

    return invoke


def _stream(method: str, call: Callable[..., Any]) -> Callable[..., AsyncIterator[Any]]:
    async def invoke(
        request: Any | AsyncIterable[Any], *, timeout: float | None = None, metadata: Any = ()
    ) -> AsyncIterator[Any]:
        # The span covers the start alone: held open across yields, it would be the parent of what the consumer does.
        with _span(method):
            responses = call(request, timeout=bounded_timeout(timeout), metadata=_metadata(metadata))
        try:
            async for response in responses:
                yield response
        except grpc.aio.AioRpcError as failure:
            raise statuses.from_rpc_error(failure) from failure
        finally:
            responses.cancel()

    return invoke


@contextlib.contextmanager
def _span(method: str) -> Iterator[None]:
    service, _, name = method.lstrip("/").partition("/")
    with _tracer.start_as_current_span(
        method.lstrip("/"),
        kind=SpanKind.CLIENT,
        attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        record_exception=False,
    ) as span:
        try:
            yield
        except LeptonError as error:
            span.set_status(Status(StatusCode.ERROR, error.reason))
            raise


def _metadata(given: Any) -> tuple[tuple[str, str], ...]:
    metadata = list(given or ())
    identity = find_identity()
    if identity is not None and identity.token:
        metadata.append(("authorization", f"Bearer {identity.token}"))
    elif identity is not None and identity.workspace:
        metadata.append(("lepton-workspace", identity.workspace))
    if parent := telemetry.current_traceparent():
        metadata.append(("traceparent", parent))
    return tuple(metadata)
