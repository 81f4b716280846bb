"""Seeded draws of exactly so many rows, decided row by row in no memory: the same wherever the rows are cut.

A row is drawn if a pseudo-random permutation of the places takes its place below the number of rows wanted. The
permutation is a Feistel network over the places (Luby and Rackoff, 1988) that walks until it is back among them.
"""

import numpy as np
import numpy.typing as npt

from services.data.domain.columns import Words, mixed

_ROUNDS = 8
_ONE = np.uint64(1)


def drawn(places: Words, sizes: Words, wanted: Words, seed: int, groups: Words | None = None) -> npt.NDArray[np.bool_]:
    """Return which rows are drawn.

    Args:
        places: each row's place in its group, from 0.
        sizes: the size of its group.
        wanted: how many rows of its group are drawn.
        seed: another seed draws others.
        groups: its group; each draws for itself.
    """
    keys = mixed(groups if groups is not None else np.zeros_like(places), seed % 2**64)
    return np.asarray(_permuted(places, sizes, keys) < wanted, np.bool_)


def shares(counts: npt.NDArray[np.int64], fraction: float) -> npt.NDArray[np.int64]:
    """Return a fraction of each count, whole numbers whose sum is the fraction of the sum (largest remainders)."""
    exact = counts * fraction
    found = np.floor(exact).astype(np.int64)
    left = int(np.floor(counts.sum() * fraction + 0.5)) - int(found.sum())
    # Stable: of equal remainders the first group's counts.
    first = np.argsort(found - exact, kind="stable")[: max(left, 0)]
    found[first] += 1
    return np.asarray(np.minimum(found, counts), np.int64)


def _permuted(places: Words, sizes: Words, keys: Words) -> Words:
    """Return each place's place in a permutation of 0..size-1 that the key chooses."""
    bits = np.frexp((sizes - _ONE).astype(np.float64))[1]
    half = np.maximum((bits + 1) // 2, 1).astype(np.uint64)
    found = _feistel(places, half, keys)
    # The network permutes a power of four, at most four times the size: a few steps lead back below it.
    while (outside := np.flatnonzero(found >= sizes)).size:
        found[outside] = _feistel(found[outside], half[outside], keys[outside])
    return found


def _feistel(words: Words, half: Words, keys: Words) -> Words:
    mask = (_ONE << half) - _ONE
    left, right = words >> half, words & mask
    for number in range(_ROUNDS):
        left, right = right, left ^ (mixed(right ^ keys, number) & mask)
    return np.asarray((left << half) | right, np.uint64)
