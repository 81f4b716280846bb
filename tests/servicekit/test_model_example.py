"""Examples of requests: what fits a model is read, and what does not is named without its values."""

import json
from typing import Any

import numpy as np
import pytest

from servicekit.model_example import BadExample, read_example
from servicekit.sample_tensors import SampleInput

INPUTS = [
    SampleInput("x", "FP32", ("N", 2)),
    SampleInput("t", "BYTES", ("N",)),
    SampleInput("k", "INT8", ()),
    SampleInput("half", "FP16", None),
]


def _request(**changed: dict[str, Any]) -> bytes:
    inputs: dict[str, dict[str, Any]] = {
        "x": {"datatype": "FP32", "shape": [2, 2], "data": [[1, 2.5], [float("nan"), float("-inf")]]},
        "t": {"datatype": "BYTES", "shape": [2], "data": ["ä", ""]},
        "k": {"datatype": "INT8", "shape": [], "data": [-7]},
        "half": {"datatype": "FP16", "shape": [1, 1], "data": [0.5]},
    }
    listed = [{"name": name, **item, **changed.get(name, {})} for name, item in inputs.items()]
    return json.dumps({"inputs": listed}).encode()


def test_every_datatype_is_read_nested_or_flat() -> None:
    found = read_example(_request(), INPUTS)
    np.testing.assert_array_equal(found["x"], np.array([[1, 2.5], [np.nan, -np.inf]], np.float32))
    assert found["t"].tolist() == ["ä", ""]
    assert (found["k"].dtype, found["k"].shape, int(found["k"])) == (np.int8, (), -7)
    assert (found["half"].dtype, found["half"].tolist()) == (np.float16, [[0.5]])


def test_number_of_another_width_is_taken_where_it_fits() -> None:
    found = read_example(_request(x={"datatype": "FP64"}, k={"datatype": "INT64"}), INPUTS)
    assert (found["x"].dtype, found["k"].dtype) == (np.float32, np.int8)
    assert read_example(_request(), [*INPUTS[:3], SampleInput("half", "BF16", None)])["half"].dtype.name == "bfloat16"
    assert read_example(_request(half={"datatype": "INT64", "data": [3]}), INPUTS)["half"].tolist() == [[3.0]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no json", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no request"),
        (b'{"inputs": [3]}', "no request"),
        (b'{"inputs": [{"name": "x"}]}', "shape"),
        (b'{"inputs": []}', "no input 'half'"),
        (_request(x={"shape": [-1, 2]}), "shape"),
        (_request(x={"shape": [1 << 40, 2]}), "shape"),
        (_request(x={"shape": [1, 4], "data": [1, 2, 3, 4]}), "has shape [-1, 2], the example [1, 4]"),
        (_request(x={"data": [1, 2, 3]}), "'x' are no FP32"),
        (_request(x={"data": [[1], [2, 3]]}), "'x' are no FP32"),
        (_request(x={"data": ["secret", 1, 2, 3]}), "'x' are no FP32"),
        (_request(t={"data": [1, 2]}), "takes texts"),
        (_request(k={"data": [300], "datatype": "INT64"}), "takes INT8, the example has INT64"),
        (_request(k={"data": [300]}), "'k' are no INT8"),
        (_request(k={"data": [0.5], "datatype": "FP32"}), "takes INT8, the example has FP32"),
        (_request(t={"datatype": "FP8"}), "unknown datatype"),
    ],
)
def test_what_does_not_fit_is_named_and_never_shown(content: bytes, words: str) -> None:
    with pytest.raises(BadExample) as refused:
        read_example(content, INPUTS)
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


def test_unknown_input_is_named() -> None:
    with pytest.raises(BadExample, match=r"no input 'z': it takes x"):
        read_example(b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}, '
                     b'{"name": "z", "datatype": "FP32", "shape": [], "data": [1]}]}', INPUTS[:1])  # fmt: skip
