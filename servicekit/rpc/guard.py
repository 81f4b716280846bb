"""The one interceptor of every server: trace, errors, authentication, permission, validation, deadline, in this order.

One, for each step is a pure function of its own module: a path without interceptors calls the same ones.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message

from lepton.v1 import options_pb2
from servicekit.auth import Identity, TokenVerifier, authenticate, require, set_identity
from servicekit.errors import DeadlineExceeded, InvalidArgument, LeptonError, ResourceExhausted, Unavailable
from servicekit.rpc import statuses
from servicekit.rpc.calls import Call, ServerContext, serving
from servicekit.rpc.deadlines import set_deadline
from servicekit.rpc.permissions import OPEN_METHODS, UNGUARDED_METHODS
from servicekit.rpc.validation import validate

if TYPE_CHECKING:
    # The stubs have it generic, the class itself is not.
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Handler = grpc.RpcMethodHandler

_DRAINING = "this process is stopping: call again, another one will answer"


class Guard(grpc.aio.ServerInterceptor):
    """Guards every RPC of a server.

    Servicers answer streams as async generators.

    Args:
        verifier: checks tokens.
        permissions: the permission of each method by path; one without is refused.
        default_timeout_seconds: the deadline of a unary call that brings none.
        max_message_bytes: the largest answer that clients take.
    """

    def __init__(
        self,
        verifier: TokenVerifier,
        permissions: Mapping[str, "options_pb2.Permission.ValueType"],
        default_timeout_seconds: float = 60.0,
        max_message_bytes: int = 8 << 20,
    ) -> None:
        self._verifier = verifier
        self._permissions = permissions
        self._timeout_seconds = default_timeout_seconds
        self._max_message_bytes = max_message_bytes
        self._handlers: dict[str, Handler] = {}
        self._watches: set[asyncio.Timeout] = set()
        self._is_draining = False

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the method's handler behind the guard; the same one for every call."""
        guarded = self._handlers.get(details.method)
        if guarded is None:
            handler = await continuation(details)
            if handler is None:
                return None
            guarded = self._handlers[details.method] = self._guarded(details.method, handler)
        return guarded

    def admit(self, method: str, metadata: Mapping[str, str], peer_identities: Iterable[bytes] | None) -> Identity:
        """Return who makes a call, if they may.

        Args:
            method: the call's path.
            metadata: its metadata.
            peer_identities: the subject alternative names of the peer's certificate; None without one.

        Raises:
            Unauthenticated: nobody known.
            PermissionDenied: somebody who may not.
        """
        identity = authenticate(self._verifier, metadata, peer_identities)
        require(identity, self._permissions.get(method, options_pb2.PERMISSION_UNSPECIFIED))
        return identity

    def end_watches(self) -> None:
        """End the streams that would go on for ever: their clients come back with a sequence number."""
        self._is_draining = True
        for scope in tuple(self._watches):
            scope.reschedule(asyncio.get_running_loop().time())

    def _guarded(self, method: str, handler: Handler) -> Handler:
        if method in UNGUARDED_METHODS:
            return self._watched(method, handler) if handler.response_streaming else handler
        if handler.response_streaming:
            stream = self._stream(method, handler.stream_stream or handler.unary_stream, handler.response_serializer)
            build = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return build(stream, _readable(handler), None)
        unary = self._unary(method, handler.stream_unary or handler.unary_unary, handler.response_serializer)
        build = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return build(unary, _readable(handler), None)

    def _unary(self, method: str, behaviour: Any, serialize: Any) -> Any:
        async def guarded(request: Any, context: ServerContext) -> bytes | None:
            async with serving(method, context) as call:
                self._enter(call)
                # A stream of requests takes as long as its client sends.
                seconds = self._timeout_seconds if isinstance(request, Message) else None
                async with self._bounded(method, context, seconds):
                    return self._sendable(serialize(await behaviour(_checked(request), context)))
            return None

        return guarded

    def _stream(self, method: str, behaviour: Any, serialize: Any) -> Any:
        # Writes from one coroutine, for a generator's clean-up after a cancelled call would run in another context.
        async def guarded(request: Any, context: ServerContext) -> None:
            async with serving(method, context) as call:
                self._enter(call)
                async with (
                    self._bounded(method, context, None),
                    contextlib.aclosing(behaviour(_checked(request), context)) as responses,
                ):
                    async for response in responses:
                        await context.write(self._sendable(serialize(response)))

        return guarded

    def _watched(self, method: str, handler: Handler) -> Handler:
        """Return the handler of an open stream, such as health's Watch, ended by a drain."""
        behaviour: Any = handler.stream_stream or handler.unary_stream

        async def guarded(request: Any, context: ServerContext) -> None:
            try:
                async with self._bounded(method, context, None):
                    await _written(behaviour(request, context), context)
            except LeptonError as error:
                await context.abort(statuses.status_code(error), error.message, statuses.trailers(error))

        build = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return build(guarded, handler.request_deserializer, handler.response_serializer)

    def _enter(self, call: Call) -> None:
        if call.method not in OPEN_METHODS:
            set_identity(self.admit(call.method, call.metadata, call.context.peer_identities()))

    @contextlib.asynccontextmanager
    async def _bounded(self, method: str, context: ServerContext, default: float | None) -> AsyncIterator[None]:
        """Bound a call by the default where it brings no deadline of its own, and a watch by the drain."""
        remaining = context.time_remaining()
        seconds = default if remaining is None else None
        if (limit := default if remaining is None else remaining) is not None:
            set_deadline(limit)
        is_watch = _is_watch(method)
        if is_watch and self._is_draining:
            raise Unavailable(_DRAINING, reason="DRAINING")
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                if is_watch:
                    self._watches.add(scope)
                yield
        except TimeoutError:
            if not scope.expired():
                raise
            if is_watch:
                raise Unavailable(_DRAINING, reason="DRAINING") from None
            raise DeadlineExceeded(f"the call took longer than {seconds:g} s") from None
        finally:
            self._watches.discard(scope)

    def _sendable(self, answer: bytes) -> bytes:
        check_answer(len(answer), self._max_message_bytes)
        return answer


