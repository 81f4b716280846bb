"""DataFrames to Arrow and back, without a silent change of a value; what cannot travel is refused by its column."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lepton import errors
from lepton.column_values import EXACT_INTEGERS, plain_value

_INT64, _UINT64 = (-(2**63), 2**63 - 1), (0, 2**64 - 1)
_NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}
# What pandas calls the objects of a column that Arrow takes as they are.
_PLAIN_OBJECTS = {"string", "floating", "boolean", "decimal", "date", "datetime", "datetime64", "timedelta"} | {
    *("timedelta64", "time", "bytes", "empty")
}
_REMEDIES = {
    "c": "split it into its real and imaginary parts",
    "period": "convert it with .dt.to_timestamp(), or to text with .astype(str)",
    "interval": "convert it to text with .astype(str)",
}


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a table as a DataFrame; whole numbers and truth values with missing ones keep their values.

    They are of pandas' Int64 and boolean kinds, where floats would round numbers beyond 2**53.
    """
    places = range(table.num_columns)
    kept = [place for place in places if table.field(place).type in _NULLABLE and table.column(place).null_count]
    if not kept:
        plain: pd.DataFrame = table.to_pandas()
        return plain
    others = sorted(set(places) - set(kept))
    # Two conversions and not one a column: tables may have thousands.
    parts = [table.select(others).to_pandas(), table.select(kept).to_pandas(types_mapper=_NULLABLE.get)]
    together: pd.DataFrame = pd.concat(parts, axis=1)
    return together.iloc[:, np.argsort([*others, *kept])]


def to_table(frame: pd.DataFrame) -> pa.Table:
    """Return a frame's rows as Arrow; categoricals become their values, sparse columns dense, column names text.

    Whole numbers beyond 64 bits become text, as they do in imported files. Warns (`errors.DataWarning`) of floats that
    look like ids which were rounded already.

    Raises:
        WrongType: it is no DataFrame.
        InvalidArgument: BAD_COLUMNS: a name is there twice, or of several levels, or there is no column. BAD_COLUMN: a
            column holds values of several types, or of one that a dataset does not have; the message names it.
    """
    if not isinstance(frame, pd.DataFrame):
        raise errors.WrongType(f"expected a DataFrame, got a {type(frame).__name__}", reason="BAD_ARGUMENT")
    names = column_names(frame)
    plain = pd.DataFrame(frame).set_axis(names, axis=1)
    _warn_of_rounded_ids(plain)
    odd = {place for place, dtype in enumerate(plain.dtypes) if not _is_plain(dtype)}
    columns = {names[place]: _to_column(names[place], plain.iloc[:, place]) for place in sorted(odd)}
    # The others in one conversion: frames may have thousands.
    rest = plain.iloc[:, [place for place in range(len(names)) if place not in odd]]
    table = pa.Table.from_pandas(rest, preserve_index=False)
    columns |= dict(zip(table.column_names, table.columns, strict=True))
    return pa.table([columns[name] for name in names], names=names)


def column_names(frame: pd.DataFrame) -> list[str]:
    """Return a frame's column names as texts.

    Raises:
        InvalidArgument: BAD_COLUMNS: two are the same as texts, or they have several levels, or there are none.
    """
    if isinstance(frame.columns, pd.MultiIndex):
        raise _bad_columns(
            "the frame's columns have several levels: join them, with "
            "frame.columns = ['_'.join(map(str, names)) for names in frame.columns]"
        )
    names = [str(name) for name in frame.columns]
    if not names:
        raise _bad_columns("the frame has no columns: a dataset needs one at least")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise _bad_columns(
            f"the frame has column {', '.join(map(repr, twice))} more than once: rename one, or keep the first with "
            "frame.loc[:, ~frame.columns.duplicated()]"
        )
    wrong = next((place for place, name in enumerate(names) if not _is_utf8(name)), None)
    if wrong is not None:
        raise _bad_columns(f"the name of column number {wrong + 1} holds a lone surrogate, which UTF-8 cannot encode")
    return names


def _is_plain(dtype: Any) -> bool:
    """Return whether Arrow takes every column of a type as it is."""
    if isinstance(dtype, np.dtype):
        return dtype.kind in "iubM" or (dtype.kind == "f" and dtype.itemsize <= 8)
    return isinstance(dtype, pd.Int64Dtype | pd.BooleanDtype | pd.Float64Dtype)


def _warn_of_rounded_ids(frame: pd.DataFrame) -> None:
    doubles = frame.loc[:, (frame.dtypes == np.float64).to_numpy()]
    if doubles.empty:
        return
    values = doubles.to_numpy()
    with np.errstate(invalid="ignore"):
        # Above 2**64 they are measurements rather than ids.
        is_id = np.isnan(values) | ((np.abs(values) <= 2.0**64) & (values == np.floor(values)))
        is_rounded = is_id.all(axis=0) & (np.abs(values) > EXACT_INTEGERS).any(axis=0)
    for name in doubles.columns[is_rounded]:
        warnings.warn(
            f"column {name!r} holds whole numbers beyond 2**53 as floats, which are rounded: read ids as Int64 or text",
            errors.DataWarning,
            stacklevel=4,
        )


