"""Rows of a DataFrame on their way to a deployment, and its outputs on their way back."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from lepton.v1 import common_pb2

# Rows in one request: far under the message limit for any table, and enough to hide the call's own cost.
_BATCH_ROWS = 4096
_BATCH_STEPS = 500_000
_IMAGE_DIMENSIONS = 4


def single_input(spec: common_pb2.TensorSpec, data: pd.DataFrame) -> str | None:
    """Return texts or images, where the model is fed what is made of them; None where it takes columns as they are."""
    if spec.name == "input_ids" and spec.name not in data.columns:
        return "texts"
    # Images beside each other, channels, height, width: four dimensions.
    return "images" if len(spec.shape) == _IMAGE_DIMENSIONS and spec.datatype.startswith("FP") else None


def text_columns(signature: common_pb2.Signature, kind: str, data: pd.DataFrame) -> list[str]:
    """Return the columns that a model reads: those it was trained on, or the only one that it may be.

    Raises:
        KeyError: they are not there.
    """
    trained_on = list(signature.text_columns)
    missing = [name for name in trained_on if name not in data.columns]
    if trained_on and not missing:
        return trained_on
    if len(trained_on) > 1:
        raise KeyError(f"{missing} not in the data: the model reads {trained_on} together")
    names = [name for name in data.columns if name != signature.target and pd.api.types.is_string_dtype(data[name])]
    if len(names) != 1:
        raise KeyError(f"the model reads one column of {kind}, the data has {names}: select one")
    return names


def batches(data: pd.DataFrame, signature: common_pb2.Signature) -> Iterator[pd.DataFrame]:
    """Yield rows, as many as go in one request: fewer where they hold series."""
    series = [spec.name for spec in signature.inputs if spec.kind == common_pb2.COLUMN_KIND_SERIES]
    steps = max((np.size(item) for name in series for item in data[name]), default=0)
    rows = min(_BATCH_ROWS, max(1, _BATCH_STEPS // max(1, steps * len(series))))
    for start in range(0, len(data), rows):
        yield data.iloc[start : start + rows]


def to_frame(
    parts: "list[dict[str, np.ndarray[Any, Any]]]", signature: common_pb2.Signature, index: "pd.Index[Any]"
) -> pd.DataFrame:
    """Put the outputs together: the first is the prediction; one of a column a class holds the probabilities.

    Of a forecast each is a column of lists.
    """
    target, classes = signature.target or "prediction", list(signature.classes)
    columns: dict[str, np.ndarray[Any, Any]] = {}
    for position, name in enumerate(parts[0] if parts else ()):
        values = np.concatenate([part[name] for part in parts])
        values = values.reshape(len(values), -1)
        if signature.task == "forecasting":
            # As the series that they go on with: a list a row.
            columns[target if position == 0 else name] = _listed(values)
        elif position == 0 and values.shape[1] == 1:
            columns[target] = values[:, 0]
        elif classes and values.shape[1] == len(classes):
            columns.update({f"probability_{label}": values[:, place] for place, label in enumerate(classes)})
        else:
            columns.update({f"{name}_{place}": values[:, place] for place in range(values.shape[1])})
    return pd.DataFrame(columns, index=index) if columns else pd.DataFrame({target: []}, index=index)


def _listed(values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    lists = np.empty(len(values), dtype=object)
    lists[:] = list(values)
    return lists
