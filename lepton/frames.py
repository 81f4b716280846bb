"""A pandas DataFrame that remembers where it came from and which steps made it.

The recorded operations are those that the platform replays to the same rows: dropna, drop, drop_duplicates, fillna,
rename, astype to a type that keeps every value, query and split. Whatever else changes rows or columns, such as pandas'
own sample, is noticed by a fingerprint of the content, and marks the recipe 'edited by the client'.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pandas.core.groupby import DataFrameGroupBy

from lepton import errors, steps
from lepton.arguments import to_names
from lepton.draws import second_part
from lepton.v1 import data_pb2

_NEGATION = re.compile(r"\bnot\b|~|!=")
_ARROW_NAMES = {
    "int64": "int64",
    "int32": "int32",
    "int": "int64",
    "float64": "double",
    "float32": "float",
    "float": "double",
    "str": "string",
    "string": "string",
    "object": "string",
    "bool": "bool",
    "boolean": "bool",
    "Int64": "int64",
    "Int32": "int32",
    "Float64": "double",
    "Float32": "float",
}

# The declared labels of what this process loaded: see `check_label`.
_loaded_labels: set[str] = set()


@dataclass(frozen=True)
class Lineage:
    """Where a frame came from.

    Args:
        parent: the dataset version that the steps start from, as name@number.
        label: the declared label column; empty for none.
        steps: what was done since.
        edited: whether something outside the recipe's vocabulary was done, too.
        fingerprint: of the content after the last step.
        other_labels: of the frames that were put together with this one, where they differ from its own.
    """

    parent: str
    label: str
    steps: tuple[data_pb2.Step, ...]
    edited: bool
    fingerprint: int
    other_labels: tuple[str, ...] = ()

    @property
    def recipe(self) -> data_pb2.Recipe:
        """The steps as the data service keeps them."""
        return data_pb2.Recipe(steps=self.steps, edited_by_client=self.edited)

    @property
    def is_untouched(self) -> bool:
        """Whether the frame still is its parent version."""
        return not self.steps and not self.edited


class Frame(pd.DataFrame):
    """What `load_data` returns: a DataFrame whose operations keep lineage."""

    # pandas reads it from the class, and carries the attribute along.
    _metadata: ClassVar[list[str]] = ["_lineage"]
    _lineage: Lineage | None = None

    @property
    def _constructor(self) -> "type[Frame]":
        return Frame

    @property
    def lineage(self) -> Lineage | None:
        """Where the rows came from; None where unknown. Its `edited` tells of changes outside the vocabulary."""
        known = self._lineage
        if known is None or known.fingerprint == fingerprint(self):
            return known
        return replace(known, edited=True, fingerprint=fingerprint(self))

    def __finalize__(self, other: Any, method: str | None = None, **kwargs: Any) -> Any:
        """Keep lineage through concat and merge, too, which pandas does not."""
        result = super().__finalize__(other, method, **kwargs)  # type: ignore[misc]
        inputs = getattr(other, "input_objs", None) or getattr(other, "objs", None)
        inputs = inputs or [getattr(other, side, None) for side in ("left", "right")]
        known = [frame._lineage for frame in inputs if isinstance(frame, Frame) and frame._lineage is not None]
        if known and not isinstance(other, pd.DataFrame | pd.Series):
            others = tuple(sorted({lineage.label for lineage in known} - {known[0].label}))
            self._lineage = replace(known[0], other_labels=(*known[0].other_labels, *others))
        return result

    def groupby(self, *args: Any, **kwargs: Any) -> Any:
        """As in pandas; what is aggregated is a Frame, so that a lost label is noticed."""
        grouped = super().groupby(*args, **kwargs)
        grouped.__class__ = _Grouped
        return grouped

    def dropna(self, *args: Any, **kwargs: Any) -> Any:
        """As in pandas; recorded where it drops rows with any missing value."""
        result = super().dropna(*args, **kwargs)
        if args or set(kwargs) - {"subset", "ignore_index", "how"} or kwargs.get("how", "any") != "any":
            return result
        return self._record(result, steps.drop_missing(to_names(kwargs.get("subset"), "subset")))

    def drop(self, *args: Any, **kwargs: Any) -> Any:
        """As in pandas; recorded where it drops columns."""
        result = super().drop(*args, **kwargs)
        dropped = [str(name) for name in self.columns if result is not None and name not in result.columns]
        if result is None or len(result) != len(self) or not dropped:
            return result
        return self._record(result, steps.drop_columns(dropped))

    def drop_duplicates(self, *args: Any, **kwargs: Any) -> Any:
        """As in pandas; recorded where it keeps the first of the same rows."""
        result = super().drop_duplicates(*args, **kwargs)
        if len(args) > 1 or kwargs.get("keep", "first") != "first":
            return result
        subset = args[0] if args else kwargs.get("subset")
        return self._record(result, steps.drop_duplicates(to_names(subset, "subset")))

    def fillna(self, *args: Any, **kwargs: Any) -> Any:
        """As in pandas; recorded for a value or values by column."""
        result = super().fillna(*args, **kwargs)
        value = args[0] if args else kwargs.get("value")
        if not np.isscalar(value) and not isinstance(value, Mapping):
            return result
        filled = value if isinstance(value, Mapping) else dict.fromkeys(self.columns[self.isna().any()], value)
        return self._record(result, steps.fill_missing({str(name): item for name, item in filled.items()}))

    def rename(self, *args: Any, **kwargs: Any) -> Any:
        """As in pandas; recorded where it renames columns by a mapping."""
        result = super().rename(*args, **kwargs)
        names = kwargs.get("columns")
        if names is not None and isinstance(result, Frame) and result._lineage is not None:
            label = result._lineage.label
            new = names(label) if callable(names) else names.get(label, label) if isinstance(names, Mapping) else label
            result._lineage = replace(result._lineage, label=str(new) if label else "")
        if args or set(kwargs) - {"columns"} or not isinstance(names, Mapping):
            return result
        changed = {str(old): str(new) for old, new in names.items() if old in self.columns}
        return self._record(result, steps.rename(changed))

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
        """As in pandas; recorded where the platform's cast gives the same values."""
        result = super().astype(dtype, *args, **kwargs)
        wanted = dtype if isinstance(dtype, Mapping) else dict.fromkeys(self.columns, dtype)
        types = {str(name): _ARROW_NAMES.get(_dtype_name(item), "") for name, item in wanted.items()}
        if not all(types.values()) or not all(_is_same_cast(self[name], result[name]) for name in wanted):
            return result
        return self._record(result, steps.cast(types))

    def query(self, expr: str, **kwargs: Any) -> Any:
        """As in pandas; recorded where the expression refers to columns and constants alone.

        Not recorded is a negation of a column that pandas has as nullable and that has missing values: there what is
        not known to be true is not known to be false, and on the platform it is false.
        """
        result = super().query(expr, **kwargs)
        if kwargs or "@" in expr or (_NEGATION.search(expr) and self._has_unknown(expr)):
            return result
        return self._record(result, steps.filter(expr))

    def _has_unknown(self, expr: str) -> bool:
        nullable = [
            name
            for name, dtype in self.dtypes.items()
            if str(name) in expr and not isinstance(dtype, np.dtype) and not pd.api.types.is_string_dtype(dtype)
        ]
        return bool(self[nullable].isna().any(axis=None)) if nullable else False

    def split(self, test_fraction: float = 0.2, *, seed: int = 0, stratify: str | None = None) -> "tuple[Frame, Frame]":
        """Cut the rows in two by a seeded draw, keeping their order: (train, test). The platform draws the same.

        Args:
            test_fraction: the share of rows in the second part, between 0 and 1 exclusive.
            seed: same rows, fraction and seed, same parts.
            stratify: keep the shares of this column's values equal in both parts.

        Raises:
            InvalidArgument: the fraction is not between 0 and 1, or one part would have no rows.
            MissingColumn: there is no such column; it is a KeyError, too.
        """
        step = steps.split(test_fraction, seed=seed, stratify=stratify)
        test_fraction, seed = step.split.test_fraction, step.split.seed
        if not 0 < test_fraction < 1:
            raise errors.InvalidArgument(
                f"test_fraction must lie between 0 and 1, got {test_fraction}", reason="BAD_RECIPE"
            )
        groups = np.zeros(len(self), np.int64)
        if stratify is not None:
            column = next((name for name in self.columns if str(name) == step.split.stratify), None)
            if column is None:
                raise errors.MissingColumn(f"no column {stratify!r} to stratify by", reason="MISSING_COLUMN")
            # Missing values are a group, as on the platform.
            groups = pd.factorize(self[column], use_na_sentinel=False)[0].astype(np.int64)
        in_test = second_part(groups, test_fraction, seed)
        if in_test.all() or not in_test.any():
            raise errors.InvalidArgument(
                f"of {len(self):,} rows the second part would hold {int(in_test.sum()):,}, and one part none",
                reason="EMPTY_PART",
            )
        return self._record(self[~in_test], step), self._record(self[in_test], step)

    def _record(self, result: Any, step: data_pb2.Step) -> Any:
        """Write the step into the result's lineage; an in-place operation has no result and counts as an edit."""
        before = self.lineage
        if isinstance(result, Frame) and before is not None:
            label = before.label if result._lineage is None else result._lineage.label
            steps_ = (*before.steps, step)
            result._lineage = replace(before, label=label, steps=steps_, fingerprint=fingerprint(result))
        return result


