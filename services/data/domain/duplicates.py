"""Finds repeated rows by 128-bit hashes, in bounded memory: what does not fit is looked at in several passes."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from services.data.domain.columns import Words, hashes, mixed

# 16 bytes each, and as much again while they are merged.
_HELD = 8_000_000

Mask = npt.NDArray[np.bool_]


def first_rows(read: Callable[[], Iterator[pa.RecordBatch]], held: int = _HELD) -> list[Mask]:
    """Return for each batch which rows are the first of their kind.

    Args:
        read: reads the columns to compare from the start; called once a pass.
        held: different rows to hold at a time.
    """
    passes = 1
    while (found := _first_rows(read, passes, held)) is None:
        passes *= 2
    return found


def _first_rows(read: Callable[[], Iterator[pa.RecordBatch]], passes: int, held: int) -> list[Mask] | None:
    """Look at the rows whose hashes belong to each pass; None where one holds too many different ones."""
    masks: list[Mask] = []
    for number in range(passes):
        seen = _Seen()
        for index, batch in enumerate(read()):
            first, second = row_hashes(batch, 0), row_hashes(batch, 1)
            mine = np.flatnonzero(second % np.uint64(passes) == np.uint64(number))
            if index == len(masks):
                masks.append(np.zeros(batch.num_rows, np.bool_))
            masks[index][mine[seen.add(first[mine], second[mine])]] = True
            if len(seen) > held:
                return None
    return masks


def row_hashes(batch: pa.RecordBatch, lane: int) -> Words:
    """Return a 64-bit hash of each row: see `hashes`."""
    found = np.zeros(batch.num_rows, np.uint64)
    for index, column in enumerate(batch.columns):
        found = mixed(found ^ hashes(column, lane), index)
    return found


class _Seen:
    """A set of pairs of words, as sorted runs that double in size."""

    def __init__(self) -> None:
        self._runs: list[tuple[Words, Words]] = []

    def __len__(self) -> int:
        return sum(len(first) for first, _ in self._runs)

    def add(self, first: Words, second: Words) -> npt.NDArray[np.int64]:
        """Add pairs; return the places of those that were not there, each the first of its equals."""
        order = np.lexsort((second, first))
        first, second = first[order], second[order]
        is_new = np.ones(len(first), np.bool_)
        is_new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        for run in self._runs:
            is_new &= ~_within(run, first, second)
        self._push(first[is_new], second[is_new])
        return np.asarray(order[is_new], np.int64)

    def _push(self, first: Words, second: Words) -> None:
        while self._runs and len(self._runs[-1][0]) <= 2 * len(first):
            run = self._runs.pop()
            first, second = np.concatenate([run[0], first]), np.concatenate([run[1], second])
            order = np.lexsort((second, first))
            first, second = first[order], second[order]
        self._runs.append((first, second))


def _within(run: tuple[Words, Words], first: Words, second: Words) -> Mask:
    """Return which pairs a sorted run holds."""
    places = np.searchsorted(run[0], first)
    found = np.zeros(len(first), np.bool_)
    inside = np.flatnonzero(places < len(run[0]))
    inside = inside[run[0][places[inside]] == first[inside]]
    found[inside] = run[1][places[inside]] == second[inside]
    for index in inside[~found[inside]]:
        # Two rows that share one word of two: one in 2**64 does.
        stop = np.searchsorted(run[0], first[index], "right")
        found[index] = bool(np.any(run[1][places[index] : stop] == second[index]))
    return found
