"""Rows of a DataFrame on their way to a deployment, and its outputs on their way back."""

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lepton import errors
from lepton.v1 import common_pb2

# Rows in one request: far under the message limit for any table, and enough to hide the call's own cost.
_BATCH_ROWS = 4096
_BATCH_STEPS = 500_000
_IMAGE_DIMENSIONS = 4


def with_names(data: object, signature: common_pb2.Signature) -> pd.DataFrame:
    """Return rows with the columns' names as texts, as they were when the model was trained.

    Raises:
        WrongType: the data is no DataFrame.
        InvalidArgument: a column that the model reads is there twice.
    """
    if not isinstance(data, pd.DataFrame):
        raise errors.WrongType(
            f"predict takes a DataFrame, got a {type(data).__name__}: records go to predict_rows, texts to "
            "predict_texts, images to predict_images, a dataset to score",
            reason="BAD_ARGUMENT",
        )
    # Not a Frame: renaming one would count as a step of its recipe.
    named = pd.DataFrame(data).copy(deep=False)
    named.columns = pd.Index([str(name) for name in data.columns])
    read = {*(spec.name for spec in signature.inputs), *signature.text_columns}
    twice = sorted({name for name in named.columns[named.columns.duplicated()] if name in read or "input_ids" in read})
    if twice:
        raise errors.InvalidArgument(
            f"the data has column {', '.join(map(repr, twice))} more than once: keep one, with "
            "data.loc[:, ~data.columns.duplicated()]",
            reason="DUPLICATE_COLUMN",
        )
    return named


def check_columns(data: pd.DataFrame, signature: common_pb2.Signature, version: str) -> None:
    """Check that the data has every column that a model reads.

    Raises:
        MissingColumn: it lacks some; the message names them all.
    """
    missing = [spec.name for spec in signature.inputs if spec.name not in data.columns]
    if missing:
        raise errors.MissingColumn(f"{missing} not in the data: model {version} needs them", reason="MISSING_COLUMN")


def decoded_images(values: Sequence[object], column: str, first_row: int) -> list[bytes]:
    """Return images of a column of base64 texts.

    Raises:
        InvalidArgument: BAD_ROW: one is no base64.
    """
    found = []
    for row, value in enumerate(values, first_row):
        try:
            found.append(base64.b64decode(value))  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise errors.InvalidArgument(
                f"row {row}, column {column!r}: expected a PNG or JPEG image in base64", reason="BAD_ROW"
            ) from error
    return found


def single_input(spec: common_pb2.TensorSpec, data: pd.DataFrame) -> str | None:
    """Return texts or images, where the model is fed what is made of them; None where it takes columns as they are."""
    if spec.name == "input_ids" and spec.name not in data.columns:
        return "texts"
    # Images beside each other, channels, height, width: four dimensions.
    return "images" if len(spec.shape) == _IMAGE_DIMENSIONS and spec.datatype.startswith("FP") else None


def text_columns(signature: common_pb2.Signature, kind: str, data: pd.DataFrame) -> list[str]:
    """Return the columns that a model reads: those it was trained on, or the only one that it may be.

    Raises:
        MissingColumn: they are not there.
    """
    trained_on = list(signature.text_columns)
    missing = [name for name in trained_on if name not in data.columns]
    if trained_on and not missing:
        return trained_on
    if len(trained_on) > 1:
        raise errors.MissingColumn(
            f"{missing} not in the data: the model reads {trained_on} together", reason="MISSING_COLUMN"
        )
    names = [name for name in data.columns if name != signature.target and pd.api.types.is_string_dtype(data[name])]
    if len(names) != 1:
        raise errors.MissingColumn(
            f"the model reads one column of {kind}, the data has {names}: select one", reason="MISSING_COLUMN"
        )
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
