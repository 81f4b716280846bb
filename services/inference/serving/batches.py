"""One batch: the tensors of its requests put together, run at once, and given back row by row.

Only requests of one form share a batch: one model, the same outputs, the same shape of a row. So nothing is padded, and
nothing that one request holds reaches another's answer; a request that makes the model fail fails alone.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
from opentelemetry.trace import Span

from servicekit.errors import Cancelled, DeadlineExceeded, Internal, LeptonError
from services.inference.serving.batch_sizes import BatchSizes
from services.inference.serving.codec import WIRE_TYPES, check_values
from services.inference.serving.model import Array, InputSpec, LoadedModel
from services.inference.serving.replies import packed_texts
from services.inference.serving.run_times import INLINE_SECONDS, RunTimes
from services.inference.serving.statistics import BatchTimes

# One input of one request: the bytes of its numbers, in any contiguous buffer, or its texts.
Payload = Any

FOREVER = float("inf")
_MOST_FORMS = 256
_LARGE = 4096
# The shape of an optional input that a request leaves out: no tensor has it.
_ABSENT = (-2,)
# A run that was expected to be short and takes this long continues in another thread.
_LONGEST_INLINE_SECONDS = 0.05


@dataclass(eq=False, slots=True, weakref_slot=True)
class Form:
    """What requests must have in common to share a batch.

    Args:
        model: who answers.
        outputs: the names of those that are wanted, in order.
        shapes: of each input, in the model's order; -1 first where rows of several requests may stand below each other.
        is_batched: whether they may.
        queue: those that wait, the oldest first.
        rows: that wait.
        arrival_seconds: mean time between two requests, lately.
        last_arrival: when the last one came (monotonic).
        is_aside: whether what waits is left to the threads.
        sizes: what batches of it took.
        times: which sizes of its runs were short.
        has_texts: whether its shapes do not say how large its requests are.
        text_bytes: of the requests that wait; counted for texts alone.
    """

    model: LoadedModel
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    is_batched: bool
    queue: "deque[Work]" = field(default_factory=deque)
    rows: int = 0
    arrival_seconds: float = 1.0
    last_arrival: float = 0.0
    is_aside: bool = False
    sizes: BatchSizes = field(default_factory=BatchSizes)
    times: RunTimes = field(default_factory=RunTimes)
    has_texts: bool = False
    text_bytes: int = 0

    @property
    def may_run_inline(self) -> bool:
        """Whether what waits now may run on the thread that reads requests: it was short at this size before."""
        model, rows = self.model, self.rows
        if self.is_aside or not model.has_bounded_cost or model.run_seconds >= INLINE_SECONDS:
            return False
        first = self.queue[0].rows
        if rows != first:
            # A single request may be larger than a batch.
            rows = max(min(rows, self.most_rows), first)
        return self.times.are_short(rows, self.text_bytes)

    @property
    def most_rows(self) -> int:
        """The largest batch of what waits now; a single request may be larger."""
        return self.sizes.most(self.model.batch_rows, self.rows) if self.is_batched else 1


def find_form(model: LoadedModel, outputs: tuple[str, ...], inputs: Mapping[str, Array]) -> tuple[Form, int]:
    """Return the form of a request, the same one for all that may share a batch, and the request's rows.

    Args:
        model: who answers.
        outputs: the names of those that are wanted.
        inputs: checked, by name.
    """
    if len(inputs) != len(model.inputs):
        return _form_without(model, outputs, inputs), 1
    arrays = [inputs[name] for name in model.inputs]
    rows = arrays[0].shape[0] if arrays and arrays[0].shape else 1
    # Bytes that are no text are padded to the longest: one request's may not swell its neighbours'.
    is_batched = model.is_batchable and all(array.shape[0] == rows and array.dtype.kind != "S" for array in arrays)
    shapes = tuple((-1, *array.shape[1:]) if is_batched else array.shape for array in arrays)
    return _kept_form(model, outputs, shapes, is_batched=is_batched), rows


def _form_without(model: LoadedModel, outputs: tuple[str, ...], inputs: Mapping[str, Array]) -> Form:
    """Return the form of a request that leaves optional inputs out, which runs alone."""
    shapes = tuple(inputs[name].shape if name in inputs else _ABSENT for name in model.inputs)
    return _kept_form(model, outputs, shapes, is_batched=False)


def _kept_form(
    model: LoadedModel, outputs: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], *, is_batched: bool
) -> Form:
    key = (outputs, shapes)
    form = model.forms.get(key)
    if form is None:
        if len(model.forms) >= _MOST_FORMS:
            # Shapes are the clients' choice. Who waits in a form that is forgotten here is still answered.
            model.forms.clear()
        form = model.forms[key] = _new_form(model, outputs, shapes, is_batched=is_batched)
    return form


def _new_form(
    model: LoadedModel, outputs: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], *, is_batched: bool
) -> Form:
    form = Form(model, outputs, shapes, is_batched)
    form.has_texts = any(spec.datatype == "BYTES" for spec in model.inputs.values())
    if shapes == model.warm_shapes:
        form.times.learn(model.warm_rows, 0, 0.0)
    return form


def to_payload(array: Array | None, spec: InputSpec) -> Payload:
    """Return an input as batches take it; None for one that is left out."""
    if array is None:
        return None
    if spec.datatype == "BF16":
        # No buffer of it can be had.
        return array.tobytes()
    return array.reshape(-1).tolist() if spec.datatype == "BYTES" else np.ascontiguousarray(array)


class Outputs:
    """What a model answered to a batch.

    Args:
        arrays: the outputs, in the form's order.
        rows: of the batch, along the first axis of every output; 0 for the run of a single request, whose outputs keep
            the shapes that the runtime gave them.
    """

    __slots__ = ("_buffers", "arrays", "rows")

    def __init__(self, arrays: list[Array], rows: int) -> None:
        self.arrays = arrays
        self.rows = rows
        self._buffers: list[memoryview | list[bytes] | None] = [None] * len(arrays)

    def part(self, start: int, rows: int) -> list[Array]:
        """Return some rows of every output; all of it for the run of a single request."""
        if not self.rows:
            return self.arrays
        return [array[start : start + rows] for array in self.arrays]

    def raw(self, index: int, start: int, rows: int) -> memoryview | bytes:
        """Return some rows of an output as the wire has them; of numbers without a copy."""
        buffer = self._buffers[index]
        if buffer is None:
            buffer = self._buffers[index] = _wire_buffer(self.arrays[index])
        if isinstance(buffer, list):
            width = len(buffer) // self.rows if self.rows else len(buffer)
            return b"".join(buffer[start * width : (start + rows) * width] if self.rows else buffer)
        if rows == self.rows or not self.rows:
            return buffer
        width = len(buffer) // self.rows
        return buffer[start * width : (start + rows) * width]


def _wire_buffer(array: Array) -> memoryview | list[bytes]:
    """Return an array's bytes; for texts those of each."""
    if array.dtype.kind in "OUS":
        return packed_texts(array)
    # Seen as bytes: the buffer protocol does not know every dtype.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


