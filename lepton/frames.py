"""A pandas DataFrame that remembers where it came from and which steps made it.

The recorded operations are those that the platform replays to the same rows: dropna, drop, drop_duplicates, fillna,
rename, astype to a type that keeps every value, query and split. Whatever else changes rows or columns, such as pandas'
own sample, is noticed by a fingerprint of the content, and marks the recipe 'edited by the client'.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from lepton import errors, steps
from lepton.draws import second_part
from lepton.v1 import data_pb2

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
}


@dataclass(frozen=True)
class Lineage:
    """Where a frame came from.

    Args:
        parent: the dataset version that the steps start from, as name@number.
        label: the declared label column; empty for none.
        steps: what was done since.
        edited: whether something outside the recipe's vocabulary was done, too.
        fingerprint: of the content after the last step.
    """

    parent: str
    label: str
    steps: tuple[data_pb2.Step, ...]
    edited: bool
    fingerprint: int

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

    def dropna(self, *args: Any, **kwargs: Any) -> Any:
        """As in pandas; recorded where it drops rows with any missing value."""
        result = super().dropna(*args, **kwargs)
        if args or set(kwargs) - {"subset", "ignore_index", "how"} or kwargs.get("how", "any") != "any":
            return result
        return self._record(result, steps.drop_missing(_names(kwargs.get("subset"))))

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
        return self._record(result, steps.drop_duplicates(_names(subset)))

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
        """As in pandas; recorded where the expression refers to columns and constants alone."""
        result = super().query(expr, **kwargs)
        if kwargs or "@" in expr:
            return result
        return self._record(result, steps.filter(expr))

    def split(self, test_fraction: float = 0.2, *, seed: int = 0, stratify: str | None = None) -> "tuple[Frame, Frame]":
        """Cut the rows in two by a seeded draw, keeping their order: (train, test). The platform draws the same.

        Args:
            test_fraction: the share of rows in the second part, between 0 and 1 exclusive.
            seed: same rows, fraction and seed, same parts.
            stratify: keep the shares of this column's values equal in both parts.

        Raises:
            InvalidArgument: the fraction is not between 0 and 1, or one part would have no rows.
            KeyError: there is no such column.
        """
        if not 0 < test_fraction < 1:
            raise errors.InvalidArgument(
                f"test_fraction must lie between 0 and 1, got {test_fraction}", reason="BAD_RECIPE"
            )
        groups = np.zeros(len(self), np.int64)
        if stratify is not None:
            # Missing values are a group, as on the platform.
            groups = pd.factorize(self[stratify], use_na_sentinel=False)[0].astype(np.int64)
        in_test = second_part(groups, test_fraction, seed)
        if in_test.all() or not in_test.any():
            raise errors.InvalidArgument(
                f"of {len(self):,} rows the second part would hold {int(in_test.sum()):,}, and one part none",
                reason="EMPTY_PART",
            )
        step = steps.split(test_fraction, seed=seed, stratify=stratify or "")
        return self._record(self[~in_test], step), self._record(self[in_test], step)

    def _record(self, result: Any, step: data_pb2.Step) -> Any:
        """Write the step into the result's lineage; an in-place operation has no result and counts as an edit."""
        before = self.lineage
        if isinstance(result, Frame) and before is not None:
            result._lineage = replace(before, steps=(*before.steps, step), fingerprint=fingerprint(result))
        return result


def fingerprint(frame: pd.DataFrame) -> int:
    """Return a hash of the frame's columns, types and rows; the index does not count."""
    header = tuple((str(name), str(dtype)) for name, dtype in frame.dtypes.items())
    plain = pd.DataFrame(frame)
    series = [name for name, column in plain.items() if column.dtype == object and column.map(_is_list).any()]
    if series:
        # Lists, which pandas does not hash.
        plain = plain.copy()
        for name in series:
            plain[name] = plain[name].map(_hashable)
    rows = pd.util.hash_pandas_object(plain, index=False).to_numpy()
    return hash((header, rows.tobytes()))


def _is_list(item: object) -> bool:
    return isinstance(item, list | np.ndarray)


def _hashable(item: object) -> object:
    return np.asarray(item, dtype=np.float64).tobytes() if _is_list(item) else item


def with_lineage(frame: pd.DataFrame, parent: str, label: str) -> Frame:
    """Return the frame as one that descends from a dataset version."""
    result = Frame(frame)
    result._lineage = Lineage(parent, label, (), edited=False, fingerprint=fingerprint(result))
    return result


def _names(subset: Hashable | Iterable[Hashable] | None) -> list[str]:
    if subset is None:
        return []
    return [subset] if isinstance(subset, str) else [str(name) for name in subset]  # type: ignore[union-attr]


def _dtype_name(dtype: Any) -> str:
    return dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None) or str(dtype)


def _is_same_cast(before: Any, after: Any) -> bool:
    """Return whether a cast kept every value.

    The platform refuses to cut values, and its texts of numbers are not those of pandas.
    """
    if not all(pd.api.types.is_numeric_dtype(column.dtype) for column in (before, after)):
        return bool(before.dtype == after.dtype)
    return bool(((before == after) | (before.isna() & after.isna())).all())
