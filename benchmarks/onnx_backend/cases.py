"""The backend tests that come with the onnx package, and what bare ONNX Runtime answers to them."""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests

Array = np.ndarray[Any, Any]
# Whose models and data are files of the package. Those of `real` are downloads, those of `light` have no data.
_FILED_KINDS = ("simple", "pytorch-converted", "pytorch-operator")


@dataclass(frozen=True)
class Case:
    """One case.

    Args:
        name: of the case.
        model: the ONNX file.
        requests: inputs by name, one for each data set.
        answers: of bare ONNX Runtime, in the order of its outputs, for each data set.
        outputs: their names.
    """

    name: str
    model: bytes
    requests: tuple[dict[str, Any], ...]
    answers: tuple[list[Any], ...]
    outputs: tuple[str, ...]

    @property
    def model_id(self) -> str:
        """The name as an id of the platform."""
        return re.sub(r"[^a-z0-9_-]", "-", self.name.lower())[-60:].strip("-_")


def runnable(pattern: str = "", most: int = 0) -> Iterator[Case]:
    """Yield the cases that bare ONNX Runtime loads and runs.

    Args:
        pattern: a regular expression that names must hold.
        most: how many, evenly over all; 0 for all.
    """
    found = [case for case in _all() if re.search(pattern, case[0])]
    step = max(1, len(found) // most) if most else 1
    for name, model, data in found[::step]:
        case = _answered(name, model, data)
        if case is not None:
            yield case


def _all() -> list[tuple[str, bytes, list[list[Any]]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = [
            (case.name, case.model.SerializeToString(), [list(inputs) for inputs, _ in case.data_sets])
            for case in collect_testcases(None)
        ]
        filed = [
            (
                f"{kind}_{case.name}",
                (Path(case.model_dir) / "model.onnx").read_bytes(),
                _data_sets(Path(case.model_dir)),
            )
            for kind in _FILED_KINDS
            for case in load_model_tests(kind=kind)
        ]
    return sorted(nodes + filed, key=lambda case: case[0])


def _data_sets(folder: Path) -> list[list[Any]]:
    graph = onnx.ModelProto.FromString((folder / "model.onnx").read_bytes()).graph
    defaults = {tensor.name for tensor in graph.initializer}
    declared = [item for item in graph.input if item.name not in defaults]
    return [
        [_value((data / f"input_{place}.pb").read_bytes(), item) for place, item in enumerate(declared)]
        for data in sorted(folder.glob("test_data_set_*"))
    ]


def _value(content: bytes, item: onnx.ValueInfoProto) -> Any:
    if item.type.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    return onnx.TensorProto.FromString(content)


def _plain(value: Any) -> Any:
    """Return a value as ONNX Runtime's Python interface takes it."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _answered(name: str, model: bytes, data: list[list[Any]]) -> Case | None:
    ort.set_default_logger_severity(4)
    try:
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        names = [item.name for item in session.get_inputs()]
        requests = tuple(dict(zip(names, map(_plain, values), strict=False)) for values in data)
        answers = tuple(session.run(None, request) for request in requests)
    except Exception:
        # What ONNX Runtime does not run is no case.
        return None
    return Case(name, model, requests, answers, tuple(item.name for item in session.get_outputs()))


def difference(case: Case, place: int, found: dict[str, Array]) -> str:
    """Return how an answer differs from bare ONNX Runtime's, in short; empty where it does not.

    Args:
        case: the case.
        place: of the data set.
        found: the platform's answer, by output.
    """
    kept = {name: value for name, value in zip(case.outputs, case.answers[place], strict=True) if name in found}
    expected = flattened(kept)
    for name, array in found.items():
        want = expected[name]
        if array.shape != want.shape or (array.dtype != want.dtype and want.dtype.kind in "biuf"):
            return f"{name}: {array.dtype}{list(array.shape)}, expected {want.dtype}{list(want.shape)}"
        if want.dtype.kind == "f":
            same = np.allclose(array, want, rtol=1e-5, atol=1e-7, equal_nan=True)
        else:
            same = [str(item) for item in array.reshape(-1)] == [str(item) for item in want.reshape(-1)]
        if not same and not is_random(case.model):
            return f"{name}: other values"
    return ""


def flattened(values: dict[str, Any]) -> dict[str, Array]:
    """Return values as the platform carries them: of a sequence the rows of its items, and how many each has.

    Raises:
        ValueError: the items' rows differ in shape.
    """
    found: dict[str, Array] = {}
    for name, value in values.items():
        if not isinstance(value, list):
            found[name] = np.asarray(value)
        else:
            found[name] = np.concatenate(value) if value else np.zeros(0, np.float32)
            found[name + "_lengths"] = np.array([len(item) for item in value], np.int64)
    return found


def is_random(model: bytes) -> bool:
    """Return whether a graph draws random numbers: two runs of it differ."""
    names = ("RandomNormal", "RandomUniform", "Bernoulli", "Multinomial", "Dropout")
    return any(name.encode() in model for name in names)
