"""A model's outputs as labels, probabilities and values: pure."""

from dataclasses import dataclass

import numpy as np

from lepton.v1 import prediction_pb2 as pb
from servicekit.errors import FailedPrecondition
from services.inference.serving.model import Array, LoadedModel

# An output of this name holds unnormalised scores, as transformers' exports have it.
_LOGITS = "logits"
# The outputs of a forecast beside its prediction.
_INTERVAL = ("lower", "upper")


@dataclass(frozen=True)
class Answers:
    """What a model says of some rows, in their order.

    Args:
        prediction: (rows, columns): the labels or values, as the model gives them.
        is_label: whether they are labels, one a row.
        probabilities: (rows, classes); None where the model gives none.
        classes: the labels of the probabilities.
        interval: of a forecast, the lower and upper ends, as the prediction; None for anything else.
    """

    prediction: Array
    is_label: bool
    probabilities: Array | None
    classes: tuple[str, ...]
    interval: tuple[Array, Array] | None = None


def wanted_outputs(model: LoadedModel) -> list[str]:
    """Return the outputs that answers are read from: the first, and the one of a value a class, or an interval's."""
    first = next(iter(model.outputs))
    if _is_forecast(model):
        return [first, *_INTERVAL]
    labelled = _labelled(model)
    return [first] if labelled in (None, first) else [first, str(labelled)]


def read_answers(model: LoadedModel, arrays: list[Array], rows: int) -> Answers:
    """Return what some outputs say.

    Args:
        model: whose outputs they are.
        arrays: those of `wanted_outputs`.
        rows: how many went in.

    Raises:
        FailedPrecondition: an output has no row for each row, or several texts in one.
    """
    names = wanted_outputs(model)
    by_name = {name: _by_row(model, name, array, rows) for name, array in zip(names, arrays, strict=True)}
    labelled = _labelled(model)
    if _is_forecast(model):
        lower, upper = (by_name[name] for name in _INTERVAL)
        return Answers(by_name[names[0]], False, None, (), (lower, upper))
    if labelled is None:
        first = by_name[names[0]]
        is_text = first.dtype.kind in "OSU"
        if is_text and first.shape[1] != 1:
            raise _unreadable(model, f"output {names[0]!r} has {first.shape[1]} texts a row")
        return Answers(first, is_text, None, ())
    probabilities = by_name[labelled] if labelled != _LOGITS else softmax(by_name[labelled])
    classes = model.outputs[labelled].labels
    if labelled == names[0] or by_name[names[0]].shape[1] != 1:
        labels = np.array(classes, dtype=object)[probabilities.argmax(axis=1)]
        return Answers(labels.reshape(-1, 1), True, probabilities, classes)
    return Answers(by_name[names[0]], True, probabilities, classes)


def to_predictions(answers: Answers) -> list[pb.Prediction]:
    """Return answers as messages."""
    if answers.interval is not None:
        parts = (values.astype(np.float64).tolist() for values in (answers.prediction, *answers.interval))
        return [
            pb.Prediction(values=values, lower=lower, upper=upper) for values, lower, upper in zip(*parts, strict=True)
        ]
    if not answers.is_label:
        return [pb.Prediction(values=values) for values in answers.prediction.astype(np.float64).tolist()]
    labels = [label_text(label) for label in answers.prediction[:, 0].tolist()]
    if answers.probabilities is None:
        return [pb.Prediction(label=label) for label in labels]
    return [
        pb.Prediction(label=label, probabilities=dict(zip(answers.classes, values, strict=True)))
        for label, values in zip(labels, answers.probabilities.tolist(), strict=True)
    ]


def label_text(value: object) -> str:
    """Return a class label as a signature's classes have it: whole floats as integers, booleans in lower case."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def softmax(scores: Array) -> Array:
    """Return (rows, classes) probabilities of unnormalised scores."""
    shifted = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=scores.dtype)


def _is_forecast(model: LoadedModel) -> bool:
    return any(spec.is_series for spec in model.inputs.values()) and set(_INTERVAL) <= set(model.outputs)


def _labelled(model: LoadedModel) -> str | None:
    """Return the output that has a value a class; None where there is none."""
    return next((spec.name for spec in model.outputs.values() if spec.labels), None)


def _by_row(model: LoadedModel, name: str, array: Array, rows: int) -> Array:
    if not array.shape or array.shape[0] != rows:
        raise _unreadable(model, f"output {name!r} has the shape {list(array.shape)} for {rows} rows")
    return array.reshape(rows, int(np.prod(array.shape[1:], dtype=np.int64)))


def _unreadable(model: LoadedModel, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"model {model.deployment!r}: {why}: ask by the Open Inference Protocol (ModelInfer)",
        reason="OUTPUT_NOT_BY_ROW",
    )
