"""Progress bars on stderr, in terminals and notebooks; silent elsewhere or with LEPTON_PROGRESS=0."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

# Called with how much more is done, in the bar's unit.
Advance = Callable[[float], None]
# Called with the share done (0 to 1) and what is going on.
Update = Callable[[float, str], None]


def is_wanted() -> bool:
    """Return whether somebody is there to see a bar."""
    setting = os.environ.get("LEPTON_PROGRESS", "")
    return setting != "0" and (setting == "1" or sys.stderr.isatty() or "ipykernel" in sys.modules)


@contextmanager
def bar(title: str, total: float, unit: str = "") -> Iterator[Advance]:
    """Show how much of a known total is done; yields a function to call with each further amount."""
    with _display(DownloadColumn() if unit == "bytes" else TaskProgressColumn()) as display:
        task = display.add_task(title, total=total or None)
        yield lambda amount: display.advance(task, amount)


@contextmanager
def share(title: str) -> Iterator[Update]:
    """Show a share from 0 to 1 with a changing message; yields a function to call with both."""
    with _display(TaskProgressColumn()) as display:
        task = display.add_task(title, total=1.0)
        yield lambda done, message: display.update(
            task, completed=done, description=f"{title}: {message}" if message else title
        )


def _display(amount: ProgressColumn) -> Progress:
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not is_wanted())