def check_answer(size_bytes: int, most_bytes: int) -> None:
    """Check that an answer is none that its client would refuse.

    Raises:
        ResourceExhausted: it is larger than the limit.
    """
    if size_bytes > most_bytes:
        raise ResourceExhausted(
            f"the answer takes {size_bytes} bytes, more than the limit of {most_bytes}: ask for less",
            reason="ANSWER_TOO_LARGE",
        )


class _Unreadable:
    """Stands for bytes that are no message of the method's type."""


def _readable(handler: Handler) -> Callable[[bytes], Any]:
    """Return the method's parser, which answers what it cannot parse with a mark: gRPC would leak its error's text."""

    def parse(raw: bytes) -> Any:
        try:
            return handler.request_deserializer(raw) if handler.request_deserializer else raw
        except Exception:
            return _Unreadable()

    return parse


def _checked(request: Any) -> Any:
    """Check a request against the contract's rules; a stream's messages as they come."""
    if isinstance(request, _Unreadable):
        raise InvalidArgument("the request's bytes are no message of this call's type", reason="MESSAGE_UNREADABLE")
    if isinstance(request, Message):
        validate(request)
        return request
    return _checked_stream(request)


async def _checked_stream(requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
    async for request in requests:
        yield _checked(request)


async def _written(responses: Any, context: ServerContext) -> None:
    """Run a handler of either kind: a coroutine that writes by itself, or an async generator."""
    if not hasattr(responses, "__aiter__"):
        await responses
        return
    async with contextlib.aclosing(responses):
        async for response in responses:
            await context.write(response)


def _is_watch(method: str) -> bool:
    return method.rpartition("/")[2].startswith("Watch") or method in UNGUARDED_METHODS
