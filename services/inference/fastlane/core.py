"""All contact with grpc._cython.cygrpc, gRPC's private module: pinned by constraints.txt, looked after here alone."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import grpc

# By its name, for its stub tells nothing.
cygrpc: Any = import_module("grpc._cython.cygrpc")

# Flags of operations: none.
_PLAIN = 0
# Operations hold what they receive, and so are made anew for each call; this one holds nothing.
_INITIAL = cygrpc.SendInitialMetadataOperation((), _PLAIN)
_OK = 0
# A time that has passed: polling until then takes what is there and does not wait.
AT_ONCE = 0.0
# The core's endless future, in seconds, is beyond this.
_NEVER = 1e15
QUEUE_EMPTY = cygrpc.CompletionType.queue_timeout
QUEUE_ENDED = cygrpc.CompletionType.queue_shutdown


def new_server(options: Sequence[tuple[str, Any]]) -> tuple[Any, Any]:
    """Return a server of the core, and the completion queue of its calls."""
    server = cygrpc.Server(tuple(options), False)
    queue = cygrpc.CompletionQueue()
    server.register_completion_queue(queue)
    return server, queue


def server_credentials(credentials: grpc.ServerCredentials) -> Any:
    """Return the core's form of a server's credentials."""
    inner: Any = credentials
    return inner._credentials


def ignored(event: Any) -> None:
    """Take a completion that tells nothing new."""


def receive_message() -> tuple[Any, ...]:
    """Return what takes the next message: its completion's operation has `message()`, None after the last one."""
    return (cygrpc.ReceiveMessageOperation(_PLAIN),)


def receive_close() -> tuple[Any, ...]:
    """Return what waits for the end of the call: its completion's operation has `cancelled()`."""
    return (cygrpc.ReceiveCloseOnServerOperation(_PLAIN),)


def reply_operations(reply: bytes, trailers: Sequence[tuple[str, str | bytes]]) -> tuple[Any, ...]:
    """Return what sends a whole answer."""
    return (
        _INITIAL,
        cygrpc.SendMessageOperation(reply, _PLAIN),
        cygrpc.SendStatusFromServerOperation(trailers, _OK, b"", _PLAIN),
    )


def message_operations(message: bytes, *, is_first: bool) -> tuple[Any, ...]:
    """Return what sends one message of a stream."""
    send = cygrpc.SendMessageOperation(message, _PLAIN)
    return (_INITIAL, send) if is_first else (send,)


def initial_operations(metadata: Sequence[tuple[str, str | bytes]]) -> tuple[Any, ...]:
    """Return what sends the headers by themselves."""
    return (cygrpc.SendInitialMetadataOperation(tuple(metadata), _PLAIN),)


def status_operations(
    code: int, details: str, trailers: Sequence[tuple[str, str | bytes]], *, is_first: bool
) -> tuple[Any, ...]:
    """Return what ends a call with a status."""
    status = cygrpc.SendStatusFromServerOperation(tuple(trailers), code, details.encode(), _PLAIN)
    return (_INITIAL, status) if is_first else (status,)


def remaining_seconds(event: Any, now: float) -> float | None:
    """Return how long a call's caller waits from now (seconds since the epoch); None where it brings no deadline."""
    deadline: float = event.call_details.deadline
    return None if deadline > _NEVER else deadline - now


def peer_identities(call: Any) -> tuple[bytes, ...] | None:
    """Return the subject alternative names of the peer's certificate; None without one."""
    found = cygrpc.peer_identities(call)
    return None if found is None else tuple(found)


def peer_of(call: Any) -> str:
    """Return the address of a call's peer, its port included: one connection's."""
    found = call.peer()
    return found.decode() if isinstance(found, bytes) else str(found)
