"""A call of the fast lane's server that the event loop serves: what grpc.aio gives to its handlers, the same way."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import grpc
import structlog

from servicekit.rpc import Guard
from services.inference.fastlane import core

_log = structlog.get_logger(__name__)

_Metadata = Sequence[tuple[str, str | bytes]]
Find = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class _Details(grpc.HandlerCallDetails):
    """What an interceptor is told of a call before it is served."""

    def __init__(self, method: str, metadata: Any) -> None:
        self.method = method
        self.invocation_metadata = metadata


class AsyncCall(grpc.aio.ServicerContext[Any, Any]):
    """One call, as its handler sees it.

    Args:
        event: the core's, with the call, its metadata, method and deadline.
        loop: where it is served.
    """

    def __init__(self, event: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._call = event.call
        self._metadata = tuple((item.key, item.value) for item in event.invocation_metadata)
        now = time.time()
        remaining = core.remaining_seconds(event, now)
        self._deadline = None if remaining is None else now + remaining
        self.method = event.call_details.method.decode()
        self._loop = loop
        self._has_begun = False
        self._has_ended = False
        self._is_cancelled = False
        self._trailers: _Metadata = ()
        self._code: grpc.StatusCode | None = None
        self._text = ""
        self._deserialize: Callable[[bytes], Any] | None = None
        self._serialize: Callable[[Any], bytes] | None = None
        self._callbacks: list[Callable[[Any], None]] = []

    def handled_by(self, handler: Any) -> None:
        """Speak in a handler's messages."""
        self._deserialize = handler.request_deserializer
        self._serialize = handler.response_serializer

    def watch_close(self, task: "asyncio.Task[None]") -> None:
        """Cancel a task when the caller goes away, or its deadline passes."""

        def closed(event: Any) -> None:
            if event.batch_operations[0].cancelled():
                self._loop.call_soon_threadsafe(self._cancel, task)

        self._call.start_server_batch(core.receive_close(), closed)

    async def read(self) -> Any:
        """Return the next message, or grpc.aio.EOF."""
        event = await self._batch(core.receive_message())
        raw = event.batch_operations[0].message() if event.success else None
        if raw is None:
            return grpc.aio.EOF
        return self._deserialize(raw) if self._deserialize else raw

    async def messages(self) -> AsyncIterator[Any]:
        """Yield the messages of a stream."""
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def write(self, message: Any) -> None:
        """Send one message of a stream; returns when the transport has taken it."""
        raw = self._serialize(message) if self._serialize else message
        is_first, self._has_begun = not self._has_begun, True
        await self._batch(core.message_operations(raw, is_first=is_first))

    async def answer(self, message: Any) -> None:
        """Send the one message of a unary call, and end it."""
        raw = self._serialize(message) if self._serialize else message
        if self._has_begun or self._code is not None:
            await self.write(message)
            return await self.end()
        self._has_begun = self._has_ended = True
        await self._batch(core.reply_operations(raw, self._trailers))

    async def end(self) -> None:
        """End the call as its handler left it."""
        if not self._has_ended:
            await self._send_status(self._code or grpc.StatusCode.OK, self._text, self._trailers)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End the call with a status; raises grpc.aio.AbortError."""
        self._code, self._text = code, details
        if not self._has_ended:
            await self._send_status(code, details, tuple(trailing_metadata) or self._trailers)
        raise grpc.aio.AbortError("the call was ended")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a status; raises grpc.aio.AbortError."""
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send headers."""
        self._has_begun = True
        await self._batch(core.initial_operations(initial_metadata))

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Send these after the answer."""
        self._trailers = tuple(trailing_metadata)

    def invocation_metadata(self) -> Any:
        """Return what came with the call."""
        return self._metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """End the call with this code."""
        self._code = code

    def set_details(self, details: str) -> None:
        """End the call with this text."""
        self._text = details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Do nothing: replies go as they are."""

    def disable_next_message_compression(self) -> None:
        """Do nothing: replies go as they are."""

    def peer(self) -> str:
        """Return the peer's address."""
        return core.peer_of(self._call)

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return the subject alternative names of the peer's certificate; None without one."""
        return core.peer_identities(self._call)

    def peer_identity_key(self) -> str | None:
        """Return what peers are known by."""
        return "x509_subject_alternative_name" if self.peer_identities() else None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return what the transport knows of the peer."""
        key = self.peer_identity_key()
        return {key: self.peer_identities() or ()} if key else {}

    # None where the call brings no deadline, as grpc.aio has it; its stubs do not say so.
    def time_remaining(self) -> float | None:  # type: ignore[override]
        """Return how long the caller waits, seconds; None for as long as it takes."""
        return None if self._deadline is None else max(self._deadline - time.time(), 0.0)

    def trailing_metadata(self) -> Any:
        """Return what is sent after the answer."""
        return self._trailers

    def code(self) -> Any:
        """Return the code that was set, or 0."""
        return self._code or 0

    def details(self) -> Any:
        """Return the text that was set."""
        return self._text

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call a function when the call has ended."""
        self._callbacks.append(callback)

    def cancelled(self) -> bool:
        """Return whether the caller went away."""
        return self._is_cancelled

    def done(self) -> bool:
        """Return whether the call has ended."""
        return self._has_ended

    def finish(self) -> None:
        """Tell those who asked that the call has ended."""
        self._has_ended = True
        for callback in self._callbacks:
            callback(self)

    async def _send_status(self, code: grpc.StatusCode, details: str, trailers: _Metadata) -> None:
        is_first, self._has_begun, self._has_ended = not self._has_begun, True, True
        number: int = code.value[0]
        await self._batch(core.status_operations(number, details, trailers, is_first=is_first))

    async def _batch(self, operations: Sequence[Any]) -> Any:
        """Start operations and return their completion's event; nothing once the caller went away.

        A handler that goes on regardless may outlive the server, and operations on its queue's remains end the process.
        """
        if self._is_cancelled:
            raise asyncio.CancelledError
        completed: asyncio.Future[Any] = self._loop.create_future()

        def tell(event: Any) -> None:
            self._loop.call_soon_threadsafe(_resolve, completed, event)

        self._call.start_server_batch(operations, tell)
        return await completed

    def _cancel(self, task: "asyncio.Task[None]") -> None:
        self._is_cancelled = True
        task.cancel()


