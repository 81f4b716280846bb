"""What commands print: a table for people, JSON for programs."""

import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    # Half a second to import, which `lepton up` and `lepton status` do without.
    import pandas as pd
    from google.protobuf.message import Message

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def show_table(frame: "pd.DataFrame", as_json: bool, empty: str = "nothing yet") -> None:
    """Print the rows of a frame."""
    if as_json:
        print_json(json.loads(frame.to_json(orient="records", date_format="iso")))
        return
    if frame.empty:
        typer.echo(empty)
        return
    show_rows([str(name) for name in frame.columns], frame.itertuples(index=False))


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
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return str(value)
