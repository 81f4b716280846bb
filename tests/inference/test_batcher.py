"""Batches: each request gets its own rows, fails alone, leaves when its caller does, and waits within bounds."""

import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lepton.v1 import registry_pb2
from servicekit.errors import Cancelled, DeadlineExceeded, InvalidArgument, ResourceExhausted
from services.inference.serving.admission import Admission
from services.inference.serving.batcher import Batcher, QueueLimits, linger_seconds
from services.inference.serving.batches import Form, Work, find_form, to_payload
from services.inference.serving.loading import load_model
from services.inference.serving.model import Array, LoadedModel
from tests.inference.graph_texts import load_text
from tests.inference.models import columns, identity
from tests.inference.test_limits import counting
from tests.support.onnx_models import fixed_batch_model


def looking_up() -> LoadedModel:
    """Return a model that looks its input up in a table of four, and fails on any other index."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        "look up",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array([10, 11, 12, 13], np.float32), "table")],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    return load_model("look-up", registry_pb2.Version(number=1), content)


def mixing() -> LoadedModel:
    """Return a model whose rows depend on each other: each is divided by their sum."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "one"], ["more"]),
            helper.make_node("ReduceSum", ["more"], ["sum"], keepdims=1),
            helper.make_node("Div", ["more", "sum"], ["y"]),
        ],
        "mixing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array([1.0], np.float32), "one")],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    return load_model("mixing", registry_pb2.Version(number=1), content)


class Asked:
    """A batcher, and what was asked of it."""

    def __init__(self, limits: QueueLimits | None = None, most: int = 1000, slots: int = 1) -> None:
        self.batcher = Batcher(lambda: slots, Admission(most), limits)
        self.works: list[Work] = []
        self._done = threading.Condition()
        self.answered = 0

    def ask(self, model: LoadedModel, *arrays: Array, **fields: Any) -> Work:
        """Queue a request; it waits for the flush."""
        inputs = dict(zip(model.inputs, arrays, strict=True))
        form, rows = find_form(model, tuple(model.outputs), inputs)
        payloads = [to_payload(inputs[name], spec) for name, spec in model.inputs.items()]
        size = sum(array.nbytes for array in arrays)
        work = Work(form, payloads, rows, self._take, size_bytes=size, **fields)
        self.batcher.submit(work)
        self.works.append(work)
        return work

    def finish(self) -> None:
        """Run all, and wait until each is answered."""
        self.batcher.flush()
        with self._done:
            assert self._done.wait_for(lambda: self.answered == len(self.works), 120)

    def _take(self, work: Work) -> None:
        with self._done:
            self.answered += 1
            self._done.notify_all()


def _floats(rows: int, first: float = 0.0) -> Array:
    return np.arange(first, first + rows * 3, dtype=np.float32).reshape(rows, 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["FP32", "BYTES", "BOOL"])), min_size=1, max_size=12))
def test_each_request_gets_exactly_its_own_rows(requests: list[tuple[int, str]]) -> None:
    models = {kind: identity(kind) for kind in ("FP32", "BYTES", "BOOL")}
    asked = Asked()
    sent = []
    for place, (rows, kind) in enumerate(requests):
        array: Array = _floats(rows, place * 100)
        if kind == "BYTES":
            array = np.array([f"text {value}" for value in array.reshape(-1)], dtype=object).reshape(array.shape)
        if kind == "BOOL":
            array = array % 2 == 0
        sent.append(array)
        asked.ask(models[kind], array)
    asked.finish()
    for work, array in zip(asked.works, sent, strict=True):
        found = work.arrays()[0]
        assert found.shape == array.shape
        assert np.array_equal(found, array)
        assert work.outputs is not None
        raw = work.outputs.raw(0, work.start, work.rows)
        if array.dtype != object:
            assert bytes(raw) == array.tobytes()


def test_what_came_together_runs_together() -> None:
    asked, model = Asked(), identity("FP32")
    for place in range(5):
        asked.ask(model, _floats(2, place))
    asked.finish()
    assert (model.statistics.executions, model.statistics.requests, model.statistics.rows) == (1, 5, 10)
    assert list(model.statistics.sizes) == [10]
    assert (model.in_flight, model.waiting, model.waiting_rows) == (0, 0, 0)


def test_batches_are_capped_by_rows_and_a_larger_request_runs_alone() -> None:
    asked, model = Asked(), identity("FP32")
    model.batch_rows = 4
    for rows in (3, 1, 2, 9, 4):
        asked.ask(model, _floats(rows))
    asked.finish()
    assert sorted(model.statistics.sizes) == [2, 4, 9]
    assert [len(work.arrays()[0]) for work in asked.works] == [3, 1, 2, 9, 4]


