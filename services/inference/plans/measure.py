"""How long runs take: in turn, round by round, medians."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import TypeVar

Key = TypeVar("Key")

_LEAST_ROUNDS = 3
_MOST_ROUNDS = 25
# A sample shorter than this would measure the clock.
_SAMPLE_SECONDS = 0.002


def processor_clock() -> float:
    """Return the processor time of this thread, seconds: what others take of a shared core is not counted."""
    return time.thread_time()


def in_turn(
    runs: Mapping[Key, Callable[[], object]], deadline: float, clock: Callable[[], float] = processor_clock
) -> dict[Key, float]:
    """Return the median seconds of each run.

    Each round measures every run once, in an order that turns: what disturbs the machine disturbs all alike.

    Args:
        runs: what to measure.
        deadline: on time.monotonic; after it no further round begins, once there were a few.
        clock: what to measure by.
    """
    repeats = {key: _warm_up(run, clock) for key, run in runs.items()}
    samples: dict[Key, list[float]] = {key: [] for key in runs}
    keys = list(runs)
    for turn in range(_MOST_ROUNDS):
        if turn >= _LEAST_ROUNDS and time.monotonic() > deadline:
            break
        shift = turn % max(1, len(keys))
        for key in keys[shift:] + keys[:shift]:
            started = clock()
            for _ in range(repeats[key]):
                runs[key]()
            samples[key].append((clock() - started) / repeats[key])
    return {key: max(median(found), 1e-9) for key, found in samples.items()}


def _warm_up(run: Callable[[], object], clock: Callable[[], float]) -> int:
    """Run once to allocate, once to see how often a sample must repeat; return that."""
    run()
    started = clock()
    run()
    return max(1, round(_SAMPLE_SECONDS / max(clock() - started, 1e-7)))
