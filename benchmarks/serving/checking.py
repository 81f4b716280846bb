"""A client that compares replies with the right answer, before a run and all through it."""

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import grpc

from benchmarks.serving.endpoint import Endpoint
from benchmarks.serving.question import METHOD

# Ten a second: a share of the server's time that does not show.
_PAUSE_SECONDS = 0.1
_TIMEOUT_SECONDS = 10.0
_FRAME_BYTES = 5


class Checking:
    """Asks an endpoint and compares; closed by leaving.

    Args:
        endpoint: who is asked; learns how large a right reply is.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._stack = contextlib.ExitStack()
        self.asked = 0
        self.problems: list[str] = []
        # Which of the right answers came: a swap shows in them.
        self.seen: set[int] = set()

    def __enter__(self) -> Self:
        self._call = self._grpc() if self._endpoint.is_grpc else self._json
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self) -> str:
        """Ask once; return what was wrong, empty where nothing was."""
        self.asked += 1
        try:
            reply = self._call(self._endpoint.body)
            outputs = self._endpoint.read(reply)
        except (grpc.RpcError, OSError, http.client.HTTPException, ValueError, KeyError) as error:
            problem = _text(error)
        else:
            self._endpoint.reply_bytes = _FRAME_BYTES + len(reply)
            right = {
                place
                for place, answer in enumerate(self._endpoint.answers)
                if self._endpoint.question.is_right(outputs, answer)
            }
            self.seen |= right
            problem = "" if right else f"got {str(dict(outputs))[:200]}"
        if problem:
            self.problems.append(problem)
        return problem

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Ask again and again in a thread while the block runs."""
        stopping = threading.Event()

        def ask() -> None:
            while not stopping.wait(_PAUSE_SECONDS):
                self.ask()

        thread = threading.Thread(target=ask, name="checking")
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    def _grpc(self) -> Callable[[bytes], bytes]:
        credentials = self._endpoint.credentials()
        address = self._endpoint.address
        channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
        self._stack.callback(channel.close)
        infer: Any = channel.unary_unary(METHOD)
        return lambda body: infer(body, metadata=self._endpoint.metadata, timeout=_TIMEOUT_SECONDS)

    def _json(self, body: bytes) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._endpoint.port, timeout=_TIMEOUT_SECONDS)
        with contextlib.closing(connection):
            connection.request("POST", self._endpoint.path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            reply = response.read()
        if response.status != 200:
            raise http.client.HTTPException(f"HTTP {response.status}: {reply[:200]!r}")
        return reply


def _text(error: Exception) -> str:
    if isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"
