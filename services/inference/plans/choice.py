"""The choice: the fastest plan whose quality stays within the loss; of those that are as fast, the simpler."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.inference.plans.candidates import Candidate, simplicity

# A gain below this is noise, or not worth another graph.
LEAST_GAIN = 1.05
# More threads must do this share of what as many runs of one thread each would.
_LEAST_THREAD_SHARE = 0.9


@dataclass(frozen=True)
class Timing:
    """How long runs of a plan take.

    Args:
        candidate: the plan.
        seconds: of a run, median, by rows.
    """

    candidate: Candidate
    seconds: Mapping[int, float]


def speedup(timing: Timing, plain: Timing) -> float:
    """Return how many times as fast a plan is: the geometric mean over the batch sizes that both were measured at."""
    shared = sorted(set(timing.seconds) & set(plain.seconds))
    if not shared:
        return 0.0
    return math.exp(sum(math.log(plain.seconds[rows] / timing.seconds[rows]) for rows in shared) / len(shared))


def in_order(timings: Sequence[Timing], plain: Timing) -> list[Timing]:
    """Return the plans worth judging, the one to take first if its quality allows: by speed, near ties by simplicity.

    The next is the simplest of those left that the fastest of them does not beat by the least gain.
    """
    left = {timing.candidate: speedup(timing, plain) for timing in timings}
    found = {timing.candidate: timing for timing in timings}
    ordered: list[Timing] = []
    while left:
        fastest = max(left.values())
        near = [candidate for candidate, gain in left.items() if gain * LEAST_GAIN >= fastest]
        chosen = min(near, key=simplicity)
        if left.pop(chosen) >= LEAST_GAIN:
            ordered.append(found[chosen])
    return ordered


def best_threads(seconds: Mapping[int, float]) -> int:
    """Return the most threads that lose next to nothing of what the cores can do together.

    Two runs of one thread each do more than one run of two; but a lone request ends sooner by two.

    Args:
        seconds: of the same run, by threads; the least of them is the worker's setting.
    """
    least = min(seconds)
    per_core = {threads: 1.0 / (threads * taken) for threads, taken in seconds.items()}
    return max(threads for threads, share in per_core.items() if share >= _LEAST_THREAD_SHARE * per_core[least])
