"""`lepton data`: import, look at, transform, delete datasets."""

import warnings
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from lepton import errors, names, steps
from lepton.arguments import build
from lepton.cli.output import Json, show_done, show_message, show_table
from lepton.connection import current
from lepton.datasets import Dataset, ImportNote
from lepton.deletions import describe_broken
from lepton.reading import ReadOptions
from lepton.v1 import data_pb2

app = typer.Typer(help="Datasets and their immutable versions.")

Ref = Annotated[str, typer.Argument(help="name@number, or the name alone for the newest version.")]


_ImportedFile = Annotated[
    Path,
    typer.Argument(
        help="A .csv, .tsv, .txt, .parquet, .jsonl, .json, .arrow or .feather file; texts also with .gz, .bz2, "
        ".xz, .zst or .zip behind.",
        exists=True,
        dir_okay=False,
    ),
]
_Texts = list[str] | None
_Types = Annotated[_Texts, typer.Option("--type", help="Read a column as a type: zip=string; may be repeated.")]
_Missing = Annotated[
    _Texts, typer.Option(help="A text that is a missing value, in place of the default list; may be repeated.")
]
_MissingIn = Annotated[_Texts, typer.Option(help="The same for one column: income=?; may be repeated.")]
_Names = Annotated[_Texts, typer.Option(help="Name a column of a file without a header, in order; may be repeated.")]
_Dates = Annotated[_Texts, typer.Option(help="Read a column as times: day=%d.%m.%Y; may be repeated; *=... for all.")]


@app.command("import", epilog="Example: lepton data import german_credit.csv --label creditability")
def import_(
    path: _ImportedFile,
    name: Annotated[str | None, typer.Option(help="The dataset's id; by default made from the file's name.")] = None,
    label: Annotated[str, typer.Option(help="The column that models predict by default.")] = "",
    encoding: Annotated[str, typer.Option(help="Of a text file: gb18030, cp1252, utf-16; by default UTF-8.")] = "",
    file_format: Annotated[str, typer.Option("--format", help="csv, tsv, parquet, jsonl, json, arrow.")] = "",
    column_type: _Types = None,
    like: Annotated[str, typer.Option(help="Read columns as this dataset version or model has them.")] = "",
    missing: _Missing = None,
    missing_in: _MissingIn = None,
    nothing_missing: Annotated[bool, typer.Option("--nothing-missing", help="No text is a missing value.")] = False,
    delimiter: Annotated[str, typer.Option(help="Of a CSV file (tab for a tab); by default found.")] = "",
    decimal: Annotated[str, typer.Option(help="The decimal mark of numbers; by default a point.")] = "",
    thousands: Annotated[str, typer.Option(help="The mark between groups of three digits.")] = "",
    quote: Annotated[str, typer.Option(help='Of a CSV file, by default "; none for no quoting.')] = "",
    escape: Annotated[str, typer.Option(help="Takes the meaning from the next character.")] = "",
    no_header: Annotated[bool, typer.Option("--no-header", help="The first line is a row.")] = False,
    column: _Names = None,
    skip: Annotated[int, typer.Option(help="Lines to skip before the header.", min=0)] = 0,
    comment: Annotated[str, typer.Option(help="Lines that begin with it are skipped.")] = "",
    date: _Dates = None,
    zone: Annotated[str, typer.Option(help="Of times without one: Europe/Berlin.")] = "",
    compression: Annotated[str, typer.Option(help="gzip, bz2, xz, zstd, zip or none; by default found.")] = "",
    as_json: Json = False,
) -> None:
    """Upload a file as a new version."""
    given: ReadOptions = {
        "format": file_format,
        "types": _pairs(column_type or []),
        "like": like,
        "missing": _missing_texts(missing or [], missing_in or [], nothing_missing),
        "delimiter": {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter),
        "decimal": decimal,
        "thousands": thousands,
        "quote": quote,
        "escape": escape,
        "header": column or not no_header,
        "skip": skip,
        "comment": comment,
        "dates": _pairs(date or []),
        "zone": zone,
        "compression": compression,
    }
    dataset = _imported(path, name, label, encoding, given)
    if as_json:
        show_message(dataset.message, True, "")
        return
    typer.echo(f"{dataset.ref}: {dataset.message.rows:,} rows x {len(dataset.columns)} columns")