class _Grouped(DataFrameGroupBy):  # type: ignore[type-arg]
    """Groups of a Frame: pandas makes plain DataFrames of some aggregations."""

    def aggregate(self, func: Any = None, *args: Any, **kwargs: Any) -> Any:
        result = super().aggregate(func, *args, **kwargs)
        if not isinstance(result, pd.DataFrame) or isinstance(result, Frame):
            return result
        return Frame(result).__finalize__(self.obj)

    agg = aggregate


def check_label(frame: pd.DataFrame) -> None:
    """Check that a frame still has the label that it was loaded with.

    Raises:
        InvalidArgument: LABEL_LOST: its column is gone, or frames with other labels were put together, or nothing is
            known of it after an operation that keeps no lineage. The latter holds for a plain DataFrame with a column
            that is the label of loaded data: pandas makes plain ones where the left one of two was plain.
    """
    if not isinstance(frame, Frame):
        return _check_plain(frame)
    known = frame._lineage
    if known is not None and known.label in ("", *map(str, frame.columns)) and not known.other_labels:
        return
    if known is None:
        what = "where these rows come from is unknown, and so is their label"
    elif known.other_labels:
        labels = [label or "none" for label in (known.label, *known.other_labels)]
        what = f"these rows were put together from frames with different labels ({', '.join(labels)})"
    else:
        what = f"the label {known.label!r} is no longer a column of the data"
    raise errors.InvalidArgument(f"{what}: say which column to predict, with target='...'", reason="LABEL_LOST")


