"""What no server can beat: requests in one queue before runs that take what the bare session takes."""

import random
from collections.abc import Mapping

from benchmarks.harness import percentile

_REQUESTS = 50_000


def ideal_p99(rates: Mapping[int, float], arrivals: float, *, at_random: bool) -> float:
    """Return the 99th percentile of the time from arrival to answer, ms, by simulation.

    The server does nothing beside its runs, is never idle while somebody waits, and puts together what waits, up to
    the size that gives the least 99th percentile.

    Args:
        rates: rows a second of ONNX Runtime alone, by batch size.
        arrivals: requests a second.
        at_random: a Poisson process; else evenly spaced.
    """
    draw = random.Random(0)
    due = [0.0]
    for _ in range(_REQUESTS - 1):
        due.append(due[-1] + (draw.expovariate(arrivals) if at_random else 1.0 / arrivals))
    return 1000 * min(percentile(sorted(_latencies(rates, due, most)), 99) for most in rates)


def _latencies(rates: Mapping[int, float], due: list[float], most: int) -> list[float]:
    sizes = sorted(rates)
    found: list[float] = []
    now, place = 0.0, 0
    while place < len(due):
        now = max(now, due[place])
        end = place
        while end < len(due) and end - place < most and due[end] <= now:
            end += 1
        rows = end - place
        # Sizes that were not measured take as long a row as the next smaller one that was.
        now += rows / rates[max(size for size in sizes if size <= rows)]
        found += [now - moment for moment in due[place:end]]
        place = end
    return found
