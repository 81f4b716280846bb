"""Bytes of requests and replies: read within a limit, also after they are unpacked, and packed as the client likes."""

import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from servicekit.errors import Cancelled, InvalidArgument, ResourceExhausted

Receive = Callable[[], Awaitable[Any]]
# zlib's windows: gzip's header, zlib's own.
_WINDOWS = {"gzip": 31, "deflate": 15}
_PIECE_BYTES = 1 << 20
# Packing less than this costs more than it saves.
_LEAST_BYTES = 1024


async def read_body(receive: Receive, encoding: str, most_bytes: int) -> bytes:
    """Return a request's body, unpacked.

    Args:
        receive: ASGI's.
        encoding: of the header Content-Encoding; empty for none.
        most_bytes: that it may take, before and after unpacking.

    Raises:
        ResourceExhausted: TOO_LARGE.
        InvalidArgument: it is not packed as it says.
        Cancelled: the caller went away.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("the caller went away")
        part = message.get("body", b"")
        size += len(part)
        if size > most_bytes:
            raise _too_large(most_bytes)
        parts.append(part)
        if not message.get("more_body"):
            break
    body = b"".join(parts)
    return _unpacked(body, encoding, most_bytes) if encoding not in ("", "identity") else body


def packed(body: bytes, accepted: str) -> tuple[bytes, str]:
    """Return a reply's body as its caller accepts it, and the encoding's name; empty for none.

    Args:
        body: it.
        accepted: of the header Accept-Encoding.
    """
    encoding = next((name for name in map(_accepted, accepted.lower().split(",")) if name in _WINDOWS), "")
    if not encoding or len(body) < _LEAST_BYTES:
        return body, ""
    packer = zlib.compressobj(1, wbits=_WINDOWS[encoding])
    return packer.compress(body) + packer.flush(), encoding


def _accepted(part: str) -> str:
    """Return an encoding of an Accept-Encoding header; empty for one that is told off by q=0."""
    name, _, weight = part.partition(";")
    is_off = weight.strip().replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return "" if is_off else name.strip()


def _unpacked(body: bytes, encoding: str, most_bytes: int) -> bytes:
    if encoding not in _WINDOWS:
        raise InvalidArgument(
            f"Content-Encoding: expected gzip or deflate, got {encoding[:32]!r}", reason="BAD_ENCODING"
        )
    unpacker = zlib.decompressobj(_WINDOWS[encoding])
    parts: list[bytes] = []
    size = 0
    try:
        while body:
            parts.append(unpacker.decompress(body, _PIECE_BYTES))
            body = unpacker.unconsumed_tail
            size += len(parts[-1])
            # Piece by piece, for a few bytes may unpack to any number.
            if size > most_bytes:
                raise _too_large(most_bytes)
        parts.append(unpacker.flush())
    except zlib.error as error:
        raise InvalidArgument(f"the body is not {encoding}", reason="BAD_ENCODING") from error
    if unpacker.unused_data:
        raise InvalidArgument(f"{len(unpacker.unused_data)} bytes follow the {encoding} body", reason="BAD_ENCODING")
    if not unpacker.eof:
        raise InvalidArgument(f"the body ends within its {encoding}", reason="BAD_ENCODING")
    return b"".join(parts)


def _too_large(most_bytes: int) -> ResourceExhausted:
    return ResourceExhausted(f"the body is larger than the limit of {most_bytes} bytes", reason="TOO_LARGE")