@dataclass(eq=False, slots=True)
class Work:
    """One request on its way through a model.

    Args:
        form: what it may share a batch with.
        payloads: its inputs, in the model's order.
        rows: its batch; 1 where the model has none.
        done: called once, by whichever thread ran it, when `outputs` or `error` is set. Must not raise.
        size_bytes: what it takes while it waits.
        deadline: when nobody waits for it any more (monotonic).
        is_checked: whether the values of its floats were looked at already.
        started: when its bytes were there (monotonic).
        outputs, start: the answer of its batch, and the first of its rows in there.
        error: why there is none.
        is_gone: whether its caller went away.
        batch: the one that it is running in.
        span: of its call; None where nobody records it.
    """

    form: Form
    payloads: Sequence[Payload]
    rows: int
    done: "Callable[[Work], None]"
    size_bytes: int = 0
    deadline: float = FOREVER
    is_checked: bool = True
    started: float = field(default_factory=time.monotonic)
    outputs: Outputs | None = None
    start: int = 0
    error: LeptonError | None = None
    is_gone: bool = False
    batch: "Batch | None" = None
    span: Span | None = None

    def arrays(self) -> list[Array]:
        """Return its own rows of the outputs.

        Raises:
            LeptonError: it failed.
        """
        if self.error is not None:
            raise self.error
        assert self.outputs is not None
        return self.outputs.part(self.start, self.rows)


