"""What each step of a recipe does to the batches that stream by.

A step is checked against the schema before it; it then says the schema after it, and gives for each pass over the rows
a function from batch to batch. Steps that must know all rows first (drop_duplicates, sample, split) look at them in a
pass of their own, so that nothing but numbers is held in memory and nothing ever spills to a disk.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument
from services.data.domain.casts import BadValue, cast, check_cast, parse_type
from services.data.domain.columns import SERIES
from services.data.domain.counts import Counts
from services.data.domain.draws import drawn, shares
from services.data.domain.duplicates import Mask, first_rows
from services.data.domain.expressions import compile_filter
from services.data.domain.original_texts import companion, is_companion, listed, listed_schema, texts_of
from services.data.domain.parse_dates import ParseDates
from services.data.domain.parsing.times import check_format, check_zone
from services.data.domain.readers.source import check_names
from services.data.domain.windows import WindowPlan, Windows

Arguments: TypeAlias = Mapping[str, object]
Change: TypeAlias = Callable[[pa.RecordBatch], pa.RecordBatch]
Rows: TypeAlias = Callable[[], Iterator[pa.RecordBatch]]

# A column with more different values tells no groups apart.
_GROUPS = 100_000


class RowStep:
    """A step that treats each row by itself.

    Args:
        schema: of the rows after it.
        change: what it does.
    """

    # Batches come as they are.
    piece_rows: int | None = None

    def __init__(self, schema: pa.Schema, change: Change) -> None:
        self.schema = schema
        self._change = change

    def prepare(self, rows: Rows) -> None:
        """Look at all rows before it: here there is nothing to learn."""

    def start(self, part: int) -> Change:
        """Return what it does to the batches of a pass."""
        return self._change


class DropDuplicates:
    """Keeps the first of equal rows; what is missing equals what is missing."""

    # Batches come as they are.
    piece_rows: int | None = None

    def __init__(self, schema: pa.Schema, names: list[str]) -> None:
        self.schema = schema
        self._names = names or listed(schema.names)
        self._masks: list[Mask] = []

    def prepare(self, rows: Rows) -> None:
        """Find the first rows."""
        self._masks = first_rows(lambda: (batch.select(self._names) for batch in rows()))

    def start(self, part: int) -> Change:
        """Return what it does to the batches of a pass, which come as they came before."""
        masks = iter(self._masks)
        return lambda batch: batch.filter(pa.array(next(masks)))


class Draw:
    """Draws rows by a seed: a sample, or the second part of a split.

    Args:
        schema: of the rows.
        quotas: how many to draw of each group, given the groups' sizes.
        seed: another draws others.
        stratify: the column whose values are the groups; empty for one group.
        is_split: whether what is not drawn is the first part, not lost.
    """

    # Batches come as they are.
    piece_rows: int | None = None

    def __init__(
        self,
        schema: pa.Schema,
        quotas: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]],
        seed: int,
        stratify: str = "",
        *,
        is_split: bool = False,
    ) -> None:
        self.schema = schema
        self._quotas = quotas
        self._seed = seed
        self._stratify = stratify
        self._is_split = is_split
        self._groups: pa.Array = pa.array([], pa.null())
        self._sizes = self._wanted = np.zeros(0, np.int64)

    def prepare(self, rows: Rows) -> None:
        """Count the rows of each group."""
        if self._stratify:
            self._groups, self._sizes = _group_sizes(rows(), self._stratify)
        else:
            self._sizes = np.array([sum(batch.num_rows for batch in rows())])
        self._wanted = self._quotas(self._sizes)
        drawn_rows, all_rows = int(self._wanted.sum()), int(self._sizes.sum())
        if self._is_split and drawn_rows in (0, all_rows):
            raise InvalidArgument(
                f"of {all_rows:,} rows the second part would hold {drawn_rows:,}, and one part none",
                reason="EMPTY_PART",
            )

    def start(self, part: int) -> Change:
        """Return what it does to the batches of a pass."""
        passed = np.zeros(len(self._sizes), np.int64)
        wants_drawn = part == 1 or not self._is_split

        def change(batch: pa.RecordBatch) -> pa.RecordBatch:
            groups = self._groups_of(batch)
            places = passed[groups] + _places(groups)
            np.add.at(passed, groups, 1)
            chosen = drawn(
                places.astype(np.uint64),
                self._sizes[groups].astype(np.uint64),
                self._wanted[groups].astype(np.uint64),
                self._seed,
                groups.astype(np.uint64),
            )
            return batch.filter(pa.array(chosen == wants_drawn))

        return change

    def _groups_of(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        if not self._stratify:
            return np.zeros(batch.num_rows, np.int64)
        found = pc.index_in(batch.column(self._stratify), value_set=self._groups)
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


AnyStep: TypeAlias = RowStep | DropDuplicates | Draw | Windows | ParseDates


def make_step(kind: str, schema: pa.Schema, arguments: Arguments) -> AnyStep:
    """Return a step on rows of a schema.

    Raises:
        InvalidArgument: it does not fit the schema.
    """
    return _MAKERS[kind](schema, arguments)


def _drop_missing(schema: pa.Schema, arguments: Arguments) -> AnyStep:
    indices = [schema.get_field_index(name) for name in _known(schema, arguments["columns"]) or listed(schema.names)]

    def change(batch: pa.RecordBatch) -> pa.RecordBatch:
        for index in indices:
            if batch.column(index).null_count:
                batch = batch.filter(pc.is_valid(batch.column(index)))
        return batch

    return RowStep(schema, change)


def _fill_missing(schema: pa.Schema, arguments: Arguments) -> AnyStep:
    values = _mapping(arguments["values"])
    _known(schema, list(values))
    fills = {schema.get_field_index(name): _fill(name, text, schema.field(name).type) for name, text in values.items()}
    changes = {index: _filling(value) for index, value in fills.items()}
    filled = _by_column(schema, schema, changes)
    # A value that is filled in has no text of the file's.
    texts = {schema.get_field_index(companion(name)): schema.get_field_index(name) for name in values}
    texts = {place: of for place, of in texts.items() if place >= 0}

    def change(batch: pa.RecordBatch) -> pa.RecordBatch:
        for place, of in texts.items():
            kept = pc.if_else(pc.is_valid(batch.column(of)), batch.column(place), pa.scalar(None, pa.string()))
            batch = batch.set_column(place, schema.field(place), kept)
        return filled.start(0)(batch)

    return RowStep(schema, change)


def _filling(value: pa.Scalar) -> Callable[[pa.Array], pa.Array]:
    return lambda column: column.fill_null(value)


def _fill(name: str, text: str, kind: pa.DataType) -> pa.Scalar:
    """Return a filling's text as a value of the column."""
    texts = pa.array([text])
    if pa.types.is_integer(kind) and _is_double(text):
        # 3.0 is what Python makes of a whole double.
        texts = cast(name, texts, pa.float64())
    if pa.types.is_boolean(kind):
        texts = pc.utf8_lower(texts)
    check_cast(name, pa.string(), kind)
    try:
        value = cast(name, texts, kind)[0]
    except BadValue as error:
        raise InvalidArgument(
            f"the filling of column {name!r} {error.problem}", reason=error.reason, metadata={"column": name}
        ) from error
    if not value.is_valid:
        raise InvalidArgument(f"the filling of column {name!r} fills nothing", reason="VALUE_DOES_NOT_CONVERT")
    return value


