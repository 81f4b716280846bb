"""The fields of a serialised protobuf message, found in place: contents are neither copied nor parsed.

Source of the wire format: https://protobuf.dev/programming-guides/encoding
"""

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# Number, wire type, and where the content begins and ends.
Field = tuple[int, int, int, int]


class NotAMessage(ValueError):
    """The bytes are no protobuf message."""


def read_fields(view: memoryview, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message between two positions.

    Raises:
        NotAMessage: the bytes are none.
    """
    while start < end:
        key, start = read_varint(view, start)
        kind = key & 7
        if kind == BYTES:
            size, start = read_varint(view, start)
            stop = start + size
        elif kind == VARINT:
            stop = read_varint(view, start)[1]
        elif kind in (FIXED64, FIXED32):
            stop = start + (8 if kind == FIXED64 else 4)
        else:
            raise NotAMessage("the file is no protobuf message")
        if stop > end:
            raise NotAMessage("the file is cut short")
        yield key >> 3, kind, start, stop
        start = stop


def read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it.

    Raises:
        NotAMessage: it has no end, or more than 64 bits.
    """
    value = shift = 0
    while shift < 64:
        if position >= len(view):
            raise NotAMessage("the file is cut short")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise NotAMessage("the file is no protobuf message")


def encode_varint(value: int) -> bytes:
    """Return a number from 0 as a varint."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