def _missing_texts(everywhere: list[str], by_column: list[str], nothing: bool) -> dict[str, list[str]]:
    found = _several(by_column)
    return {**found, "*": everywhere} if everywhere or nothing else found


def _imported(path: Path, name: str | None, label: str, encoding: str, given: ReadOptions) -> Dataset:
    """Import a file; print the notes of its version."""
    with warnings.catch_warnings():
        # Notes are printed below, and are part of the JSON.
        warnings.simplefilter("ignore", ImportNote)
        dataset = Dataset.import_file(path, name=name, label=label, encoding=encoding, **given)
    for note in dataset.notes:
        typer.echo(f"note: {note}", err=True)
    return dataset


@app.command("list", epilog="Example: lepton data list --json")
def list_(as_json: Json = False) -> None:
    """List datasets."""
    show_table(Dataset.list(), as_json, "no datasets yet: lepton data import FILE")


@app.command(epilog="Example: lepton data show german-credit@1")
def show(ref: Ref, as_json: Json = False) -> None:
    """Show a version: columns, digest, recipe, parent."""
    dataset = Dataset.get(ref)
    show_message(dataset.message, as_json, repr(dataset))


@app.command(epilog="Example: lepton data preview german-credit --rows 5")
def preview(
    ref: Ref,
    rows: Annotated[int, typer.Option(help="Rows to print.", min=1, max=1000)] = 10,
    as_json: Json = False,
) -> None:
    """Print a version's first rows."""
    show_table(Dataset.get(ref).head(rows), as_json)


@app.command(epilog="Example: lepton data profile german-credit")
def profile(ref: Ref, as_json: Json = False) -> None:
    """Print what each column holds."""
    show_table(Dataset.get(ref).profile().reset_index(), as_json)


@app.command(epilog="Example: lepton data transform german-credit --drop-missing --split 0.2 --seed 7")
def transform(
    ref: Ref,
    drop_missing: Annotated[bool, typer.Option("--drop-missing", help="Drop rows with missing values.")] = False,
    drop_duplicates: Annotated[bool, typer.Option("--drop-duplicates", help="Drop repeated rows.")] = False,
    drop_column: Annotated[list[str] | None, typer.Option(help="Drop a column; may be repeated.")] = None,
    fill: Annotated[list[str] | None, typer.Option(help="Fill missing values: column=value; may be repeated.")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="Rename: old=new; may be repeated.")] = None,
    cast: Annotated[list[str] | None, typer.Option(help="Change a type: column=double; may be repeated.")] = None,
    parse_date: Annotated[
        list[str] | None, typer.Option(help="Read a column of texts as times: day=%d.%m.%Y, or day= for ISO dates.")
    ] = None,
    where: Annotated[str, typer.Option(help='Keep rows for which this holds: "age >= 18".')] = "",
    split: Annotated[float, typer.Option(help="Cut off this share as a test set.", min=0, max=1)] = 0.0,
    stratify: Annotated[str, typer.Option(help="Keep this column's shares equal in both parts.")] = "",
    seed: Annotated[int | None, typer.Option(help="Seed of the split; 0 by default.")] = None,
    name: Annotated[str | None, typer.Option(help="The new dataset's id.")] = None,
    test_name: Annotated[str | None, typer.Option(help="The test set's id.")] = None,
    as_json: Json = False,
) -> None:
    """Apply a recipe, in the order of the options above; the result is a new version (two with --split)."""
    unused = {"--stratify": stratify, "--seed": seed, "--test-name": test_name}
    if not split and any(value not in (None, "") for value in unused.values()):
        given = ", ".join(option for option, value in unused.items() if value not in (None, ""))
        raise errors.InvalidArgument(f"{given} says how to split, and there is no --split: add --split 0.2, say")
    recipe = [
        *([steps.drop_missing()] if drop_missing else []),
        *([steps.drop_duplicates()] if drop_duplicates else []),
        *([steps.drop_columns(drop_column)] if drop_column else []),
        *([steps.fill_missing(_pairs(fill))] if fill else []),
        *([steps.rename(_pairs(rename))] if rename else []),
        *([steps.cast(_pairs(cast))] if cast else []),
        *(steps.parse_dates(name, written) for name, written in _pairs(parse_date or []).items()),
        *([steps.filter(where)] if where else []),
        *([steps.split(split, seed=seed or 0, stratify=stratify)] if split else []),
    ]
    if not recipe:
        raise errors.InvalidArgument("no step given: see `lepton data transform --help`")
    versions = Dataset.get(ref).transform(*recipe, name=name, test_name=test_name)
    rows = [(version.ref, version.message.rows, len(version.columns)) for version in versions]
    show_table(pd.DataFrame(rows, columns=["version", "rows", "columns"]), as_json)


