"""Which rows train and which judge, drawn by each row's place alone: the same in every pass, in no memory."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from services.training.domain.families.frame import Array

# What a row is for; those that a draw takes have the draw's number.
TRAIN = 0
_WORD = np.float64(2**64)
# A class of fewer rows is not drawn from: all of them might go, and nothing would be left to learn it from.
RARE_ROWS = 20


class Purpose(IntEnum):
    """What is drawn for: draws of one seed for different ends know nothing of each other."""

    HELD_OUT = 0
    TRIAL = 1
    ASIDE = 2
    FOLDS = 3
    FITTING = 4


@dataclass(frozen=True)
class Draw:
    """A seeded draw of a share of the rows.

    Args:
        purpose: what for.
        seed: another one draws other rows.
        share: of all rows, 0 to 1; a larger share of the same seed takes these rows, too.
    """

    purpose: Purpose
    seed: int
    share: float

    def takes(self, places: Array) -> Array:
        """Return (rows,) whether it takes the rows at some places."""
        return np.asarray(drawn_points(places, self.seed, self.purpose) < self.share)


@dataclass(frozen=True)
class Division:
    """Draws in order: the first that takes a row has it, and what none takes is left to train on.

    Args:
        draws: the first is number 1.
        common: (classes,) which classes have rows enough to be drawn from; None where there are none.
    """

    draws: tuple[Draw, ...]
    common: Array | None = None

    def roles(self, places: Array, truth: Array) -> Array:
        """Return (rows,) which draw takes each row, TRAIN for none.

        Args:
            places: (rows,) in the source.
            truth: (rows,) class indexes, or values.
        """
        roles = np.zeros(len(places), dtype=np.int64)
        for number, draw in reversed(list(enumerate(self.draws, start=1))):
            roles[draw.takes(places)] = number
        return roles if self.common is None else np.where(self.common[truth], roles, TRAIN)


def drawn_points(places: Array, seed: int, purpose: Purpose) -> Array:
    """Return (rows,) doubles from 0 to 1, as good as random, one a place.

    Source: Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014 (SplitMix64's finaliser).
    """
    with np.errstate(over="ignore"):
        key = _mixed(np.full(1, (seed * len(Purpose) + purpose) % 2**64, dtype=np.uint64))
        words = _mixed(places.astype(np.uint64) + key)
    return np.asarray(words / _WORD)


def _mixed(words: Array) -> Array:
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))
