"""Records of plain Python values as the rows of typed predictions, and their answers as a DataFrame."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lepton import errors
from lepton.arguments import as_list
from lepton.column_types import is_moment, to_iso
from lepton.column_values import plain_value, to_steps
from lepton.v1 import prediction_pb2


def to_records(rows: object) -> "list[Mapping[Any, object]]":
    """Return records as a list; one record, or a DataFrame's rows, count as records.

    Raises:
        WrongType: one is no mapping.
    """
    given: list[Any] = (
        _frame_records(rows) if isinstance(rows, pd.DataFrame) else as_list(rows, "rows", (str, Mapping, pd.Series))
    )
    wrong = next((item for item in given if not isinstance(item, Mapping | pd.Series)), None)
    if wrong is not None:
        raise errors.WrongType(
            f"rows takes records, each a dict of values by column, got a {type(wrong).__name__}", reason="BAD_ARGUMENT"
        )
    return given


def _frame_records(frame: pd.DataFrame) -> "list[dict[Any, object]]":
    names, columns = list(frame.columns), [list(column) for _, column in frame.items()]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def to_row(record: Mapping[Any, object]) -> prediction_pb2.Row:
    """Return a record as a row; None and NaN are missing.

    Raises:
        InvalidArgument: a value is neither number, text, truth value nor series.
    """
    return prediction_pb2.Row(values={str(name): _to_value(str(name), value) for name, value in record.items()})


def to_texts_request(texts: str | Iterable[str] | Iterable[tuple[str, str]]) -> prediction_pb2.PredictRequest:
    """Return a request for some texts, or for pairs of them.

    Raises:
        InvalidArgument: one is neither a text nor two of them, or there are both.
    """
    given: list[object] = as_list(texts, "texts")
    if all(isinstance(item, str) for item in given):
        return prediction_pb2.PredictRequest(texts=[str(item) for item in given])
    pairs = [item for item in given if isinstance(item, tuple | list) and len(item) == 2]
    if len(pairs) < len(given) or not all(isinstance(text, str) for pair in pairs for text in pair):
        raise errors.InvalidArgument("give texts, or pairs of two texts each, none missing", reason="NOT_TEXTS")
    return prediction_pb2.PredictRequest(
        text_pairs=[prediction_pb2.TextPair(first=first, second=second) for first, second in pairs]
    )


def to_vectors(predictions: Sequence[prediction_pb2.Prediction], name: str) -> "np.ndarray[Any, Any]":
    """Return predictions that are vectors as one array, (rows, size) 32-bit floats.

    Args:
        predictions: in the rows' order.
        name: of the deployment, for messages.

    Raises:
        FailedPrecondition: they are labels.
    """
    if any(not prediction.values for prediction in predictions):
        raise errors.FailedPrecondition(f"{name} gives labels, no vectors: use predict_texts", reason="NO_EMBEDDING")
    return np.array([prediction.values for prediction in predictions], dtype=np.float32)


def to_frame(predictions: Iterable[prediction_pb2.Prediction], target: str, classes: Sequence[str]) -> pd.DataFrame:
    """Return predictions as a DataFrame: first the target's column, then a probability a class, or an interval's ends.

    Args:
        predictions: in the rows' order.
        target: the first column's name.
        classes: the order of the probabilities.
    """
    return pd.DataFrame([_to_record(prediction, target, classes) for prediction in predictions])


def _to_record(prediction: prediction_pb2.Prediction, target: str, classes: Sequence[str]) -> dict[str, object]:
    if prediction.lower:
        lower, upper = (np.array(ends, dtype=np.float64) for ends in (prediction.lower, prediction.upper))
        return {target: np.array(prediction.values, dtype=np.float64), "lower": lower, "upper": upper}
    if len(prediction.values) == 1:
        return {target: prediction.values[0]}
    if prediction.values:
        return {f"{target}_{place}": value for place, value in enumerate(prediction.values)}
    probabilities = prediction.probabilities
    return {
        target: prediction.label,
        **{f"probability_{label}": probabilities[label] for label in classes if label in probabilities},
    }


def _to_value(name: str, value: object) -> prediction_pb2.Value:
    kind, plain = plain_value(value)
    if kind == "missing":
        return prediction_pb2.Value(missing=prediction_pb2.Missing())
    if kind == "boolean":
        return prediction_pb2.Value(boolean=plain)
    if kind == "integer":
        return prediction_pb2.Value(integer=plain)
    if kind == "number":
        return prediction_pb2.Value(number=plain)
    if kind == "text":
        return prediction_pb2.Value(text=_utf8(name, plain))
    if is_moment(value):
        return prediction_pb2.Value(text=to_iso(value))
    if isinstance(value, list | tuple | np.ndarray):
        return prediction_pb2.Value(series=prediction_pb2.Series(values=to_steps(value, name)))
    raise errors.InvalidArgument(
        f"column {name!r} holds a {type(value).__name__}: expected a number, a text, a truth value, a list of "
        "numbers or None",
        reason="COLUMN_TYPE",
    )


def _utf8(name: str, text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise errors.InvalidArgument(
                f"column {name!r} holds a text with a lone surrogate, which UTF-8 cannot encode", reason="COLUMN_TYPE"
            ) from error
    return text