@app.command(epilog="Example: lepton data windows bikes --order time --channel n --length 48 --target n --horizon 24")
def windows(
    ref: Ref,
    order: Annotated[str, typer.Option(help="The column of times or numbers that grow with each row of a series.")],
    channel: Annotated[list[str], typer.Option(help="A numeric column that becomes a list; may be repeated.")],
    length: Annotated[int, typer.Option(help="Most steps of a window.", min=1)],
    target: Annotated[str, typer.Option(help="The column to forecast; without --horizon that of the label.")] = "",
    horizon: Annotated[int, typer.Option(help="Steps to forecast.", min=0)] = 0,
    series: Annotated[str, typer.Option(help="The column that tells series apart.")] = "",
    min_length: Annotated[int, typer.Option(help="Least steps, at the start of a series; by default the most.")] = 0,
    stride: Annotated[int, typer.Option(help="Steps from one window to the next.", min=1)] = 1,
    name: Annotated[str | None, typer.Option(help="The new dataset's id.")] = None,
    as_json: Json = False,
) -> None:
    """Make windows of series, a row each: what the family rnn reads."""
    made = Dataset.get(ref).windows(
        order,
        channel,
        length,
        horizon=horizon,
        target=target,
        series=series,
        min_length=min_length,
        stride=stride,
        name=name,
    )
    if as_json:
        show_message(made.message, True, "")
        return
    typer.echo(f"{made.ref}: {made.message.rows:,} windows, to predict: {made.message.label or 'nothing'}")


@app.command(epilog="Example: lepton data delete german-credit@2 --force")
def delete(
    ref: Annotated[str, typer.Argument(help="name@number for one version, or the name alone for all of it.")],
    force: Annotated[
        bool, typer.Option("--force", help="Delete it although something uses it; what breaks is printed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete a version, or a dataset with all its versions; refused while a job uses it."""
    if "@" in ref:
        broken = Dataset.get(ref).delete(force=force)
    else:
        request = build(data_pb2.DeleteDatasetRequest, name=ref, request_id=names.request_id(), force=force)
        broken = describe_broken(current().data.DeleteDataset(request))
    text = f"deleted {ref}" + "".join(f"\n  broken: {item}" for item in broken)
    show_done(text, as_json, deleted=ref, broken=broken)


def _several(texts: list[str]) -> dict[str, list[str]]:
    """Return the values of each name in name=value, several of one name in order."""
    found: dict[str, list[str]] = {}
    for text in texts:
        for name, value in _pairs([text]).items():
            found.setdefault(name, []).append(value)
    return found


def _pairs(texts: list[str]) -> dict[str, str]:
    wrong = next((text for text in texts if not text.partition("=")[0] or "=" not in text), None)
    if wrong is not None:
        raise errors.InvalidArgument(f"expected name=value, got {wrong!r}")
    pairs = dict(text.partition("=")[::2] for text in texts)
    if len(pairs) != len(texts):
        raise errors.InvalidArgument(f"a column is given twice: {', '.join(texts)}")
    return pairs