def _is_double(text: str) -> bool:
    return "." in text or "e" in text.lower()


def _drop_columns(schema: pa.Schema, arguments: Arguments) -> AnyStep:
    dropped = set(_known(schema, arguments["columns"]))
    dropped |= {companion(name) for name in dropped}
    left = [name for name in schema.names if name not in dropped]
    if not listed(left):
        raise InvalidArgument("no column would be left", reason="BAD_RECIPE")
    return RowStep(pa.schema([schema.field(name) for name in left]), lambda batch: batch.select(left))


def _drop_duplicates(schema: pa.Schema, arguments: Arguments) -> AnyStep:
    return DropDuplicates(schema, _known(schema, arguments["columns"]))


def _rename(schema: pa.Schema, arguments: Arguments) -> AnyStep:
    names = _mapping(arguments["names"])
    _known(schema, list(names))
    check_names([names.get(name, name) for name in listed(schema.names)])
    names |= {companion(old): companion(new) for old, new in names.items()}
    after = [names.get(name, name) for name in schema.names]
    renamed = pa.schema([pa.field(name, field.type) for name, field in zip(after, schema, strict=True)])
    return RowStep(renamed, lambda batch: pa.RecordBatch.from_arrays(batch.columns, schema=renamed))


def _cast(schema: pa.Schema, arguments: Arguments) -> AnyStep:
    types = {name: parse_type(kind) for name, kind in _mapping(arguments["types"]).items()}
    _known(schema, list(types))
    for name, kind in types.items():
        check_cast(name, schema.field(name).type, kind)
    gone = {companion(name) for name, kind in types.items() if kind != schema.field(name).type}
    kept = [field for field in schema if field.name not in gone]
    after = pa.schema([pa.field(field.name, types.get(field.name, field.type)) for field in kept])

    def change(batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = [_as_type(batch, name, types.get(name)) for name in after.names]
        return pa.RecordBatch.from_arrays(columns, schema=after)

    return RowStep(after, change)


def _as_type(batch: pa.RecordBatch, name: str, kind: pa.DataType | None) -> pa.Array:
    column = batch.column(name)
    if kind is None or kind == column.type:
        return column
    # A string is the text of the imported file.
    return texts_of(batch, name) if pa.types.is_string(kind) else cast(name, column, kind)


def _parse_dates(schema: pa.Schema, arguments: Arguments) -> AnyStep:
    name, written, zone = (str(arguments[key]) for key in ("column", "format", "zone"))
    _known(schema, [name])
    check_zone(zone)
    if written:
        check_format(written)
    if pa.types.is_temporal(schema.field(name).type):
        raise InvalidArgument(f"column {name!r} holds times already", reason="BAD_RECIPE")
    return ParseDates(schema, name, written, zone)


def _filter(schema: pa.Schema, arguments: Arguments) -> AnyStep:
    condition = compile_filter(str(arguments["expression"]), schema)
    return RowStep(schema, lambda batch: batch.filter(condition(batch)))


def _split(schema: pa.Schema, arguments: Arguments) -> AnyStep:
    fraction = float(str(arguments["test_fraction"]))
    if not 0 < fraction < 1:
        raise InvalidArgument(f"test_fraction must lie between 0 and 1, got {fraction:g}", reason="BAD_RECIPE")
    stratify = str(arguments["stratify"])
    if stratify in _known(schema, [stratify] if stratify else []) and schema.field(stratify).type == SERIES:
        raise InvalidArgument(f"column {stratify!r} holds series: they tell no groups apart", reason="BAD_RECIPE")
    return Draw(schema, lambda sizes: shares(sizes, fraction), int(str(arguments["seed"])), stratify, is_split=True)


def _sample(schema: pa.Schema, arguments: Arguments) -> AnyStep:
    rows, fraction = int(str(arguments["rows"])), float(str(arguments["fraction"]))
    if rows <= 0 and not 0 < fraction <= 1:
        raise InvalidArgument("a sample needs rows, or a fraction between 0 and 1", reason="BAD_RECIPE")
    return Draw(
        schema,
        lambda sizes: np.minimum(sizes, rows) if rows > 0 else shares(sizes, fraction),
        int(str(arguments["seed"])),
    )


def _windows(schema: pa.Schema, arguments: Arguments) -> AnyStep:
    series, order, target = (str(arguments[name]) for name in ("series", "order", "target"))
    _known(schema, [order, *filter(None, (series, target))])
    channels = tuple(_known(schema, arguments["channels"]))
    length, least, horizon, stride = (
        int(str(arguments[name])) for name in ("length", "min_length", "horizon", "stride")
    )
    if not channels or length < 1:
        raise InvalidArgument("windows need channels, and a length of one step at least", reason="BAD_RECIPE")
    plan = WindowPlan(series, order, channels, length, least or length, horizon, stride or 1, target)
    return Windows(listed_schema(schema), plan)


def _score(schema: pa.Schema, arguments: Arguments) -> AnyStep:
    raise InvalidArgument(
        "a transform cannot ask a model: score the dataset with a deployment instead (ScoreDataset)",
        reason="BAD_RECIPE",
    )


_MAKERS: Mapping[str, Callable[[pa.Schema, Arguments], AnyStep]] = {
    "drop_missing": _drop_missing,
    "fill_missing": _fill_missing,
    "drop_columns": _drop_columns,
    "drop_duplicates": _drop_duplicates,
    "rename": _rename,
    "cast": _cast,
    "parse_dates": _parse_dates,
    "filter": _filter,
    "split": _split,
    "sample": _sample,
    "windows": _windows,
    "score": _score,
}


def _by_column(before: pa.Schema, after: pa.Schema, changes: Mapping[int, Callable[[pa.Array], pa.Array]]) -> RowStep:
    def change(batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = list(batch.columns)
        for index, of_column in changes.items():
            columns[index] = of_column(columns[index])
        return pa.RecordBatch.from_arrays(columns, schema=after)

    return RowStep(after, change)


def _group_sizes(batches: Iterator[pa.RecordBatch], name: str) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Return the different values of a column, missing among them, in order of appearance, with their rows."""
    counts = Counts()
    for batch in batches:
        counts.add(batch.column(name))
        if len(counts) > _GROUPS:
            raise InvalidArgument(
                f"column {name!r} has more than {_GROUPS:,} different values, too many to stratify by",
                reason="TOO_MANY_GROUPS",
            )
    return counts.values, counts.counts


def _places(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return each row's place among the rows of its group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(groups) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(groups)])
    found = np.empty(len(groups), np.int64)
    found[order] = np.arange(len(groups)) - np.repeat(starts, lengths)
    return found


def _known(schema: pa.Schema, names: object) -> list[str]:
    wanted = [str(name) for name in names] if isinstance(names, list | tuple) else []
    unknown = [name for name in wanted if schema.get_field_index(name) < 0 or is_companion(name)]
    if unknown:
        raise InvalidArgument(
            f"there is no column {', '.join(map(repr, unknown[:20]))}: the table has "
            f"{', '.join(listed(schema.names)[:50])}",
            reason="UNKNOWN_COLUMN",
        )
    return list(dict.fromkeys(wanted))


def _mapping(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        raise InvalidArgument("it names no column", reason="BAD_RECIPE")
    return value