def test_poisoned_request_fails_alone() -> None:
    asked, model = Asked(), looking_up()
    for index in (0, 1, 99, 2, 3, 77):
        asked.ask(model, np.array([[index]], np.int64))
    asked.finish()
    good = [work.arrays()[0].item() for work in asked.works if work.error is None]
    assert good == [10, 11, 12, 13]
    failed = [place for place, work in enumerate(asked.works) if isinstance(work.error, InvalidArgument)]
    assert failed == [2, 5]
    assert dict(model.statistics.errors) == {"INPUT_REJECTED": 2}
    # The callers' mistakes are none of the version's.
    assert model.release.measured().failed == 0


def test_request_without_rows_beside_a_poisoned_one_harms_nobody() -> None:
    asked, model = Asked(), looking_up()
    # Left to a thread: batches that run aside are learnt from.
    model.run_seconds = 1.0
    for indices in ([], [99], [1]):
        asked.ask(model, np.array(indices, np.int64).reshape(-1, 1))
    asked.finish()
    assert asked.works[0].arrays()[0].shape == (0, 1)
    assert [getattr(work.error, "reason", "") for work in asked.works] == ["", "INPUT_REJECTED", ""]
    assert asked.works[2].arrays()[0].item() == 11


def test_infinity_that_was_not_looked_for_yet_is_refused_alone() -> None:
    asked, model = Asked(), columns()
    for amount in (1.0, float("inf"), 3.0):
        asked.ask(model, np.array([[amount]]), np.array([["car"]], dtype=object), is_checked=False)
    asked.finish()
    assert isinstance(asked.works[1].error, InvalidArgument)
    assert [asked.works[place].arrays()[0].item() for place in (0, 2)] == [1.0, 3.0]


def test_rows_of_other_lengths_run_apart() -> None:
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axis"], ["y"], keepdims=1)],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    model = load_model("sum", registry_pb2.Version(number=1), content)
    asked = Asked()
    for length in (2, 3, 2, 3, 3):
        asked.ask(model, np.ones((1, length), np.float32))
    asked.finish()
    assert [work.arrays()[0].item() for work in asked.works] == [2, 3, 2, 3, 3]
    assert model.statistics.executions == 2


@pytest.mark.parametrize("model", [mixing(), load_model("fixed", registry_pb2.Version(number=1), fixed_batch_model())])
def test_model_whose_rows_are_not_its_own_is_not_batched(model: LoadedModel) -> None:
    assert not model.is_batchable
    asked = Asked()
    width = 2 if model.deployment == "fixed" else 1
    for value in (1.0, 2.0, 3.0):
        asked.ask(model, np.full((1, width), value, np.float32))
    asked.finish()
    assert model.statistics.executions == 3
    assert all(work.error is None for work in asked.works)


def test_a_batch_with_another_number_of_rows_is_run_again_one_by_one_and_was_the_last() -> None:
    model = load_text("g (float[N,T,2] x) => (float[M,2] y) <int64[2] s = {-1,2}> { y = Reshape(x, s) }")
    # As if the analysis and the trials had been wrong.
    model.is_by_row = True
    asked = Asked()
    for value in (1.0, 2.0, 3.0):
        asked.ask(model, np.full((1, 2, 2), value, np.float32))
    asked.finish()
    for work, value in zip(asked.works, (1.0, 2.0, 3.0), strict=True):
        assert np.array_equal(work.arrays()[0], np.full((2, 2), value, np.float32))
    assert model.batching == "not batched: an output does not have one row for each row of a batch"
    assert not model.is_batchable


def test_queue_is_bounded_in_requests_and_bytes_and_says_when_to_come_back() -> None:
    model = identity("FP32")
    asked = Asked(QueueLimits(requests=3, size_bytes=1 << 30))
    for _ in range(3):
        asked.ask(model, _floats(1))
    with pytest.raises(ResourceExhausted, match="3 requests wait") as full:
        asked.ask(model, _floats(1))
    assert full.value.retry_seconds
    asked.finish()
    asked.ask(model, _floats(1))
    asked.finish()

    asked = Asked(QueueLimits(requests=100, size_bytes=100))
    asked.ask(model, _floats(50))
    with pytest.raises(ResourceExhausted, match="bytes"):
        asked.ask(model, _floats(1))
    asked.finish()


def test_request_over_the_admission_limit_is_refused() -> None:
    asked, model = Asked(most=2), identity("FP32")
    asked.ask(model, _floats(1))
    asked.ask(model, _floats(1))
    with pytest.raises(ResourceExhausted, match="the limit is 2"):
        asked.ask(model, _floats(1))
    asked.finish()
    asked.ask(model, _floats(1))
    asked.finish()