class Batch:
    """Requests that are run together.

    Args:
        works: they, all of one form.
        runs_aside: whether another thread than the one that reads requests runs it.
        options: through which another thread may end the run.
    """

    __slots__ = ("_waited_for", "began", "form", "has_overrun", "is_inline", "options", "times", "works")

    def __init__(self, works: list[Work], *, runs_aside: bool = False, options: ort.RunOptions | None = None) -> None:
        self.works = works
        self.form = works[0].form
        self.is_inline = not runs_aside
        self.options = options or ort.RunOptions()
        # Whether it was ended where it ran, so that those of its requests without an answer are to run elsewhere.
        self.has_overrun = False
        self.began = time.monotonic()
        self.times = BatchTimes(0.0, 0.0, 0.0)
        self._waited_for = len(works)
        for work in works:
            work.batch = self

    def leave(self) -> None:
        """One of its callers went away; the run ends where it stands when the last one did."""
        self._waited_for -= 1
        if not self._waited_for:
            self.end()

    def end(self) -> None:
        """Have ONNX Runtime end the run after the node that it is in."""
        self.options.terminate = True

    def is_overdue(self, now: float) -> bool:
        """Return whether the run is to end: it delays other requests, or nothing waits for it; now is monotonic."""
        if self.is_inline:
            return now - self.began > _LONGEST_INLINE_SECONDS
        return all(work.is_gone or work.deadline <= now for work in list(self.works))

    def run(self) -> None:
        """Run it: each of its requests has an answer or an error afterwards, unless `has_overrun`. Blocks."""
        waiting = [work for work in self.works if not _is_late(work, self.began)]
        if waiting:
            self._run(waiting)

    def _run(self, works: list[Work]) -> None:
        form = works[0].form
        rows = sum(work.rows for work in works)
        started = time.monotonic()
        try:
            feeds = _assemble(form, works, rows)
            refused = _refuse_values(form, works, feeds)
            if refused:
                return self._run_rest(works)
            assembled, cpu_began = time.monotonic(), time.thread_time()
            try:
                arrays = form.model.run(feeds, list(form.outputs), self.options)
            finally:
                ran = time.monotonic()
                if not self.is_inline or ran - assembled >= INLINE_SECONDS:
                    self._learn_time(works, rows, ran - assembled, cpu_began)
            _check_rows(form, arrays, rows, len(works))
        except LeptonError as error:
            if self.is_inline and self.options.terminate:
                self.has_overrun = True
                return None
            return self._isolate(works, error)
        # The rows of a single request are never cut: what its outputs' first axis is only the runtime knows.
        outputs = Outputs(arrays, rows if len(works) > 1 else 0)
        start = 0
        for work in works:
            work.outputs, work.start = outputs, start
            start += work.rows
        form.model.learn(rows, ran - assembled)
        if not self.is_inline:
            # Of the short runs, which are done at once, larger ones are always better. Putting images together may
            # cost more than running them so gains.
            form.sizes.learn(rows, ran - started)
        before = self.times
        self.times = BatchTimes(before.input_seconds + assembled - started, before.infer_seconds + ran - assembled, 0.0)
        return None

    def _learn_time(self, works: list[Work], rows: int, seconds: float, cpu_began: float) -> None:
        form, model = self.form, self.form.model
        if seconds >= INLINE_SECONDS and model.is_on_processor:
            # The run's thread may have waited for a core.
            seconds = time.thread_time() - cpu_began
        text_bytes = sum(work.size_bytes for work in works) if form.has_texts else 0
        if form.times.learn(rows, text_bytes, seconds):
            model.has_bounded_cost = False

    def _run_rest(self, works: list[Work]) -> None:
        rest = [work for work in works if work.error is None]
        if rest:
            self._run(rest)

    def _isolate(self, works: list[Work], error: LeptonError) -> None:
        """Run a batch that failed in halves, until the requests that make it fail stand alone."""
        if len(works) == 1:
            work = works[0]
            is_ended = self.options.terminate and isinstance(error, Internal)
            # Ended for its sake, or before it could begin.
            work.error = (_lateness(work, time.monotonic()) or error) if is_ended else error
            return
        middle = len(works) // 2
        self._run(works[:middle])
        self._run(works[middle:])


