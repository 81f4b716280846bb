"""Live curves of a job in a terminal: a line a metric, how far it is, and when it will have ended."""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lepton.jobs import Update

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 48
# Before, what is left would be guessed from almost nothing.
_LEAST_SHARE = 0.02


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """Return values, oldest first, as a line of bars from their least to their greatest; the mean where many share one.

    Args:
        values: finite numbers.
        width: most bars.
    """
    if not values:
        return ""
    count = min(width, len(values))
    edges = [len(values) * place // count for place in range(count + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges) if end > start]
    least, span = min(means), max(means) - min(means)
    # A curve that does not move lies in the middle.
    places = [round((mean - least) / span * (len(_BARS) - 1)) if span else len(_BARS) // 2 for mean in means]
    return "".join(_BARS[place] for place in places)


def seconds_left(share: float, elapsed_seconds: float) -> float | None:
    """Return how long the rest takes at the pace so far, seconds; None while there is too little to tell.

    Args:
        share: done, 0 to 1.
        elapsed_seconds: since it began.
    """
    return elapsed_seconds * (1 - share) / share if share >= _LEAST_SHARE else None


def follow(title: str, updates: Iterable[Update], console: Console, now: Callable[[], float] = time.monotonic) -> None:
    """Show a job's updates as curves, until they end.

    Args:
        title: of the job.
        updates: of it, in order.
        console: a terminal.
        now: seconds, of a clock that never goes back.
    """
    curves: dict[str, list[float]] = {}
    began: float | None = None
    with Live(console=console, refresh_per_second=4) as live:
        for update in updates:
            if update.state == "RUNNING" and began is None:
                began = now()
            for name, value in update.metrics.items():
                curves.setdefault(name, []).append(value)
            elapsed = 0.0 if began is None else now() - began
            live.update(_picture(title, update, curves, elapsed))


def _picture(title: str, update: Update, curves: Mapping[str, Sequence[float]], elapsed: float) -> RenderableType:
    left = seconds_left(update.progress, elapsed) if update.state == "RUNNING" else None
    rest = "" if left is None else f", about {_duration(left)} left"
    took = f"  {update.peak_memory_bytes >> 20:,} MiB" if update.peak_memory_bytes else ""
    head = Text(f"{title}  {update.state}  {update.progress:.0%} in {_duration(elapsed)}{rest}{took}  {update.message}")
    table = Table(box=None, show_header=False)
    for name, values in sorted(curves.items()):
        table.add_row(name, sparkline(values), f"{values[-1]:.4g}", f"least {min(values):.4g}, most {max(values):.4g}")
    return Group(head, ProgressBar(total=1.0, completed=update.progress, width=_WIDTH), table)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
