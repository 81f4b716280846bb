"""Seeded draws of rows, as the platform's split draws them: the same rows, fraction and seed give the same parts.

The platform draws while rows stream by (`services/data/domain/draws.py`). The SDK imports no service, so the
definition is here twice; a property test holds both to the same rows. A row is drawn if a pseudo-random permutation
of the places in its group takes its place below the number of rows wanted. The permutation is a Feistel network over
the places (Luby and Rackoff, 1988) that is repeated until it is back among them; words are mixed by splitmix64's
finalizer (Steele, Lea and Flood, 2014).
"""

import numpy as np
import numpy.typing as npt

_Words = npt.NDArray[np.uint64]
_SPREAD = 0x9E3779B97F4A7C15
_ROUNDS = 8
_ONE = np.uint64(1)


def second_part(groups: npt.NDArray[np.int64], fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return which rows are in the second part of a split.

    Args:
        groups: (rows,) each row's group, numbered from 0 in order of first appearance; zeros for one group.
        fraction: the share of rows in the second part.
        seed: another seed draws other rows.
    """
    sizes = np.bincount(groups, minlength=1)
    wanted = _shares(sizes, fraction)
    keys = _mixed(groups.astype(np.uint64), seed % 2**64)
    places = _permuted(_places(groups).astype(np.uint64), sizes[groups].astype(np.uint64), keys)
    return np.asarray(places < wanted[groups].astype(np.uint64), np.bool_)


def _shares(counts: npt.NDArray[np.int64], fraction: float) -> npt.NDArray[np.int64]:
    """Return a fraction of each count, whole numbers whose sum is the fraction of the sum (largest remainders)."""
    exact = counts * fraction
    found = np.floor(exact).astype(np.int64)
    left = int(np.floor(counts.sum() * fraction + 0.5)) - int(found.sum())
    first = np.argsort(found - exact, kind="stable")[: max(left, 0)]
    found[first] += 1
    return np.asarray(np.minimum(found, counts), np.int64)


def _places(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return each row's place among the rows of its group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(groups) else np.zeros(0, np.int64)
    found = np.empty(len(groups), np.int64)
    found[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    return found


def _permuted(places: _Words, sizes: _Words, keys: _Words) -> _Words:
    """Return each place's place in a permutation of 0..size-1 that the key chooses."""
    bits = np.frexp((sizes - _ONE).astype(np.float64))[1]
    half = np.maximum((bits + 1) // 2, 1).astype(np.uint64)
    found = _feistel(places, half, keys)
    while (outside := np.flatnonzero(found >= sizes)).size:
        found[outside] = _feistel(found[outside], half[outside], keys[outside])
    return found


def _feistel(words: _Words, half: _Words, keys: _Words) -> _Words:
    mask = (_ONE << half) - _ONE
    left, right = words >> half, words & mask
    for number in range(_ROUNDS):
        left, right = right, left ^ (_mixed(right ^ keys, number) & mask)
    return np.asarray((left << half) | right, np.uint64)


def _mixed(words: _Words, seed: int) -> _Words:
    with np.errstate(over="ignore"):
        stirred = words + np.uint64((seed * _SPREAD + _SPREAD) % 2**64)
        stirred = (stirred ^ (stirred >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        stirred = (stirred ^ (stirred >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(stirred ^ (stirred >> np.uint64(31)), np.uint64)