def _check_plain(frame: pd.DataFrame) -> None:
    # Where the last column is the label, it is what a fit predicts.
    lost = [str(name) for name in frame.columns[:-1] if str(name) in _loaded_labels]
    if lost:
        raise errors.InvalidArgument(
            f"this DataFrame does not say its label, and {lost[0]!r} is the label of data loaded before: say which "
            "column to predict, with target='...'",
            reason="LABEL_LOST",
        )


def fingerprint(frame: pd.DataFrame) -> int:
    """Return a hash of the frame's columns, types and rows; the index does not count."""
    header = tuple((str(name), str(dtype)) for name, dtype in frame.dtypes.items())
    try:
        rows = pd.util.hash_pandas_object(pd.DataFrame(frame), index=False).to_numpy().tobytes()
    except (TypeError, ValueError):
        rows = b"".join(_hashes(frame.iloc[:, place]) for place in range(frame.shape[1]))
    return hash((header, len(frame), rows))


def _hashes(column: "pd.Series[Any]") -> bytes:
    try:
        return pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes()
    except (TypeError, ValueError):
        # Lists, dicts, sets, lone surrogates: pandas hashes none of them.
        plain = pd.Series([_hashable(item) for item in column], dtype=object)
        return pd.util.hash_pandas_object(plain, index=False).to_numpy().tobytes()


def _hashable(item: object) -> object:
    if isinstance(item, np.ndarray):
        return f"{item.dtype}{item.shape}".encode() + item.tobytes() if item.dtype != object else repr(item.tolist())
    if isinstance(item, set | frozenset):
        # Equal sets may list their items in different orders.
        return repr(sorted(map(repr, item)))
    return repr(item)


def with_lineage(frame: pd.DataFrame, parent: str, label: str) -> Frame:
    """Return the frame as one that descends from a dataset version."""
    result = Frame(frame)
    if label:
        _loaded_labels.add(label)
    result._lineage = Lineage(parent, label, (), edited=False, fingerprint=fingerprint(result))
    return result


def _dtype_name(dtype: Any) -> str:
    return dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None) or str(dtype)


def _is_same_cast(before: Any, after: Any) -> bool:
    """Return whether a cast kept every value.

    The platform refuses to cut values, and its texts of numbers are not those of pandas.
    """
    if not all(pd.api.types.is_numeric_dtype(column.dtype) for column in (before, after)):
        return bool(before.dtype == after.dtype)
    return bool(((before == after) | (before.isna() & after.isna())).all())
