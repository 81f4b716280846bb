"""Says which columns hold categories that a model does not know: it predicts without them."""

import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from lepton import errors
from lepton.v1 import common_pb2

# Fewer are no news: of a column with many values a model keeps the most frequent ones.
_LEAST_SHARE = 0.05
_MOST_NAMED = 20


class UnknownValues:
    """Counts the unknown categories of rows that are sent as tensors.

    Args:
        signature: of the model.
    """

    def __init__(self, signature: common_pb2.Signature) -> None:
        self._categories = {
            spec.name: frozenset((*spec.categories, ""))
            for spec in signature.inputs
            if spec.kind == common_pb2.COLUMN_KIND_CATEGORICAL and spec.categories
        }
        self._unknown: Counter[str] = Counter()
        self._rows = 0

    def add(self, inputs: "Iterable[tuple[common_pb2.TensorSpec, np.ndarray[Any, Any]]]", rows: int) -> None:
        """Count those of a request's inputs."""
        self._rows += rows
        for spec, values in inputs:
            known = self._categories.get(spec.name)
            if known is not None:
                self._unknown[spec.name] += sum(text not in known for text in values.ravel().tolist())

    def found(self) -> list[common_pb2.UnknownCategories]:
        """Return the columns that have some."""
        return [
            common_pb2.UnknownCategories(column=name, unknown_rows=count, rows=self._rows)
            for name, count in self._unknown.items()
            if count
        ]


def warn_of(unknown: Iterable[common_pb2.UnknownCategories], stacklevel: int = 2) -> None:
    """Raise one `errors.UnknownCategoryWarning` for the columns with a good share of unknown categories.

    Args:
        unknown: by column.
        stacklevel: whose line is named: 2 is the caller's.
    """
    reported = [to_text(each) for each in unknown if each.unknown_rows >= _LEAST_SHARE * max(each.rows, 1)]
    if not reported:
        return
    more = f", and {len(reported) - _MOST_NAMED:,} more columns" if len(reported) > _MOST_NAMED else ""
    warnings.warn(
        f"{', '.join(reported[:_MOST_NAMED])}{more}: the model did not learn these values, so it predicts without "
        "them; check how they are spelled",
        errors.UnknownCategoryWarning,
        stacklevel=stacklevel + 1,
    )


def to_text(unknown: common_pb2.UnknownCategories) -> str:
    """Return the share of a column's rows that are unknown, for people; without any value."""
    share = unknown.unknown_rows / max(unknown.rows, 1)
    return (
        f"{share:.0%} of {unknown.column!r} are unknown categories ({unknown.unknown_rows:,} of {unknown.rows:,} rows)"
    )
