"""What commands print: a table for people, JSON for programs."""

import base64
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lepton import errors

if TYPE_CHECKING:
    # Half a second to import, which `lepton up` and `lepton status` do without.
    import pandas as pd
    from google.protobuf.message import Message

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def show_table(frame: "pd.DataFrame", as_json: bool, empty: str = "nothing yet") -> None:
    """Print the rows of a frame."""
    if as_json:
        print_json(records(frame))
        return
    if frame.empty:
        typer.echo(empty)
        return
    show_rows([str(name) for name in frame.columns], frame.itertuples(index=False))


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return a frame's rows as JSON has them, numbers with all their digits; missing values and infinities are null."""
    names = [str(name) for name in frame.columns]
    columns = [list(frame.iloc[:, place]) for place in range(len(names))]
    return [
        {name: _json_value(value) for name, value in zip(names, row, strict=True)} for row in zip(*columns, strict=True)
    ]


def _json_value(value: Any) -> Any:
    import numpy as np
    import pandas as pd

    if isinstance(value, np.ndarray | list | tuple | set):
        return [_json_value(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    # Decimals and durations keep their exact text.
    return str(value)


def show_rows(header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Print rows under a header."""
    table = Table(box=None, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_text(value) for value in row))
    Console().print(table)


def show_message(message: "Message", as_json: bool, title: str) -> None:
    """Print a resource's fields."""
    from google.protobuf.json_format import MessageToDict

    fields = MessageToDict(message, preserving_proto_field_name=True)
    if as_json:
        print_json(fields)
        return
    typer.echo(title)
    for name, value in fields.items():
        typer.echo(
            f"  {name}: {value if not isinstance(value, dict | list) else json.dumps(value, ensure_ascii=False)}"
        )


def show_done(text: str, as_json: bool, **fields: object) -> None:
    """Say that something was done, with the facts that a program wants."""
    if as_json:
        print_json(fields)
    else:
        typer.echo(text)


def print_json(value: Any) -> None:
    """Print one JSON value, indented."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    # Missing values of pandas' other kinds; a text "None" is a text.
    if value is None or (not isinstance(value, str) and str(value) in ("<NA>", "NaT")):
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


@contextmanager
def shown_warnings() -> Iterator[None]:
    """Write the SDK's warnings to stderr, a line each, instead of as Python shows them."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", errors.DataWarning)
        yield
    for warning in found:
        typer.echo(f"warning: {warning.message}", err=True)
