"""Whether two versions' answers agree: by each output's own rows, with a floor near zero."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from lepton.v1 import registry_pb2
from services.inference.serving.agreement import agreeing_rows
from services.inference.serving.loading import load_model
from services.inference.serving.model import Array, LoadedModel, OutputSpec
from services.inference.serving.routing import Role, Route
from services.inference.serving.shadow import Shadow
from services.inference.serving.table import Entry

_TYPES = ["float16", "float32", "float64", "int8", "int64", "uint8", "uint64", "bool"]


def _compare(expected: object, found: object, rows: int | None = None, tolerance: float = 0.01) -> object:
    spec = OutputSpec("y", "", ())
    return agreeing_rows({"y": spec}, {"y": np.asarray(expected)}, {"y": np.asarray(found)}, tolerance, rows)


@settings(deadline=None)
@given(st.data(), st.integers(0, 5), st.sampled_from(_TYPES), st.integers(0, 3))
def test_an_answer_agrees_with_itself_whatever_its_type_and_shape(
    data: st.DataObject, rows: int, kind: str, dimensions: int
) -> None:
    shapes = hnp.array_shapes(min_dims=dimensions, max_dims=dimensions, min_side=0, max_side=5)
    array = data.draw(hnp.arrays(kind, data.draw(shapes) if dimensions else ()))
    assert _compare(array, array.copy(), rows) == (rows, rows)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 4), st.booleans())
def test_one_row_that_differs_is_one_row_that_disagrees(rows: int, columns: int, which: int, is_text: bool) -> None:
    which %= rows
    expected = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns) + 1.0
    if is_text:
        expected = expected.astype(str).astype(object)
    found = expected.copy()
    found[which, -1] = "other" if is_text else found[which, -1] * 1.5
    assert _compare(expected, found, rows) == (rows, rows - 1)


@settings(deadline=None)
@given(hnp.arrays("float32", st.integers(1, 20), elements=st.floats(-1e6, 1e6, width=32)), st.integers(0, 2**31))
def test_rounding_never_disagrees(expected: Array, seed: int) -> None:
    step = np.finfo(np.float32).eps * np.abs(expected).max()
    noise = np.random.default_rng(seed).uniform(-1, 1, expected.shape) * max(float(step), 5e-8)
    assert _compare(expected, (expected + noise).astype(np.float32), tolerance=0.0) == (len(expected),) * 2


@pytest.mark.parametrize(
    ("expected", "found", "agrees"),
    [
        ([0.0], [1e-8], True),
        ([1e-8], [0.0], True),
        ([0.0], [-1e-8], True),
        ([0.0], [1e-3], False),
        ([0.0, 1e6], [0.1, 1e6], True),
        ([0.0, 1.0], [0.1, 1.0], False),
        ([np.nan], [np.nan], True),
        ([np.nan], [1.0], False),
        ([np.inf, -np.inf], [np.inf, -np.inf], True),
        ([np.inf], [-np.inf], False),
        ([np.inf], [1e300], False),
        ([True, False], [True, True], False),
        ([2**62], [2**62 + 1], False),
        (np.array([1.0], np.float16), np.array([1.001], np.float16), True),
        (np.array([1.0], np.float16), np.array([1.0], np.float32), True),
        (5.0, 5.0, True),
        (5.0, [5.0], True),
        ([[1.0], [2.0]], [1.0, 2.0], True),
        ([1.0, 2.0], [1.0, 2.0, 3.0], False),
        (np.zeros((0, 4)), np.zeros((0, 4)), True),
        (np.zeros((0, 4)), np.zeros((2, 4)), False),
    ],
)
def test_numbers_near_zero_scalars_and_what_is_no_number(expected: object, found: object, agrees: bool) -> None:
    # A tensor without the request's one row is compared as a whole.
    assert _compare(expected, found, rows=1, tolerance=1e-4) == (1, int(agrees))


def test_outputs_are_compared_along_their_own_rows() -> None:
    outputs = {
        "label": OutputSpec("label", "FP32", (-1, 2)),
        "time_major": OutputSpec("time_major", "FP32", (4, -1)),
        "boxes": OutputSpec("boxes", "FP32", (-1, 4)),
    }
    expected = {
        "label": np.ones((3, 2), np.float32),
        "time_major": np.ones((4, 3), np.float32),
        "boxes": np.ones((7, 4), np.float32),
    }
    found = {name: array.copy() for name, array in expected.items()}
    assert agreeing_rows(outputs, expected, found, 0.01, 3) == (3, 3)
    found["time_major"][2, 1] = 9.0
    assert agreeing_rows(outputs, expected, found, 0.01, 3) == (3, 2)
    found["label"][0, 0] = 9.0
    assert agreeing_rows(outputs, expected, found, 0.01, 3) == (3, 1)
    # A list of boxes is no row's: if it differs, every answer does.
    found["boxes"] = np.ones((6, 4), np.float32)
    assert agreeing_rows(outputs, expected, found, 0.01, 3) == (3, 0)


def test_labels_decide_for_probabilities_and_for_nothing_else() -> None:
    outputs = {name: OutputSpec(name, "", ()) for name in ("label", "p", "score")}
    expected = {"label": np.array([0, 1]), "p": np.array([[0.9, 0.1], [0.4, 0.6]]), "score": np.array([1.0, 2.0])}
    found = {**expected, "p": np.array([[0.6, 0.4], [0.3, 0.7]])}
    assert agreeing_rows(outputs, expected, found, 0.01, 2) == (2, 2)
    assert agreeing_rows(outputs, expected, {**found, "score": np.array([1.0, 3.0])}, 0.01, 2) == (2, 1)


def test_what_cannot_be_compared_is_not_compared() -> None:
    assert _compare(np.array(["a"], object), [1.0]) is None
    outputs = {"y": OutputSpec("y", "", ())}
    assert agreeing_rows(outputs, {"y": np.ones(1)}, {"z": np.ones(1)}, 0.01, 1) is None


def _many_outputs(number: int, factor: float = 1.0) -> LoadedModel:
    """Return a model of rows that also gives a table of a fixed length, a scalar and a list of all elements."""
    values = helper.make_tensor("c", TensorProto.FLOAT, [5], [0.0, 1.0, 2.0, 3.0, 4.0 * factor])
    flat = helper.make_tensor("flat", TensorProto.INT64, [1], [-1])
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["rows"]),
            helper.make_node("Identity", ["c"], ["table"]),
            helper.make_node("ReduceMax", ["c"], ["scalar"], keepdims=0),
            helper.make_node("Reshape", ["x", "flat"], ["elements"]),
        ],
        "many",
        [helper.make_tensor_value_info("x", kind, [None, 2])],
        [
            helper.make_tensor_value_info("rows", kind, [None, 2]),
            helper.make_tensor_value_info("table", kind, [5]),
            helper.make_tensor_value_info("scalar", kind, []),
            helper.make_tensor_value_info("elements", kind, [None]),
        ],
        [values, flat],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    return load_model("many", registry_pb2.Version(number=number, digest=f"d{number}"), content, epoch=number)


@pytest.mark.parametrize(("factor", "agreed"), [(1.0, 3), (2.0, 0)])
async def test_a_shadow_of_the_same_bytes_agrees_whatever_its_outputs_are(factor: float, agreed: int) -> None:
    own, other = _many_outputs(2), _many_outputs(1, factor)
    routes = {2: Route(), 1: Route(Role.SHADOW, compare_percent=100.0, tolerance=0.01)}
    entry = Entry({2: own, 1: other}, routes=routes)
    inputs = {"x": np.array([[-1.0, 0.0], [1.0, 2.0], [3.0, 4.0]], np.float32)}
    answer = dict(zip(own.outputs, own.run(inputs, list(own.outputs)), strict=True))
    shadow = Shadow()
    try:
        shadow.offer(entry, own, inputs, answer)
        async with asyncio.timeout(60):
            while not (done := other.release.measured()).compared + done.compare_failed + done.compare_dropped:
                await asyncio.sleep(0.01)
    finally:
        shadow.close()
    assert (done.compared, done.agreed, done.compare_failed) == (3, agreed, 0)


async def test_a_shadow_without_a_common_output_is_not_compared_and_not_blamed() -> None:
    own, other = _many_outputs(2), _many_outputs(1)
    other.outputs = {"renamed": replace(next(iter(other.outputs.values())), name="renamed")}
    entry = Entry({2: own, 1: other}, routes={2: Route(), 1: Route(Role.SHADOW, compare_percent=100.0)})
    inputs = {"x": np.ones((1, 2), np.float32)}
    shadow = Shadow()
    try:
        shadow.offer(entry, own, inputs, {"rows": np.ones((1, 2), np.float32)})
        async with asyncio.timeout(60):
            while not (done := other.release.measured()).compare_dropped:
                await asyncio.sleep(0.01)
    finally:
        shadow.close()
    assert (done.compared, done.compare_failed) == (0, 0)