def _is_late(work: Work, now: float) -> bool:
    work.error = _lateness(work, now)
    return work.error is not None


def _lateness(work: Work, now: float) -> LeptonError | None:
    if work.is_gone:
        return Cancelled("the caller went away")
    return DeadlineExceeded("the call took longer than its deadline allows") if work.deadline <= now else None


def _assemble(form: Form, works: list[Work], rows: int) -> dict[str, Array]:
    if len(works) == 1:
        columns: Any = [(payload,) for payload in works[0].payloads]
    else:
        columns = zip(*[work.payloads for work in works], strict=True)
    return {
        spec.name: _tensor(spec.datatype, parts, shape if shape[:1] != (-1,) else (rows, *shape[1:]))
        for spec, shape, parts in zip(form.model.inputs.values(), form.shapes, columns, strict=True)
        if shape != _ABSENT
    }


def _tensor(datatype: str, parts: Sequence[Payload], shape: tuple[int, ...]) -> Array:
    if datatype == "BYTES":
        return _texts(parts, shape)
    buffer: Any = parts[0] if len(parts) == 1 else b"".join(parts)
    if isinstance(buffer, np.ndarray):
        tensor: Array = buffer.reshape(shape)
        return tensor
    array: Array
    if datatype == "BOOL":
        array = np.ndarray(shape, np.uint8, buffer)
        # Of an array without axes numpy returns a scalar, which is no array.
        return np.asarray(np.not_equal(array, 0))
    array = np.ndarray(shape, WIRE_TYPES[datatype], buffer)
    # Where a request's tensor begins is the wire's accident; kernels may count on whole words.
    return array if array.flags.aligned else array.copy()


def _texts(parts: Sequence[list[Any]], shape: tuple[int, ...]) -> Array:
    texts = parts[0] if len(parts) == 1 else [text for part in parts for text in part]
    if any(isinstance(text, bytes) for text in texts):
        # What is not UTF-8 goes as it is.
        whole = [text if isinstance(text, bytes) else text.encode() for text in texts]
        return np.array(whole, dtype=np.bytes_).reshape(shape)
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array.reshape(shape)


def _refuse_values(form: Form, works: list[Work], feeds: dict[str, Array]) -> bool:
    """Give an error to each request whose floats are not to be run; return whether there is one.

    A batch's floats are looked at as one array: most are fine, and looking at each request's costs more than its run.
    """
    if all(work.is_checked for work in works):
        return False
    refused = False
    for spec in form.model.inputs.values():
        array = feeds[spec.name]
        if not spec.is_column or array.dtype.kind != "f" or _is_finite(array):
            continue
        start = 0
        for work in works:
            part = array[start : start + work.rows] if form.is_batched else array
            start += work.rows
            try:
                check_values(part, spec, form.model)
            except LeptonError as error:
                work.error = error
                refused = True
    for work in works:
        work.is_checked = True
    return refused


def _is_finite(array: Array) -> bool:
    if array.size > _LARGE:
        # One infinity or NaN makes the sum one, and summing takes half as long as looking at each.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(array.sum()):
                return True
    return bool(np.isfinite(array).all())


def _check_rows(form: Form, arrays: list[Array], rows: int, works: int) -> None:
    if works > 1 and any(array.shape[:1] != (rows,) for array in arrays):
        form.model.refuse_batches("an output does not have one row for each row of a batch")
        raise Internal(f"model {form.model.deployment!r} does not answer a batch by rows", reason="MODEL_FAULT")