async def serve_call(call: AsyncCall, guard: Guard, find: Find) -> None:
    """Serve a call on the event loop, through the guard, from its first message to its status."""
    task = asyncio.current_task()
    assert task is not None
    call.watch_close(task)
    try:
        handler = await guard.intercept_service(find, _Details(call.method, call.invocation_metadata()))
        if handler is None:
            await call.abort(grpc.StatusCode.UNIMPLEMENTED, f"there is no method {call.method}")
        await _handle(call, handler)
        await call.end()
    except (grpc.aio.AbortError, asyncio.CancelledError):
        # Its status is sent, or nobody waits for one.
        return
    except Exception as error:
        _log.exception("call failed unexpectedly", method=call.method, exc_info=error)
        await _abort_quietly(call)
    finally:
        call.finish()


async def _handle(call: AsyncCall, handler: Any) -> None:
    call.handled_by(handler)
    request: Any = call.messages() if handler.request_streaming else await call.read()
    if request is grpc.aio.EOF:
        await call.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request")
    behaviour = handler.stream_stream or handler.unary_stream or handler.stream_unary or handler.unary_unary
    responses = behaviour(request, call)
    if not handler.response_streaming:
        await call.answer(await responses)
    elif hasattr(responses, "__aiter__"):
        async for response in responses:
            await call.write(response)
    else:
        await responses


async def _abort_quietly(call: AsyncCall) -> None:
    try:
        await call.abort(grpc.StatusCode.INTERNAL, "internal error")
    except (grpc.aio.AbortError, asyncio.CancelledError):
        return


def _resolve(completed: "asyncio.Future[Any]", event: Any) -> None:
    if not completed.done():
        completed.set_result(event)
