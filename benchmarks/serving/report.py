"""The table and the line of JSON."""

import json
import os
import platform as machine
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

# Past it, decimals say nothing.
_WHOLE_FROM = 100


@dataclass(frozen=True)
class Figure:
    """One line of the report.

    Args:
        row: which row of the options.
        server: who served.
        what: what the value is.
        value: the median of the runs; None where there is none, and the note says why.
        unit: of the value.
        p50, p99: latencies, ms.
        target: what the value is held to.
        at_most: whether the target is a ceiling.
        source: "measured", or "quoted" from measurements elsewhere.
        note: failures and conditions.
    """

    row: str
    server: str
    what: str
    value: float | None
    unit: str = "req/s"
    p50: float | None = None
    p99: float | None = None
    target: float | None = None
    at_most: bool = False
    source: str = "measured"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The value against its target."""
        return None if self.value is None or not self.target else self.value / self.target


def show_figures(title: str, figures: Sequence[Figure]) -> None:
    """Print figures as a table and as JSON."""
    table = Table(title=title, box=None, header_style="bold")
    for name in ("row", "server", "what", "value", "unit", "p50 ms", "p99 ms", "target", "ratio", "note"):
        table.add_column(name, overflow="fold", no_wrap=name in ("row", "value", "unit", "target", "ratio"))
    for figure in figures:
        table.add_row(*_cells(figure))
    Console(width=170).print(table)
    facts = {"machine": machine.machine(), "cores": os.cpu_count(), "python": machine.python_version()}
    print(json.dumps({"title": title, "figures": [asdict(figure) for figure in figures], **facts}))


def _cells(figure: Figure) -> tuple[str, ...]:
    target = "" if figure.target is None else f"{'≤' if figure.at_most else '≥'} {_number(figure.target)}"
    note = ", ".join(part for part in (figure.source if figure.source != "measured" else "", figure.note) if part)
    value = "-" if figure.value is None else _number(figure.value)
    return (
        figure.row,
        figure.server,
        figure.what,
        value,
        figure.unit,
        _number(figure.p50),
        _number(figure.p99),
        target,
        _number(figure.ratio),
        note,
    )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= _WHOLE_FROM else f"{value:.3g}"
