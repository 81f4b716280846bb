"""Applies a recipe to a table with DuckDB, out of core: one SQL query over streamed batches, the rows' order kept."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.data.domain.expressions import quoted, to_sql
from services.data.domain.types import Recipe, Step

_ROW = "__lepton_row"
_RANK = "__lepton_rank"
_BATCH_ROWS = 65_536

# Arrow's names for types, as recipes use them, with DuckDB's.
CASTS = {
    "bool": "BOOLEAN",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "date32[day]": "DATE",
    "timestamp[us]": "TIMESTAMP",
}

OpenTable = Callable[[], pa.RecordBatchReader]


@dataclass(frozen=True)
class _Query:
    """A query under way: its SQL and the columns that it gives."""

    sql: str
    columns: tuple[tuple[str, str], ...]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.columns]


class Transform:
    """A recipe, checked against a table's columns.

    Args:
        recipe: the steps.
        schema: of the table.
        memory_limit: DuckDB's, such as 1GB; what is larger spills to encrypted files.

    Raises:
        InvalidArgument: a step does not fit the columns; the message names it by number.
    """

    def __init__(self, recipe: Recipe, schema: pa.Schema, memory_limit: str = "1GB") -> None:
        if not recipe.steps:
            raise InvalidArgument("the recipe has no steps", reason="EMPTY_RECIPE")
        self._memory_limit = memory_limit
        self._split = recipe.steps[-1] if recipe.steps[-1].kind == "split" else None
        query = _Query("SELECT * FROM source", tuple((field.name, str(field.type)) for field in schema))
        for number, step in enumerate(recipe.steps, 1):
            query = _apply(query, step, number, is_last=number == len(recipe.steps))
        self._query = query

    @property
    def parts(self) -> int:
        """How many tables it gives: two where the recipe ends in a split."""
        return 2 if self._split else 1

    def run(self, open_table: OpenTable, part: int = 0) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Return the schema and rows of a part: 0 the only one, or what trains; 1 what tests.

        Raises:
            InvalidArgument: a value does not convert.
        """
        connection = duckdb.connect(
            config={"memory_limit": self._memory_limit, "threads": 2, "temp_file_encryption": True}
        )
        connection.register("source", _numbered(open_table()))
        condition = "" if self._split is None else f" WHERE {_RANK} {'>' if part == 0 else '<='} 0"
        names = ", ".join(quoted(name) for name in self._query.names)
        try:
            result = connection.sql(f"SELECT {names} FROM ({self._query.sql}){condition} ORDER BY {_ROW}")
            reader = result.to_arrow_reader(_BATCH_ROWS)
        except duckdb.Error as error:
            raise _value_problem(error) from error
        schema = pa.schema([pa.field(field.name, _plain(field.type)) for field in reader.schema])
        return schema, _batches(reader, schema, connection)


def _batches(
    reader: pa.RecordBatchReader, schema: pa.Schema, connection: "duckdb.DuckDBPyConnection"
) -> Iterator[pa.RecordBatch]:
    try:
        for batch in reader:
            yield batch.cast(schema)
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise _value_problem(error) from error
    finally:
        connection.close()


