"""How a service calls another: mTLS, the caller's token or workspace passed on, trace, deadline, errors as servicekit.errors."""

import json
from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import grpc
from opentelemetry.trace import SpanKind

from servicekit import telemetry
from servicekit.auth import find_identity
from servicekit.rpc import statuses

DEFAULT_TIMEOUT_SECONDS = 30.0

# Every mutation carries a request_id, so a repeat gets the first answer; a stream is never repeated by the transport.
_RETRY = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


class ChannelSettings(Protocol):
    """What a channel needs of a process's settings."""

    @property
    def tls_ca(self) -> Path: ...
    @property
    def tls_certificate(self) -> Path: ...
    @property
    def tls_key(self) -> Path: ...
    @property
    def max_message_bytes(self) -> int: ...


def open_channel(address: str, settings: ChannelSettings) -> grpc.aio.Channel:
    """Return a channel to another service's private port; close it, or use it as `async with`.

    Calls raise servicekit.errors. They carry the current identity: its token if it has one, else its workspace.

    Args:
        address: host:port.
        settings: paths of this process's certificate and key, and of the CA.
    """
    credentials = grpc.ssl_channel_credentials(
        settings.tls_ca.read_bytes(), settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes()
    )
    options = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.service_config", json.dumps(_RETRY)),
        # A peer that restarts is back within a second; gRPC's own back-off grows to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", 30_000),
    ]
    return ServiceChannel(grpc.aio.secure_channel(address, credentials, options=options))


class ServiceChannel(grpc.aio.Channel):  # type: ignore[misc]
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
        return _unary(method, self._inner.unary_unary(method, *args, **kwargs), DEFAULT_TIMEOUT_SECONDS)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the method as a coroutine function of an async iterator."""
        return _unary(method, self._inner.stream_unary(method, *args, **kwargs), None)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the method as an async generator function."""
        return _stream(method, self._inner.unary_stream(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the method as an async generator function of an async iterator."""
        return _stream(method, self._inner.stream_stream(method, *args, **kwargs))


def _unary(method: str, call: Callable[..., Any], default_timeout: float | None) -> Callable[..., Any]:
    async def invoke(request: Any, *, timeout: float | None = None, metadata: Any = ()) -> Any:
        with _span(method):
            try:
                return await call(request, timeout=timeout or default_timeout, metadata=_metadata(metadata))
            except grpc.aio.AioRpcError as error:
                raise statuses.from_rpc_error(error) from error

    return invoke


def _stream(method: str, call: Callable[..., Any]) -> Callable[..., AsyncIterator[Any]]:
    async def invoke(
        request: Any | AsyncIterable[Any], *, timeout: float | None = None, metadata: Any = ()
    ) -> AsyncIterator[Any]:
        # No span is held open across yields: the consumer's context would inherit it.
        with _span(method):
            responses = call(request, timeout=timeout, metadata=_metadata(metadata))
        try:
            async for response in responses:
                yield response
        except grpc.aio.AioRpcError as error:
            raise statuses.from_rpc_error(error) from error
        finally:
            responses.cancel()

    return invoke


def _span(method: str) -> Any:
    return telemetry.tracer(__name__).start_as_current_span(method.lstrip("/"), kind=SpanKind.CLIENT)


def _metadata(given: Any) -> tuple[tuple[str, str], ...]:
    metadata = list(given or ())
    identity = find_identity()
    if identity is not None and identity.token:
        metadata.append(("authorization", f"Bearer {identity.token}"))
    elif identity is not None:
        metadata.append(("lepton-workspace", identity.workspace))
    if parent := telemetry.current_traceparent():
        metadata.append(("traceparent", parent))
    return tuple(metadata)
