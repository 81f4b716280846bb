"""What tables may hold, and a column's values as plain bytes and numbers."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Words = npt.NDArray[np.uint64]

# Steps of a series: what a column of lists of numbers is stored as. The element's name is part of Arrow's for the type.
SERIES = pa.list_(pa.field("item", pa.float64()))

# Two streams of fixed odd numbers, one a position: a text's hash is the sum of its bytes' words times these.
_SPREAD = 0x9E3779B97F4A7C15
_LANE_SEEDS = (0x243F6A8885A308D3, 0x13198A2E03707344)
_PIECE_BYTES = 1 << 20


def is_supported(kind: pa.DataType) -> bool:
    """Return whether tables may hold columns of a type."""
    return bool(
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or (pa.types.is_floating(kind) and kind.bit_width > 16)
        or pa.types.is_string(kind)
        or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind))
        or kind == SERIES
    )


def is_number_list(kind: pa.DataType) -> bool:
    """Return whether values of a type are lists of numbers, which become series."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list:
        return False
    item = kind.value_type
    return bool(pa.types.is_integer(item) or pa.types.is_floating(item) or pa.types.is_decimal(item))


def series(column: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the lengths of a series column's lists, and their steps one after another; a missing step is NaN.

    A missing list has the length 0.
    """
    lengths = np.asarray(pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    steps = column.flatten().fill_null(np.nan).to_numpy(zero_copy_only=False)
    return lengths, np.asarray(steps, np.float64)


def numbers(column: pa.Array) -> npt.NDArray[Any]:
    """Return a column's values as numbers of the same width, zero where one is missing; not of texts nor series."""
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif pa.types.is_temporal(kind):
        column = column.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    values: npt.NDArray[Any] = column.fill_null(0).to_numpy(zero_copy_only=False)
    return values


def texts(column: pa.Array) -> tuple[npt.NDArray[np.int64], memoryview]:
    """Return the lengths of a text column's values, bytes, and the values one after another; a missing one is empty."""
    filled = column.fill_null("")
    _, places, content = filled.buffers()
    offsets = np.frombuffer(places, np.int32)[filled.offset : filled.offset + len(filled) + 1]
    if content is None:
        return np.zeros(len(filled), np.int64), memoryview(b"")
    return np.diff(offsets).astype(np.int64), memoryview(content)[int(offsets[0]) : int(offsets[-1])]


def hashes(column: pa.Array, lane: int = 0) -> Words:
    """Return a 64-bit hash of each value; a missing value has one of its own.

    Args:
        column: of a type that tables hold.
        lane: 0 or 1: two independent hashes, which together are 128 bits.
    """
    if pa.types.is_string(column.type):
        values = _text_words(column, lane)
    else:
        values = _series_words(column, lane) if column.type == SERIES else _number_words(column)
    missing = np.uint64(0x5851F42D4C957F2D)
    valid = np.asarray(pc.is_valid(column).to_numpy(zero_copy_only=False), bool)
    return mixed(np.where(valid, values, missing), _LANE_SEEDS[lane])


def mixed(words: Words, seed: int) -> Words:
    """Return words stirred with a seed, one to one (splitmix64's finalizer; Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        stirred = words + np.uint64((seed * _SPREAD + _SPREAD) % 2**64)
        stirred = (stirred ^ (stirred >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        stirred = (stirred ^ (stirred >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(stirred ^ (stirred >> np.uint64(31)), np.uint64)


def _number_words(column: pa.Array) -> Words:
    values = numbers(column)
    if values.dtype.kind == "f":
        # Zero has two signs and is one value.
        values = (values + values.dtype.type(0)).astype(np.float64).view(np.uint64)
    return values.astype(np.uint64, copy=False)


def _text_words(column: pa.Array, lane: int) -> Words:
    lengths, content = texts(column)
    words = mixed(lengths.astype(np.uint64), _LANE_SEEDS[lane] ^ 0xFF)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    data = np.frombuffer(content, np.uint8)
    # In pieces of whole values, for each byte becomes 16 while it is hashed.
    first = 0
    while first < len(lengths):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + _PIECE_BYTES, "right")))
        part = slice(first, last)
        words[part] += _sums(data[int(starts[first]) : int(ends[last - 1])], lengths[part], lane)
        first = last
    return words


def _series_words(column: pa.Array, lane: int) -> Words:
    lengths, steps = series(column)
    words = mixed(lengths.astype(np.uint64), _LANE_SEEDS[lane] ^ 0xFF)
    filled = np.flatnonzero(lengths)
    if not len(filled):
        return words
    starts = (np.cumsum(lengths) - lengths)[filled]
    places = (np.arange(len(steps)) - np.repeat(starts, lengths[filled])).astype(np.uint64)
    # Zero has two signs and is one value.
    spread = mixed((steps + 0.0).view(np.uint64), _LANE_SEEDS[lane] ^ 0xAA)
    with np.errstate(over="ignore"):
        words[filled] += np.add.reduceat(spread * (mixed(places, _LANE_SEEDS[lane] ^ 0x55) | np.uint64(1)), starts)
    return words


def _sums(data: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64], lane: int) -> Words:
    """Return the sum of each text's bytes, spread by the byte and by its place (multilinear hashing)."""
    sums = np.zeros(len(lengths), np.uint64)
    filled = np.flatnonzero(lengths)
    if not len(filled):
        return sums
    starts = (np.cumsum(lengths) - lengths)[filled]
    places = (np.arange(len(data)) - np.repeat(starts, lengths[filled])).astype(np.uint64)
    with np.errstate(over="ignore"):
        products = _BYTE_WORDS[lane][data] * (mixed(places, _LANE_SEEDS[lane] ^ 0x55) | np.uint64(1))
        sums[filled] = np.add.reduceat(products, starts)
    return sums


_BYTE_WORDS = tuple(mixed(np.arange(256, dtype=np.uint64), seed ^ 0xAA) for seed in _LANE_SEEDS)
