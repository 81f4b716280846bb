"""How far an export strays from its model on real rows."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from services.training.domain.families.frame import Array
from services.training.domain.families.model import Model, Predictions
from services.training.domain.families.target import label_text

_ROWS = 1000
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Parity:
    """How far an export strays from its model on real rows.

    Args:
        max_difference: largest over rows and outputs: absolute for probabilities, for values relative to
            max(1, |value|), for forecasts to their mean size, too; infinite where one of the two is no number.
        tolerance: what is acceptable.
        rows: compared.
        label_mismatches: rows whose label differs.
    """

    max_difference: float
    tolerance: float
    rows: int
    label_mismatches: int


def measure_parity(model: Model, onnx_model: bytes, table: pa.Table) -> Parity:
    """Compare a model with its export on a table's first rows."""
    rows = table.slice(0, _ROWS)
    expected = model.predict(rows)
    outputs = run_onnx(model, onnx_model, rows)
    if expected.probabilities is None:
        pairs = [(model.target.output, expected.values)]
        if expected.interval is not None:
            pairs += zip(("lower", "upper"), expected.interval, strict=True)
        differences = np.concatenate([_relative(outputs[name], values) for name, values in pairs])
        mismatches = 0
    else:
        differences = np.abs(outputs["probabilities"] - expected.probabilities)
        mismatches = _label_mismatches(model, expected, outputs["prediction"])
    largest = float(np.nan_to_num(differences, nan=np.inf).max(initial=0.0))
    return Parity(largest, _TOLERANCE, rows.num_rows, mismatches)


def run_onnx(model: Model, onnx_model: bytes, table: pa.Table) -> dict[str, Array]:
    """Return the outputs of an exported model for a table's rows."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    places, found = [], []
    for rows, feed in model.feeds(table):
        places.append(rows)
        found.append(session.run(names, feed))
    order = np.argsort(np.concatenate(places))
    return {name: np.concatenate(parts)[order] for name, parts in zip(names, zip(*found, strict=True), strict=True)}


def _relative(found: Array, expected: Array) -> Array:
    found, expected = found.reshape(-1), expected.reshape(-1)
    # Numbers near 0 among ones of 1e300 are sums that cancel: they are as exact as the others are large.
    scale = np.ldexp(1.0, np.frexp(np.abs(expected).max(initial=1.0))[1] - 1)
    least = max(1.0, 1e-6 * float(np.abs(expected / scale).mean()) * float(scale))
    if found.dtype == np.float32:
        # A sum of hundreds that ends near 0 is as exact as single precision has the hundreds.
        least = max(least, float(np.abs(expected / scale).mean()) * float(scale))
    return np.asarray(np.abs(found - expected) / np.maximum(least, np.abs(expected)))


def _label_mismatches(model: Model, expected: Predictions, labels: Array) -> int:
    assert expected.probabilities is not None
    found = [label_text(value) for value in labels.reshape(-1).tolist()]
    known = {label: index for index, label in enumerate(model.target.classes)}
    places = np.array([known[label] for label in found], dtype=np.int64)
    rows = np.arange(len(places))
    # Two classes that are equally likely: either label is the model's.
    margin = expected.probabilities[rows, expected.values] - expected.probabilities[rows, places]
    return int((margin > _TOLERANCE).sum())
