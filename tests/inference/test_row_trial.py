"""Trials of rows that share a run: they catch what mixes, by length and by magnitude, and let rounding pass."""

import numpy as np
import pytest

from services.inference.serving.row_trial import find_mixing
from tests.inference.graph_texts import load_text
from tests.inference.models import columns, failing, identity


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N,1] x) => (float[N,1] y) { y = Softmax<axis=0>(x) }",
        # Differences far below what one rounds to by eye.
        """g (float[N,1] x) => (float[N,1] y) <float k = {0.001}> {
            m = ReduceMean<axes=[0], keepdims=1>(x) d = Mul(m, k) y = Add(x, d) }""",
        # Zeros and ones alone would not tell.
        "g (float[N,2] x) => (float[N,2] y) { m = ReduceMax<axes=[0], keepdims=1>(x) r = Mul(m, x) y = Add(r, x) }",
        "g (float[N,2] x) => (float[N,2] y) { q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z) }",
        "g (float[N,T,2] x) => (float[M,2] y) <int64[2] s = {-1,2}> { y = Reshape(x, s) }",
        "g (float[N,2] x) => (float[1,2] y) <int64[2] s = {1,2}> { y = Reshape(x, s) }",
        "g (int64[N,T] x) => (int64[N,T] y) { m = ReduceMax<axes=[0], keepdims=1>(x) y = Add(x, m) }",
        "g (string[N,1] x) => (string[N,1] y) <int64 z = {0}, int64[1] a = {0}> "
        "{ f = Gather<axis=0>(x, z) u = Unsqueeze(f, a) s = Shape(x) y = Expand(u, s) }",
    ],
)  # fmt: skip
def test_rows_that_change_each_other_are_found(text: str) -> None:
    assert find_mixing(load_text(text, opset=13), {})


@pytest.mark.parametrize("kind", ["FP16", "FP32", "FP64", "INT8", "UINT64", "BOOL", "BYTES"])
def test_rows_that_are_independent_pass(kind: str) -> None:
    assert find_mixing(identity(kind), {}) == ""


def test_models_of_columns_and_of_few_indices_pass() -> None:
    assert columns("error").batching == "batched"
    assert failing().batching == "batched"


def test_a_model_that_takes_no_random_rows_is_tried_with_its_own_request() -> None:
    table = ",".join(str(place) for place in range(102))
    model = load_text(
        f"""g (int64[N,1] x) => (float[N,1,1] y) <float[102,1] t = {{{table}}}, int64 h = {{1000}}> {{
            i = Sub(x, h) y = Gather(t, i) }}"""
    )
    assert model.batching == "not batched: no sample request could be run"
    assert find_mixing(model, {"x": np.array([[1010]])}) == ""
