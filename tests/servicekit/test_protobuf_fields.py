"""The fields of a serialised message, found in place."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton.v1 import common_pb2
from servicekit.protobuf_fields import BYTES, NotAMessage, encode_varint, read_fields, read_varint


@given(st.integers(0, 2**64 - 1))
def test_numbers_come_back(number: int) -> None:
    encoded = encode_varint(number)
    assert read_varint(memoryview(encoded), 0) == (number, len(encoded))


def test_fields_have_their_numbers_and_contents() -> None:
    content = memoryview(common_pb2.Resources(cores=2.5, memory_bytes=1 << 40).SerializeToString())
    numbers = {field.number for field, _ in common_pb2.Resources(cores=2.5, memory_bytes=1 << 40).ListFields()}
    assert {number for number, *_ in read_fields(content, 0, len(content))} == numbers
    spec = memoryview(common_pb2.TensorSpec(name="income").SerializeToString())
    assert [(kind, bytes(spec[start:stop])) for _, kind, start, stop in read_fields(spec, 0, len(spec))] == [
        (BYTES, b"income")
    ]


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_refused(content: bytes) -> None:
    view = memoryview(content)
    with contextlib.suppress(NotAMessage):
        assert all(start <= stop <= len(view) for *_, start, stop in read_fields(view, 0, len(view)))


@pytest.mark.parametrize("content", [b"\x0a\x05ab", b"\x80", b"\x08" + b"\xff" * 10, b"\x0b"])
def test_broken_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(NotAMessage):
        list(read_fields(memoryview(content), 0, len(content)))
