"""Sample predictions: whether a graph answers, and what is to be said where it does not."""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from servicekit.model_example import BadExample, read_example
from servicekit.onnx_text import last_line
from servicekit.sample_tensors import Array, SampleInput, has_rows, samples, with_rows
from services.registry.verifier.refusal import is_about_memory, out_of_memory

_ROWS = 3
# Within the time that the registry gives the child. Tries after the first may ask for more than the model is made for.
_FIRST_SECONDS = 25.0
_TRY_SECONDS = 10.0
_TRIES_SECONDS = 15.0
_REMEDY = "Upload the version with an example of a request, which is then tried instead"


def try_samples(
    session: Any, inputs: Sequence[SampleInput], outputs: Sequence[str], example: bytes | None
) -> tuple[str, list[str]]:
    """Try a graph on the example that came with it, else on samples; return what failed, and warnings.

    Args:
        session: ONNX Runtime's.
        inputs: of the graph.
        outputs: the names of those that are served.
        example: the file that came with the model; None where none came.

    Returns:
        Why predictions failed, empty where they went well; and what else is to be known.

    Raises:
        Refused: the first prediction took more memory than is allowed.
    """
    warnings: list[str] = []
    if example is not None:
        try:
            sample = read_example(example, inputs)
        except BadExample as problem:
            warnings.append(f"the example is not used: {problem}")
        else:
            failure = _run(session, sample, outputs, "the example's prediction")
            return failure, warnings
    found, failure = _first_that_runs(session, inputs, outputs)
    if found is None:
        return f"{failure}. {_REMEDY}", warnings
    if has_rows(inputs):
        failure = _run(session, with_rows(found, inputs, _ROWS), outputs, f"a prediction of {_ROWS} rows")
        if failure:
            return f"{failure}. The model may take requests of one row alone", warnings
    return "", warnings


def _first_that_runs(
    session: Any, inputs: Sequence[SampleInput], outputs: Sequence[str]
) -> tuple[Mapping[str, Array] | None, str]:
    started = time.monotonic()
    first = ""
    for sample in samples(inputs):
        if first and time.monotonic() - started > _TRIES_SECONDS:
            break
        failure = _run(session, sample, outputs, "a sample prediction", is_first=not first)
        if not failure:
            return sample, ""
        first = first or failure
    return None, first


def _run(session: Any, sample: Mapping[str, Array], outputs: Sequence[str], what: str, *, is_first: bool = True) -> str:
    """Return why a prediction failed; empty where it did not."""
    import onnxruntime as ort

    options = ort.RunOptions()
    seconds = _FIRST_SECONDS if is_first else _TRY_SECONDS
    timer = threading.Timer(seconds, setattr, (options, "terminate", True))
    timer.start()
    try:
        session.run(list(outputs), dict(sample), options)
    except MemoryError:
        if is_first:
            raise
        return f"{what} took more memory than is allowed"
    except Exception as error:
        if is_about_memory(str(error)) and is_first:
            raise out_of_memory(what) from error
        if options.terminate:
            return f"{what} took longer than {seconds:g} s"
        return f"{what} failed: {last_line(str(error))}"
    finally:
        timer.cancel()
    return ""