def _to_column(name: str, column: "pd.Series[Any]") -> pa.ChunkedArray:
    dtype = column.dtype
    if isinstance(dtype, pd.SparseDtype):
        column = pd.Series(np.asarray(column))
    elif isinstance(dtype, pd.CategoricalDtype):
        column = _category_values(column)
    _check_dtype(name, column)
    if column.dtype == object:
        column = _checked_objects(name, column)
    try:
        table = pa.Table.from_pandas(pd.DataFrame({name: column.array}), preserve_index=False)
    except UnicodeEncodeError as error:
        row = next(row for row, item in enumerate(column) if isinstance(item, str) and not _is_utf8(item))
        raise _bad_column(name, f"a lone surrogate in row {row}, which UTF-8 cannot encode") from error
    # Arrow and pandas raise many kinds.
    except Exception as error:
        raise _bad_column(
            name, f"{column.dtype} values that Arrow does not take; convert them to numbers or texts"
        ) from error
    found = table.column(0)
    if isinstance(found.type, pa.BaseExtensionType):
        raise _bad_column(name, f"values of the type {found.type}; convert it to text with .astype(str)")
    return found


def _category_values(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return the values of a categorical column; intervals, such as those of pd.cut, are labels: texts."""
    kind = column.dtype.categories.dtype  # type: ignore[union-attr]
    if isinstance(kind, pd.IntervalDtype | pd.PeriodDtype):
        return column.astype(object).map(str, na_action="ignore")
    # Whole numbers with missing ones have no NumPy type.
    nullable = {"i": pd.Int64Dtype(), "u": pd.UInt64Dtype(), "b": pd.BooleanDtype()}.get(getattr(kind, "kind", ""))
    return column.astype(nullable if nullable is not None and column.isna().any() else kind)


def _check_dtype(name: str, column: "pd.Series[Any]") -> None:
    dtype = column.dtype
    key = "period" if isinstance(dtype, pd.PeriodDtype) else "interval" if isinstance(dtype, pd.IntervalDtype) else ""
    if remedy := _REMEDIES.get(key or getattr(dtype, "kind", "")):
        raise _bad_column(name, f"{dtype} values, which a dataset does not have: {remedy}")
    if isinstance(dtype, np.dtype) and dtype.kind == "f" and dtype.itemsize > 8:
        raise _bad_column(name, f"{dtype} values, which a dataset does not have: convert it with .astype('float64')")


def _checked_objects(name: str, column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return a column of objects whose values are of one type.

    Raises:
        InvalidArgument: they are of several.
    """
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind in _PLAIN_OBJECTS:
        return column
    if kind == "integer":
        return _integers(column)
    given = [item for item in column if not _is_missing(item)]
    if kind == "mixed-integer-float":
        if any(abs(int(item)) > EXACT_INTEGERS for item in given if isinstance(item, int | np.integer)):
            raise _bad_column(name, "fractions and whole numbers beyond 2**53, which floats round: make it text")
        return column
    if all(isinstance(item, list | tuple | np.ndarray) for item in given) or all(
        isinstance(item, dict) for item in given
    ):
        return column
    raise _several_types(name, column)


def _integers(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return whole numbers exactly: as 64 bits where they fit, else as text."""
    given = [None if _is_missing(item) else int(item) for item in column]
    known = [item for item in given if item is not None]
    mask = np.array([item is None for item in given])
    for (least, most), dtype in ((_INT64, np.int64), (_UINT64, np.uint64)):
        if least <= min(known) and max(known) <= most:
            return pd.Series(pd.arrays.IntegerArray(np.array([item or 0 for item in given], dtype=dtype), mask))
    return pd.Series([item if item is None else str(item) for item in given], dtype=object)


def _several_types(name: str, column: "pd.Series[Any]") -> errors.InvalidArgument:
    first_rows: dict[str, int] = {}
    for row, item in enumerate(column):
        if not _is_missing(item):
            first_rows.setdefault(type(item).__name__, row)
    if len(first_rows) == 1:
        return _bad_column(
            name,
            f"values of the type {next(iter(first_rows))}, which a dataset does not have: make it numbers or texts",
        )
    found = ", ".join(f"{kind} in row {row}" for kind, row in list(first_rows.items())[:4])
    return _bad_column(name, f"values of several types ({found}): convert it to one, with .astype(str) say")


def _is_missing(item: object) -> bool:
    return plain_value(item)[0] == "missing"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad_columns(message: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(message, reason="BAD_COLUMNS")


def _bad_column(name: str, what: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"column {name!r} holds {what}", reason="BAD_COLUMN", metadata={"column": name})