def _numbered(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Add the row's place in the table, by which the order is kept and seeded draws are made."""
    schema = reader.schema.append(pa.field(_ROW, pa.int64()))

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in reader:
            places = pa.array(range(start, start + batch.num_rows), pa.int64())
            start += batch.num_rows
            yield pa.RecordBatch.from_arrays([*batch.columns, places], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _apply(query: _Query, step: Step, number: int, *, is_last: bool) -> _Query:
    if step.kind == "split" and not is_last:
        raise InvalidArgument(f"step {number}: a split may stand only last", reason="BAD_RECIPE")
    try:
        return _STEPS[step.kind](query, step.arguments)
    except InvalidArgument as error:
        raise InvalidArgument(f"step {number} ({step.kind}): {error.message}", reason=error.reason) from error


def _drop_missing(query: _Query, arguments: dict[str, object]) -> _Query:
    names = _known(query, arguments["columns"]) or query.names
    condition = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in names)
    return _Query(f"SELECT * FROM ({query.sql}) WHERE {condition}", query.columns)


def _fill_missing(query: _Query, arguments: dict[str, object]) -> _Query:
    values = _mapping(arguments["values"])
    _known(query, list(values))
    changes = [
        f"coalesce({quoted(name)}, CAST({_text(values[name])} AS {_sql_type(kind)})) AS {quoted(name)}"
        for name, kind in query.columns
        if name in values
    ]
    return _Query(f"SELECT * REPLACE ({', '.join(changes)}) FROM ({query.sql})", query.columns)


def _drop_columns(query: _Query, arguments: dict[str, object]) -> _Query:
    dropped = set(_known(query, arguments["columns"]))
    left = tuple((name, kind) for name, kind in query.columns if name not in dropped)
    if not left:
        raise InvalidArgument("no column would be left", reason="BAD_RECIPE")
    names = ", ".join(quoted(name) for name, _ in left)
    return _Query(f"SELECT {names}, {_ROW} FROM ({query.sql})", left)


def _drop_duplicates(query: _Query, arguments: dict[str, object]) -> _Query:
    names = _known(query, arguments["columns"]) or query.names
    keys = ", ".join(quoted(name) for name in names)
    condition = f"row_number() OVER (PARTITION BY {keys} ORDER BY {_ROW}) = 1"
    return _Query(f"SELECT * FROM ({query.sql}) QUALIFY {condition}", query.columns)


def _rename(query: _Query, arguments: dict[str, object]) -> _Query:
    names = _mapping(arguments["names"])
    _known(query, list(names))
    renamed = tuple((names.get(name, name), kind) for name, kind in query.columns)
    after = [name for name, _ in renamed]
    twice = next((name for name in after if after.count(name) > 1 or not name.strip()), None)
    if twice is not None:
        raise InvalidArgument(f"column name {twice!r} would be empty or stand twice", reason="DUPLICATE_COLUMN")
    columns = ", ".join(f"{quoted(old)} AS {quoted(new)}" for old, new in zip(query.names, after, strict=True))
    return _Query(f"SELECT {columns}, {_ROW} FROM ({query.sql})", renamed)


def _cast(query: _Query, arguments: dict[str, object]) -> _Query:
    types = _mapping(arguments["types"])
    _known(query, list(types))
    changes = [f"CAST({quoted(name)} AS {_sql_type(kind)}) AS {quoted(name)}" for name, kind in types.items()]
    columns = tuple((name, types.get(name, kind)) for name, kind in query.columns)
    return _Query(f"SELECT * REPLACE ({', '.join(changes)}) FROM ({query.sql})", columns)


def _filter(query: _Query, arguments: dict[str, object]) -> _Query:
    condition = to_sql(str(arguments["expression"]), query.names)
    return _Query(f"SELECT * FROM ({query.sql}) WHERE {condition}", query.columns)


def _split(query: _Query, arguments: dict[str, object]) -> _Query:
    fraction = float(str(arguments["test_fraction"]))
    if not 0 < fraction < 1:
        raise InvalidArgument(f"test_fraction must lie between 0 and 1, got {fraction:g}", reason="BAD_RECIPE")
    stratify = str(arguments["stratify"])
    groups = f"PARTITION BY {quoted(_known(query, [stratify])[0])} " if stratify else ""
    # Rows are drawn by a hash that no version of DuckDB will change; the rank makes the share exact.
    rank = f"row_number() OVER ({groups}ORDER BY {_draw(arguments['seed'])})"
    size = f"round(count(*) OVER ({groups}) * {fraction!r})"
    return _Query(f"SELECT *, {rank} - {size} AS {_RANK} FROM ({query.sql})", query.columns)


def _sample(query: _Query, arguments: dict[str, object]) -> _Query:
    rows, fraction = int(str(arguments["rows"])), float(str(arguments["fraction"]))
    if rows <= 0 and not 0 < fraction <= 1:
        raise InvalidArgument("a sample needs rows, or a fraction between 0 and 1", reason="BAD_RECIPE")
    size = str(rows) if rows > 0 else f"round(count(*) OVER () * {fraction!r})"
    condition = f"row_number() OVER (ORDER BY {_draw(arguments['seed'])}) <= {size}"
    return _Query(f"SELECT * FROM ({query.sql}) QUALIFY {condition}", query.columns)


_STEPS: dict[str, Callable[[_Query, dict[str, object]], _Query]] = {
    "drop_missing": _drop_missing,
    "fill_missing": _fill_missing,
    "drop_columns": _drop_columns,
    "drop_duplicates": _drop_duplicates,
    "rename": _rename,
    "cast": _cast,
    "filter": _filter,
    "split": _split,
    "sample": _sample,
}


def _draw(seed: object) -> str:
    return f"md5({_ROW} || ':' || {int(str(seed))}), {_ROW}"


def _known(query: _Query, names: object) -> list[str]:
    wanted = [str(name) for name in names] if isinstance(names, list | tuple) else []
    unknown = [name for name in wanted if name not in query.names]
    if unknown:
        raise InvalidArgument(
            f"there is no column {unknown[0]!r}: the table has {', '.join(query.names[:50])}", reason="UNKNOWN_COLUMN"
        )
    return wanted


def _mapping(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        raise InvalidArgument("it names no column", reason="BAD_RECIPE")
    return value


def _sql_type(kind: str) -> str:
    if kind not in CASTS:
        raise InvalidArgument(f"unknown type {kind!r}: expected one of {', '.join(CASTS)}", reason="UNKNOWN_TYPE")
    return CASTS[kind]


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _value_problem(error: Exception) -> InvalidArgument:
    # DuckDB's first line names the value and the type; its hints are about SQL.
    return InvalidArgument(str(error).split("\n", 1)[0].split(" when casting", 1)[0], reason="VALUE_DOES_NOT_CONVERT")
