"""A gRPC server on the core's completion queue: a grpc.aio.Server to whoever adds services to it."""

import asyncio
import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import grpc
import structlog

from servicekit.rpc import Guard
from services.inference.fastlane import core
from services.inference.fastlane.calls import AsyncCall, serve_call

_log = structlog.get_logger(__name__)

# What was cancelled ends in less, or tells nobody any more.
_SETTLE_SECONDS = 1.0
_LOOK_SECONDS = 0.005


class FastMethod(Protocol):
    """A method that is served on the driving thread."""

    @property
    def is_waiting(self) -> bool:
        """Whether `flush` has something to do."""

    @property
    def is_settled(self) -> bool:
        """Whether no other thread may be about to answer."""

    def begin(self, event: Any) -> None:
        """Take a call: `event` has call, invocation_metadata and call_details. Must not raise, nor block."""

    def flush(self) -> None:
        """Run what came: the queue is empty for now."""


class FastServer(grpc.aio.Server):
    """Serves some methods on its own thread and all others on the event loop.

    Args:
        guard: guards those on the event loop.
        options: gRPC channel options.
        fast: the methods of the driving thread, by path.
    """

    def __init__(self, guard: Guard, options: Sequence[tuple[str, Any]], fast: Mapping[str, FastMethod]) -> None:
        self._guard = guard
        self._server, self._queue = core.new_server(options)
        self._fast = {path.encode(): method for path, method in fast.items()}
        self._methods = tuple(fast.values())
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_stopping = False
        self._has_ended = asyncio.Event()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve the methods of some handlers."""
        self._handlers.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Do nothing: the generated code adds the same handlers once more as generic ones."""

    def add_insecure_port(self, address: str) -> int:
        """Listen without TLS; return the port."""
        return self._bound(address, self._server.add_http2_port(address.encode()))

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Listen with TLS; return the port."""
        credentials = core.server_credentials(server_credentials)
        return self._bound(address, self._server.add_http2_port(address.encode(), credentials))

    async def start(self) -> None:
        """Begin to answer."""
        self._loop = asyncio.get_running_loop()
        self._server.start()
        self._request_call()
        self._thread = threading.Thread(target=self._drive, name="fast lane", daemon=True)
        self._thread.start()

    async def stop(self, grace: float | None) -> None:
        """Take no more calls, let those under way end within the grace, seconds, and cancel the rest."""
        if self._thread is None or self._is_stopping:
            return
        self._is_stopping = True
        self._server.shutdown(self._queue, self._on_shutdown)
        try:
            async with asyncio.timeout(grace or 0.0):
                await self._has_ended.wait()
        except TimeoutError:
            self._server.cancel_all_calls()
            await self._has_ended.wait()
        await self._settle()
        self._queue.shutdown()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    async def _settle(self) -> None:
        """Wait for who may still answer: one operation after the queue's end, and the core ends the process."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=_SETTLE_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                while not all(method.is_settled for method in self._methods):  # noqa: ASYNC110  (once, at the end)
                    await asyncio.sleep(_LOOK_SECONDS)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until the server has stopped; return False where it did not in time."""
        try:
            async with asyncio.timeout(timeout):
                await self._has_ended.wait()
        except TimeoutError:
            return False
        return True

    def _bound(self, address: str, port: int) -> int:
        if not port:
            raise RuntimeError(f"cannot listen on {address}")
        return port

    def _request_call(self) -> None:
        self._server.request_call(self._queue, self._queue, self._on_call)

    def _drive(self) -> None:
        """Take events until the queue is shut down."""
        poll, methods = self._queue.poll, self._methods
        while True:
            # Nothing waits longer than until the queue is empty; and only then is it worth running.
            waiting = [method for method in methods if method.is_waiting]
            event = poll(core.AT_ONCE) if waiting else poll()
            if event.completion_type == core.QUEUE_EMPTY:
                self._flush(waiting)
            elif event.completion_type == core.QUEUE_ENDED:
                return
            else:
                try:
                    event.tag(event)
                except Exception as error:
                    _log.exception("event not served", exc_info=error)
            # An event keeps its call alive: let go of it before the next wait.
            event = None

    def _flush(self, methods: Iterable[FastMethod]) -> None:
        for method in methods:
            try:
                method.flush()
            except Exception as error:
                # This thread is everybody's.
                _log.exception("requests not run", exc_info=error)

    def _on_call(self, event: Any) -> None:
        if not event.success or event.call is None:
            return
        if not self._is_stopping:
            self._request_call()
        method = self._fast.get(event.call_details.method)
        if method is not None:
            method.begin(event)
        else:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._begin, event)

    def _on_shutdown(self, event: Any) -> None:
        self._flush(self._methods)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._has_ended.set)

    def _begin(self, event: Any) -> None:
        call = AsyncCall(event, asyncio.get_running_loop())
        task = asyncio.create_task(serve_call(call, self._guard, self._find), name=call.method)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _find(self, details: grpc.HandlerCallDetails) -> Any:
        for handler in self._handlers:
            if (found := handler.service(details)) is not None:
                return found
        return None