def test_deadline_that_passed_in_the_queue_is_honoured() -> None:
    asked, model = Asked(), identity("FP32")
    late = asked.ask(model, _floats(1), deadline=time.monotonic() - 0.001)
    asked.ask(model, _floats(1), deadline=time.monotonic() + 600)
    asked.finish()
    assert isinstance(late.error, DeadlineExceeded)
    assert asked.works[1].error is None
    assert model.statistics.rows == 1


def test_caller_that_goes_away_leaves_its_batch() -> None:
    asked, model = Asked(), identity("FP32")
    gone, stays = asked.ask(model, _floats(1)), asked.ask(model, _floats(1))
    asked.batcher.cancel(gone)
    asked.finish()
    assert isinstance(gone.error, Cancelled)
    assert stays.error is None
    assert model.statistics.rows == 1
    assert model.in_flight == 0


def test_long_run_ends_when_nobody_waits_for_it_and_the_next_one_begins() -> None:
    asked, model = Asked(), counting()
    long = asked.ask(model, np.array(1 << 40))
    asked.batcher.flush()
    short = asked.ask(model, np.array(1))
    asked.batcher.flush()
    time.sleep(0.05)
    asked.batcher.cancel(long)
    # Days before it has counted to its end.
    asked.finish()
    assert isinstance(long.error, Cancelled)
    assert short.error is None


def test_lone_request_is_not_kept_and_one_of_a_stream_is_while_that_saves_more_than_it_costs() -> None:
    model = identity("FP32")
    model.fixed_seconds, model.batch_rows = 0.002, 8
    form = Form(model, ("y",), ((-1, 3),), True)
    work = Work(form, [b""], 1, lambda _: None)

    def wait(waiting: int, arrival_seconds: float) -> float:
        form.queue.clear()
        form.queue.extend([work] * waiting)
        form.rows, form.arrival_seconds = waiting, arrival_seconds
        return linger_seconds(form)

    assert wait(1, 1.0) == 0.0
    assert wait(1, 0.0005) == 0.001
    assert wait(3, 0.0005) == 0.001
    # Four that wait half a millisecond each lose as much as the run costs.
    assert wait(4, 0.0005) == 0.0
    # A full batch has nothing to wait for.
    assert wait(8, 0.00001) == 0.0


def test_request_that_was_long_in_coming_does_not_end_the_waiting_for_others() -> None:
    model = identity("FP32")
    model.fixed_seconds, model.run_seconds = 0.002, 1.0
    asked = Asked()
    first = time.monotonic()
    for place in range(100):
        form = asked.ask(model, _floats(1), started=first + 0.0005 * place).form
    asked.ask(model, _floats(1), started=first - 60.0)
    assert 0.0005 <= form.arrival_seconds < 0.001
    asked.finish()


def test_request_left_to_a_thread_is_run_there_whatever_is_learnt_meanwhile() -> None:
    asked, busy, other = Asked(), counting(), identity("FP32")
    other.run_seconds = 1.0
    asked.ask(busy, np.array(3_000_000))
    asked.batcher.flush()
    asked.ask(other, _floats(1))
    asked.batcher.flush()
    # Quick after all: nobody flushes once more for its sake.
    other.run_seconds = other.row_seconds = 0.0
    with asked._done:
        assert asked._done.wait_for(lambda: asked.answered == 2, 120)
    assert all(work.error is None for work in asked.works)


def test_runs_of_more_threads_than_there_are_cores_go_on_one_at_a_time() -> None:
    asked = Asked(slots=0)
    for _ in range(3):
        asked.ask(counting(), np.array(1))
    asked.finish()
    assert all(work.error is None for work in asked.works)


def test_many_threads_ask_at_once() -> None:
    asked, model = Asked(slots=2), identity("FP32")

    def client(first: int) -> None:
        for place in range(50):
            array = _floats(1, first * 1000 + place)
            answered: queue.Queue[Work] = queue.Queue()
            form, rows = find_form(model, tuple(model.outputs), {"x": array})
            work = Work(form, [to_payload(array, model.inputs["x"])], rows, answered.put)
            asked.batcher.submit(work)
            asked.batcher.flush()
            assert answered.get(timeout=120) is work
            assert np.array_equal(work.arrays()[0], array)

    _together([threading.Thread(target=client, args=(first,)) for first in range(8)])
    assert model.statistics.requests == 400
    assert (model.in_flight, model.waiting) == (0, 0)


def _together(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
