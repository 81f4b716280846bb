"""Runs requests once more on other versions, in the background, and compares the answers.

Nothing waits for it: it has one thread of the lowest priority, a bounded line before it, and leaves out what does not
fit.
"""

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import onnxruntime as ort
import structlog

from servicekit.errors import LeptonError
from services.inference.serving.agreement import agreeing_rows
from services.inference.serving.model import Array, LoadedModel
from services.inference.serving.run_errors import INPUT_REJECTED
from services.inference.serving.table import Entry

_log = structlog.get_logger(__name__)

_LINE_LENGTH = 32
_LINE_BYTES = 64 << 20
_LOWEST_PRIORITY = 19
_LONGEST_SECONDS = 60.0


class Shadow:
    """The background line of one worker.

    Args:
        length: most requests that wait.
        size_bytes: most that their inputs and answers may take.
    """

    def __init__(self, length: int = _LINE_LENGTH, size_bytes: int = _LINE_BYTES) -> None:
        self._length = length
        self._size_bytes = size_bytes
        self._waiting = 0
        self._waiting_bytes = 0
        # Its thread starts with the first request.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shadow", initializer=_yield_to_others)

    def close(self) -> None:
        """Forget what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def offer(self, entry: Entry, model: LoadedModel, inputs: Mapping[str, Array], answer: Mapping[str, Array]) -> None:
        """Have an answered request compared by the versions that are to; return at once.

        Args:
            entry: the deployment.
            model: who answered.
            inputs: by name, checked; nobody changes them any more.
            answer: the outputs by name, nor these.
        """
        if model.number != entry.split.incumbent:
            return
        for number, percent in entry.split.compared:
            other = entry.models.get(number)
            if other is not None and random.random() * 100.0 < percent:
                # After the answer has left: a thread that wakes now would want the interpreter, too.
                tolerance = entry.routes[number].tolerance
                asyncio.get_running_loop().call_soon(self._enqueue, model, other, inputs, answer, tolerance)

    def blame(self, entry: Entry, model: LoadedModel, inputs: Mapping[str, Array], seconds: float) -> None:
        """Have the deployment's own version try what another version refused as the caller's mistake.

        Where it answers, the mistake is that version's own, and counts in its error rate.

        Args:
            entry: the deployment.
            model: the version that refused.
            inputs: by name, checked; not changed any more.
            seconds: that the refusal took.
        """
        number = entry.split.incumbent
        own = None if number is None else entry.models.get(number)
        if own is not None and own is not model:
            self._submit(model, inputs, _takes, (own, inputs), lambda takes: _blame(model, seconds, takes=takes))

    def _enqueue(
        self,
        model: LoadedModel,
        other: LoadedModel,
        inputs: Mapping[str, Array],
        answer: Mapping[str, Array],
        tolerance: float,
    ) -> None:
        held = {**inputs, **{f"{name} (output)": array for name, array in answer.items()}}
        run = (model, other, inputs, answer, tolerance)
        self._submit(other, held, _compare, run, lambda compared: _count(other, compared))

    def _submit(
        self,
        other: LoadedModel,
        held: Mapping[str, Array],
        work: Callable[..., Any],
        arguments: tuple[Any, ...],
        count: Callable[[Any], None],
    ) -> None:
        """Run work in the thread and count what it returns on the event loop; drop it where too much waits."""
        size = sum(array.nbytes for array in held.values())
        if self._waiting >= self._length or self._waiting_bytes + size > self._size_bytes:
            other.release.drop_comparison()
            return
        self._waiting += 1
        self._waiting_bytes += size
        loop = asyncio.get_running_loop()

        def done(future: "Future[Any]") -> None:
            # The loop may be gone when a worker stops.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._finish, other, size, future, count)

        with contextlib.suppress(RuntimeError):
            self._pool.submit(work, *arguments).add_done_callback(done)

    def _finish(self, other: LoadedModel, size: int, future: "Future[Any]", count: Callable[[Any], None]) -> None:
        self._waiting -= 1
        self._waiting_bytes -= size
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            # Its message may hold values of the request.
            why = error.reason if isinstance(error, LeptonError) else type(error).__name__
            _log.info("shadow failed", deployment=other.deployment, version=other.number, why=why)
            other.release.fail_comparison()
            return
        count(future.result())


def _count(other: LoadedModel, compared: tuple[int, int] | None) -> None:
    if compared is None:
        other.release.drop_comparison()
    else:
        other.release.compare(*compared)


def _blame(model: LoadedModel, seconds: float, *, takes: bool) -> None:
    if takes:
        model.release.observe(seconds, INPUT_REJECTED)


def _has_inputs(model: LoadedModel, inputs: Mapping[str, Array]) -> bool:
    return all(name in inputs or spec.is_optional for name, spec in model.inputs.items())


def _run(model: LoadedModel, inputs: Mapping[str, Array], names: list[str]) -> list[Array]:
    """Return a version's answers; end a run that takes longer than any request may wait for.

    Raises:
        LeptonError: it failed, or was ended.
    """
    options = ort.RunOptions()
    timer = threading.Timer(_LONGEST_SECONDS, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        return model.run({name: inputs[name] for name in model.inputs if name in inputs}, names, options)
    finally:
        timer.cancel()


def _takes(own: LoadedModel, inputs: Mapping[str, Array]) -> bool:
    """Return whether a version answers some inputs."""
    if not _has_inputs(own, inputs):
        return False
    try:
        _run(own, inputs, list(own.outputs))
    except LeptonError:
        return False
    return True


def _compare(
    model: LoadedModel,
    other: LoadedModel,
    inputs: Mapping[str, Array],
    answer: Mapping[str, Array],
    tolerance: float,
) -> tuple[int, int] | None:
    """Run inputs on another version; return how many rows were compared and agree, None where they cannot be compared.

    Raises:
        LeptonError: the other version failed on what the first one answered.
    """
    names = [name for name in answer if name in other.outputs]
    if not names or not _has_inputs(other, inputs):
        return None
    found = _run(other, inputs, names)
    try:
        return agreeing_rows(
            model.outputs, answer, dict(zip(names, found, strict=True)), tolerance, rows=_rows_of(inputs)
        )
    except (TypeError, ValueError) as error:
        # A fault of the comparison is not the version's.
        _log.warning("answers not compared", deployment=other.deployment, version=other.number, why=str(error))
        return None


def _rows_of(inputs: Mapping[str, Array]) -> int:
    """Return the rows of a request: the first dimension that its inputs share; 1 where they share none."""
    sizes = {array.shape[0] if array.ndim else 1 for array in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else 1


def _yield_to_others() -> None:
    """Let this thread have the processor only where nobody else wants it."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
