"""The first runs of a model: whether it takes batches, and which size of them is worth it."""

import threading
import time
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import onnxruntime as ort
import structlog

from servicekit.model_example import BadExample, read_example
from servicekit.onnx_text import last_line
from servicekit.sample_tensors import SampleInput, samples
from services.inference.independence import Verdict
from services.inference.serving.batch_cost import best_batch, fit_cost
from services.inference.serving.model import Array, LoadedModel
from services.inference.serving.row_trial import find_mixing
from services.inference.serving.run_times import INLINE_SECONDS

_MOST_ROWS = 64
# A batch that takes longer would hold up those that come after it, and the warm-up.
_LONGEST_SECONDS = 0.2
_TIMINGS = 3
# Batches twice as large are tried until one is so much slower, a row, than the best.
_WORSE = 0.93
# A first request that takes longer is ended; its time is unknown then.
_TRY_SECONDS = 30.0
_TRIES_SECONDS = 30.0
# What a run is taken to last before one was seen: long enough for a thread of its own.
_UNKNOWN_SECONDS = 1.0

_log = structlog.get_logger(__name__)


def warm_up(model: LoadedModel, verdict: Verdict, inputs: Sequence[SampleInput] = (), example: bytes = b"") -> None:
    """Run a model some times: the first run allocates, and on a GPU compiles; the others tell what batches take.

    A model that answers none of these requests serves all the same: what it takes only its callers know. Nothing is
    known of its runs then, so they share no batch and happen on no thread that reads requests.

    Args:
        model: the model.
        verdict: whether its graph was shown to answer each row by itself; what is so is tried, too.
        inputs: of its graph.
        example: a request that came with it; empty for none.
    """
    one = _first_request(model, inputs, example)
    if one is None:
        model.why_mixed = verdict.why or "no sample request could be run"
        model.run_seconds = model.row_seconds = _UNKNOWN_SECONDS
        return
    one_row = min(_timed(model, one) for _ in range(_TIMINGS))
    model.why_mixed = verdict.why or find_mixing(model, one)
    model.is_by_row = not model.why_mixed
    if model.is_by_row:
        # An example may have several rows.
        one = {name: array[:1] for name, array in one.items()}
    # The least of some: one disturbed timing would have short runs handed to threads until it is outgrown.
    model.run_seconds = model.row_seconds = one_row
    seconds = {1: one_row}
    if model.is_by_row:
        seconds = _measure_batches(model, one, one_row)
        best = best_batch(seconds)
        model.row_seconds = seconds[best] / best
        # Of a row of any length this one tells nothing: see batch_sizes.
        is_fixed = all(size > 0 for spec in model.inputs.values() for size in spec.shape[1:])
        model.batch_rows = best if is_fixed else _MOST_ROWS
        model.fixed_seconds, _ = fit_cost(seconds)
    _note_short_runs(model, one, seconds)


def _first_request(model: LoadedModel, inputs: Sequence[SampleInput], example: bytes) -> dict[str, Array] | None:
    """Return the first request that a model answers: the example, or a made-up one; None where it answers none."""
    failure = ""
    try:
        tried = chain([read_example(example, inputs)] if example else [], samples(inputs))
    except BadExample as problem:
        failure, tried = f"the example is not used: {problem}", chain(samples(inputs))
    started = time.monotonic()
    for request in tried:
        if failure and time.monotonic() - started > _TRIES_SECONDS:
            break
        problem_text = _try(model, request)
        if not problem_text:
            return request
        failure = failure or problem_text
    _log.warning("no sample runs", deployment=model.deployment, number=model.number, why=failure)
    return None


def _try(model: LoadedModel, request: dict[str, Array]) -> str:
    """Return why a model does not answer a request; empty where it does."""
    options = ort.RunOptions()
    timer = threading.Timer(_TRY_SECONDS, setattr, (options, "terminate", True))
    timer.start()
    try:
        model.session.run(list(model.outputs), request, options)
    except Exception as error:
        return last_line(str(error))
    finally:
        timer.cancel()
    return ""


def _note_short_runs(model: LoadedModel, one: dict[str, Array], seconds: Mapping[int, float]) -> None:
    """Note which requests, of the form that was run here, take so little that they run at once."""
    shapes = tuple(one[name].shape for name in model.inputs)
    short = [rows for rows, taken in seconds.items() if taken < INLINE_SECONDS]
    if model.is_by_row:
        model.warm_shapes = tuple((-1, *shape[1:]) for shape in shapes)
        model.warm_rows = max(short, default=-1)
    elif short:
        model.warm_shapes = shapes
        model.warm_rows = shapes[0][0] if shapes and shapes[0] else 1


def _measure_batches(model: LoadedModel, one: dict[str, Array], one_row: float) -> dict[int, float]:
    """Return the seconds of a run by its rows, as far as larger batches are worth it."""
    seconds = {1: one_row}
    rows, best = 1, one_row
    while rows < _MOST_ROWS and 2 * seconds[rows] < _LONGEST_SECONDS:
        rows *= 2
        many = _stacked(one, rows)
        seconds[rows] = min(_timed(model, many) for _ in range(_TIMINGS))
        best = min(best, seconds[rows] / rows)
        if seconds[rows] / rows * _WORSE > best:
            break
    return seconds


def _stacked(sample: dict[str, Array], rows: int) -> dict[str, Array]:
    return {name: np.concatenate([array] * rows) for name, array in sample.items()}


def _timed(model: LoadedModel, inputs: dict[str, Array]) -> float:
    started = time.perf_counter()
    model.session.run(list(model.outputs), inputs)
    return time.perf_counter() - started
