"""What benchmarks share: a platform of their own, and how they print."""

import contextlib
import json
import os
import platform as machine
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lepton.connection import Connection
from lepton.embedded.home import Home

CREDIT = Path(__file__).parents[1] / "examples" / "credit" / "german_credit.csv"
BASE_PORT = 30_000


@contextlib.contextmanager
def running_platform(base_port: int = BASE_PORT) -> Iterator[Connection]:
    """Run a platform for the benchmark alone, on ports from a base."""
    with tempfile.TemporaryDirectory(prefix="lepton-benchmark-") as folder, environment(folder):
        # One worker: a core is what is measured.
        lepton("up", "--detach", "--base-port", str(base_port), "--inference-workers", "1")
        try:
            home = Home.find()
            yield Connection("127.0.0.1", home.token.read_text(), home.ca.read_bytes(), base_port)
        finally:
            lepton("down")


@contextlib.contextmanager
def environment(home: str) -> Iterator[None]:
    """Point LEPTON_HOME at a folder, without progress bars; leaving points it where it pointed before."""
    before = dict(os.environ)
    os.environ.update(LEPTON_HOME=home, LEPTON_PROGRESS="0")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def lepton(*arguments: str) -> str:
    """Run the command; return what it printed."""
    command = [sys.executable, "-m", "lepton.cli", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"lepton {' '.join(arguments)} failed: {done.stderr}")
    return done.stdout


def show(title: str, rows: Sequence[tuple[str, float, str, float]]) -> None:
    """Print figures as a table and as JSON.

    Args:
        title: what was measured.
        rows: (what, median, unit, target).
    """
    table = Table(title=title, box=None, header_style="bold")
    for name in ("what", "median", "unit", "target", "ratio to target"):
        table.add_column(name)
    for what, value, unit, target in rows:
        table.add_row(what, f"{value:,.4g}", unit, f"{target:,g}", f"{value / target:.2f}")
    Console(width=120).print(table)
    facts = {"machine": machine.machine(), "cores": os.cpu_count(), "python": machine.python_version()}
    figures = [dict(zip(("what", "median", "unit", "target"), row, strict=True)) for row in rows]
    print(json.dumps({"title": title, "figures": figures, **facts}))


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return statistics.median(values)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of sorted values, by the nearest rank; 0 of none."""
    return float(ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]) if ordered else 0.0
