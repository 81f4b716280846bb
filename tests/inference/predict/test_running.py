"""Rows that the platform puts together: how it did so never changes an answer."""

import numpy as np
import pytest

from servicekit.errors import FailedPrecondition
from services.inference.predict.running import run_rows
from services.inference.serving.model import Array, LoadedModel
from tests.inference.graph_texts import load_text

_LISTWISE = "g (float[N,1] x) => (float[N,1] y) { y = Softmax<axis=0>(x) }"
_RUNS: list[int] = []


async def _run(model: LoadedModel, inputs: dict[str, Array], names: list[str]) -> list[Array]:
    _RUNS.append(len(next(iter(inputs.values()))))
    return model.run(inputs, names)


async def _in_parts(model: LoadedModel, x: Array, size: int) -> Array:
    parts = [await run_rows(_run, model, {"x": x[start : start + size]}, ["y"]) for start in range(0, len(x), size)]
    return np.concatenate([part[0] for part in parts])


@pytest.mark.parametrize("text", [_LISTWISE, "g (float[N,1] x) => (float[N,1] y) { y = Exp(x) }"])
async def test_parts_of_any_size_give_the_same_answers(text: str) -> None:
    model, x = load_text(text), np.linspace(-1, 1, 7, dtype=np.float32).reshape(7, 1)
    found = [await _in_parts(model, x, size) for size in (1, 2, 3, 7)]
    assert all(np.array_equal(answer, found[0]) for answer in found)


async def test_independent_rows_run_together_and_others_one_by_one() -> None:
    _RUNS.clear()
    x = np.ones((3, 1), np.float32)
    await run_rows(_run, load_text("g (float[N,1] x) => (float[N,1] y) { y = Exp(x) }"), {"x": x}, ["y"])
    await run_rows(_run, load_text(_LISTWISE), {"x": x}, ["y"])
    assert _RUNS == [3, 1, 1, 1]


async def test_a_graph_that_fixes_its_batch_runs_as_it_is() -> None:
    _RUNS.clear()
    model = load_text("g (float[3,1] x) => (float[3,1] y) { y = Softmax<axis=0>(x) }")
    await run_rows(_run, model, {"x": np.ones((3, 1), np.float32)}, ["y"])
    assert _RUNS == [3]


async def test_an_output_without_one_row_for_one_is_refused() -> None:
    model = load_text("g (float[N,2] x) => (float y) { y = ReduceSum<keepdims=0>(x) }")
    with pytest.raises(FailedPrecondition, match="one row for one") as refusal:
        await run_rows(_run, model, {"x": np.ones((2, 2), np.float32)}, ["y"])
    assert refusal.value.reason == "OUTPUT_NOT_BY_ROW"
