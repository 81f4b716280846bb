"""The one interceptor of every server: trace, errors, authentication, permission, validation, deadline, in this order.

Each step is a pure function of its own module, so that a path without interceptors can call the same ones.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import grpc
import structlog
from google.protobuf.message import Message
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from lepton.v1 import options_pb2
from servicekit import telemetry
from servicekit.auth import ALL_WORKSPACES, Identity, Role, TokenVerifier, authenticate, require, set_identity
from servicekit.errors import Cancelled, DeadlineExceeded, LeptonError, Unavailable
from servicekit.rpc import statuses
from servicekit.rpc.permissions import OPEN_METHODS
from servicekit.rpc.validation import validate

_log = structlog.get_logger(__name__)

Handler = grpc.RpcMethodHandler


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Guards every RPC of a server.

    Args:
        verifier: checks tokens.
        permissions: the permission of each method by path; one without is refused.
        default_timeout_seconds: the deadline of a unary call that brings none.
    """

    def __init__(
        self,
        verifier: TokenVerifier,
        permissions: Mapping[str, "options_pb2.Permission.ValueType"],
        default_timeout_seconds: float = 60.0,
    ) -> None:
        self._verifier = verifier
        self._permissions = permissions
        self._timeout_seconds = default_timeout_seconds
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Return the method's handler behind the guard; the same one for every call."""
        method = details.method
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(details)
        if handler is None or method in OPEN_METHODS:
            return handler
        self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        make = {
            (False, False): (grpc.unary_unary_rpc_method_handler, self._unary),
            (True, False): (grpc.stream_unary_rpc_method_handler, self._unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, self._stream),
            (True, True): (grpc.stream_stream_rpc_method_handler, self._stream),
        }
        behaviour = (
            handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream
        )
        build, guard = make[handler.request_streaming, handler.response_streaming]
        return build(guard(method, behaviour), handler.request_deserializer, handler.response_serializer)

    def _unary(self, method: str, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Any]:
        async def guarded(request: Any, context: grpc.aio.ServicerContext) -> Any:
            with self._call(method, context) as call:
                try:
                    self.admit(method, context)
                    seconds = None if context.time_remaining() is not None else self._timeout_seconds
                    async with asyncio.timeout(seconds if isinstance(request, Message) else None):
                        return await behaviour(_checked(request), context)
                except Exception as error:
                    await call.abort(error)

        return guarded

    def _stream(self, method: str, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def guarded(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            with self._call(method, context) as call:
                try:
                    self.admit(method, context)
                    async for response in behaviour(_checked(request), context):
                        yield response
                except Exception as error:
                    await call.abort(error)

        return guarded

    def admit(self, method: str, context: grpc.aio.ServicerContext) -> None:
        """Authenticate the caller and check its permission; from here on it is the call's identity."""
        identity = self.identify(context)
        require(identity, self._permissions.get(method, options_pb2.PERMISSION_UNSPECIFIED))
        set_identity(identity)

    def identify(self, context: grpc.aio.ServicerContext) -> Identity:
        """Return who makes a call.

        Raises:
            Unauthenticated: nobody known.
        """
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        return authenticate(self._verifier, metadata, context.peer_identities())

    @contextlib.contextmanager
    def _call(self, method: str, context: grpc.aio.ServicerContext) -> Iterator["_Call"]:
        parent = telemetry.extract(dict(context.invocation_metadata() or ()))
        service, _, name = method.lstrip("/").partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        with telemetry.tracer(__name__).start_as_current_span(
            method.lstrip("/"), context=parent, kind=SpanKind.SERVER, attributes=attributes
        ) as span:
            call = _Call(method, context, span)
            try:
                yield call
            finally:
                telemetry.count_call(method, call.code, time.perf_counter() - call.started)


class _Call:
    """One call under way: its span, its outcome, and how it fails."""

    def __init__(self, method: str, context: grpc.aio.ServicerContext, span: trace.Span) -> None:
        self.method = method
        self.code = "OK"
        self.started = time.perf_counter()
        self._context = context
        self._span = span

    async def abort(self, error: Exception) -> None:
        """End the call with an error's status; an unexpected one is logged whole and sent as an id."""
        if isinstance(error, grpc.aio.AbortError):
            self.code = self._context.code().name if isinstance(self._context.code(), grpc.StatusCode) else "UNKNOWN"
            raise error
        known = self._known(error)
        self.code = known.status
        self._span.set_status(Status(StatusCode.ERROR, known.reason))
        self._span.set_attribute("lepton.error.reason", known.reason)
        _log.info("call failed", method=self.method, code=known.status, reason=known.reason, error=known.message)
        trailing = ((statuses.DETAILS_KEY, statuses.details(known)),)
        await self._context.abort(statuses.status_code(known), known.message, trailing)

    def _known(self, error: Exception) -> LeptonError:
        if isinstance(error, LeptonError):
            return error
        if isinstance(error, TimeoutError):
            return DeadlineExceeded("the call took too long")
        if isinstance(error, ConnectionError):
            return Unavailable("something that this call needs is away; try again")
        hidden, error_id = statuses.hide(error)
        self._span.record_exception(error)
        _log.error("internal error", method=self.method, error_id=error_id, exc_info=error)
        return hidden


def _checked(request: Any) -> Any:
    """Check a request against the contract's rules; a stream's messages as they come."""
    if isinstance(request, Message):
        validate(request)
        return request
    return _checked_stream(request)


async def _checked_stream(requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
    async for request in requests:
        validate(request)
        yield request


def sees_all_workspaces(identity: Identity) -> bool:
    """Return whether the caller is a service that looks at every workspace."""
    return identity.role is Role.SERVICE and identity.workspace == ALL_WORKSPACES


__all__ = ["Cancelled", "Guard", "sees_all_workspaces"]
