"""Types, missing texts and date formats that are given for files whose format has types of its own."""

from collections.abc import Callable, Mapping

import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.data.domain.casts import type_mismatch
from services.data.domain.columns import SERIES
from services.data.domain.import_options import ALL_COLUMNS, ImportOptions
from services.data.domain.original_texts import canonical
from services.data.domain.parsing.columns import ColumnRule, given_parser, without
from services.data.domain.readers.source import Batches, ReadFile, check_known
from services.data.domain.typed_reading import read_as

Change = Callable[[pa.Array], pa.Array]


def with_options(schema: pa.Schema, read: Callable[[], Batches], options: ImportOptions) -> ReadFile:
    """Return a file's rows with columns as the types that are given.

    Args:
        schema: of the file.
        read: reads its rows from the start.
        options: of the import.

    Raises:
        InvalidArgument: a column is not there, or values do not fit: COLUMN_TYPE_MISMATCH, naming every column.
    """
    check_known(options, schema.names)
    rules = {name: _rule(name, options) for name in schema.names}
    changes, notes, types = _changes(schema, rules, options)
    if not changes:
        return ReadFile(schema, read(), notes)
    _check(read(), schema, changes, {name for name, rule in rules.items() if rule.given or rule.is_date_given})
    after = pa.schema([pa.field(field.name, types.get(field.name, field.type)) for field in schema])

    def rows() -> Batches:
        for batch in read():
            columns = [
                changes[name](column) if name in changes else column
                for name, column in zip(schema.names, batch.columns, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=after)

    missing = {name: rule.missing for name, rule in rules.items() if rule.missing is not None}
    return ReadFile(after, rows(), notes, missing)


def _rule(name: str, options: ImportOptions) -> ColumnRule:
    given, like = options.arrow_types.get(name), options.like_types.get(name)
    written = options.date_formats.get(name, "")
    return ColumnRule(
        given=given if given is not None else like,
        is_strict=given is None and like is not None,
        known=options.known_types.get(name),
        missing=options.missing_of(name),
        date_format=written or options.date_formats.get(ALL_COLUMNS, ""),
        is_date_given=bool(written),
        zone=options.zone,
    )


def _changes(
    schema: pa.Schema, rules: Mapping[str, ColumnRule], options: ImportOptions
) -> tuple[dict[str, Change], list[str], dict[str, pa.DataType]]:
    """Return what is done to columns, notes, and the columns' types after it."""
    changes: dict[str, Change] = {}
    types: dict[str, pa.DataType] = {}
    notes = []
    for field in schema:
        rule = rules[field.name]
        goal = rule.given
        if goal is None and rule.is_date_given:
            goal = pa.timestamp("us", "UTC" if rule.zone or "%z" in rule.date_format else None)
        if rule.known is not None and rule.given is None and rule.known != field.type:
            origin = options.known[field.name].origin
            notes.append(f"column {field.name!r} is {field.type} here and {rule.known} in {origin}")
        is_text = pa.types.is_string(field.type)
        if goal is not None and goal != field.type:
            types[field.name] = goal
            changes[field.name] = _change(rule, goal, is_text)
        elif is_text and rule.missing is not None:
            tokens = pa.array(rule.missing, pa.string())
            changes[field.name] = lambda column, tokens=tokens: without(column, tokens)  # type: ignore[misc]
    return changes, notes, types


def _change(rule: ColumnRule, goal: pa.DataType, is_text: bool) -> Change:
    def change(column: pa.Array) -> pa.Array:
        if is_text:
            texts = without(column, pa.array(rule.missing or (), pa.string()))
            parsed = given_parser(rule)(texts)
            return parsed if parsed.type == goal else parsed.cast(goal)
        if pa.types.is_string(goal) and column.type != SERIES:
            return canonical(column)
        return read_as(column, goal)

    return change


def _check(batches: Batches, schema: pa.Schema, changes: Mapping[str, Change], given: set[str]) -> None:
    problems: dict[str, str] = {}
    row = 0
    for batch in batches:
        for name, change in changes.items():
            if name in given and name not in problems:
                place = _first_misfit(batch.column(name), change)
                if place is not None:
                    problems[name] = f"the {schema.field(name).type} in data row {row + place + 1:,} does not fit"
        row += batch.num_rows
    if problems:
        raise type_mismatch({name: problems[name] for name in schema.names if name in problems})


def _first_misfit(column: pa.Array, change: Change) -> int | None:
    if _fits(column, change):
        return None
    first, end = 0, len(column)
    while end - first > 1:
        middle = (first + end) // 2
        if _fits(column.slice(first, middle - first), change):
            first = middle
        else:
            end = middle
    return first


def _fits(column: pa.Array, change: Change) -> bool:
    try:
        change(column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, InvalidArgument):
        return False
    return True
