"""Which runs happen on the thread that reads requests, and what ends those that overran."""

import threading
import time

import numpy as np

from servicekit.errors import DeadlineExceeded
from services.inference.serving.batches import find_form
from services.inference.serving.run_times import INLINE_SECONDS, RunTimes
from tests.inference.models import identity
from tests.inference.test_batcher import Asked, _floats
from tests.inference.test_limits import counting

_SHORT, _LONG = INLINE_SECONDS / 2, INLINE_SECONDS * 2


def test_a_size_that_was_not_run_yet_is_not_short() -> None:
    times = RunTimes()
    assert not times.are_short(0)
    times.learn(8, 0, _SHORT)
    assert times.are_short(8)
    assert times.are_short(1)
    assert not times.are_short(9)


def test_a_size_that_was_long_once_stays_long() -> None:
    times = RunTimes()
    for _ in range(400):
        times.learn(8, 0, _SHORT)
    times.learn(4, 0, _LONG)
    for _ in range(4000):
        times.learn(8, 0, _SHORT)
    assert times.are_short(3)
    assert not times.are_short(4)
    assert not times.are_short(8)


def test_texts_are_short_up_to_the_size_that_was_run() -> None:
    times = RunTimes()
    times.learn(1, 3, _SHORT)
    assert times.are_short(1, 1000)
    assert not times.are_short(1, 1 << 20)
    times.learn(1, 1 << 20, _SHORT)
    assert times.are_short(1, 1 << 20)
    times.learn(1, 1 << 19, _LONG)
    assert times.are_short(1, 1000)
    assert not times.are_short(1, 1 << 19)


def test_a_run_that_was_far_longer_than_its_size_shows_that_times_depend_on_values() -> None:
    times = RunTimes()
    assert not times.learn(1, 0, 1.0)
    times = RunTimes()
    times.learn(1, 0, _SHORT)
    assert times.learn(1, 0, 1.0)


def test_a_new_shape_runs_aside_first_and_at_once_when_it_was_short() -> None:
    asked, model = Asked(), identity("FP32", columns=-1)
    threads: list[int] = []
    for width in (5, 5):
        form, _ = find_form(model, tuple(model.outputs), {"x": np.ones((1, width), np.float32)})
        form.model.run_seconds = 0.0
        work = asked.ask(model, np.ones((1, width), np.float32))
        done = work.done

        def note(work: object, done: object = done) -> None:
            threads.append(threading.get_ident())
            done(work)  # type: ignore[operator]

        work.done = note
        asked.finish()
    assert threads[0] != threading.get_ident()
    # A machine that was slow for this run, too, leaves it to the threads.
    assert (threads[1] == threading.get_ident()) == form.times.are_short(1)


def test_values_that_make_a_graph_long_keep_it_off_the_reading_thread() -> None:
    model = counting()
    assert not model.has_bounded_cost


def test_an_inline_run_that_overruns_goes_on_in_a_thread() -> None:
    asked, model = Asked(), counting()
    # As if the graph had hidden its loop.
    model.has_bounded_cost, model.run_seconds = True, 0.0
    form, _ = find_form(model, tuple(model.outputs), {"n": np.array(1)})
    form.times.learn(1, 0, 0.0)
    assert form.times.are_short(1)
    long = asked.ask(model, np.array(1 << 40), deadline=time.monotonic() + 3600)
    # Comes back, although the model counts for hours.
    asked.batcher.flush()
    assert long.error is None
    assert long.outputs is None
    assert model.in_flight == 1
    asked.batcher.cancel(long)
    asked.finish()
    assert long.is_gone


def test_a_run_ends_when_the_deadline_of_each_of_its_requests_has_passed() -> None:
    asked, model = Asked(), counting()
    late = asked.ask(model, np.array(1 << 40), deadline=time.monotonic() + 0.3)
    asked.finish()
    assert isinstance(late.error, DeadlineExceeded)
    assert model.in_flight == 0


def test_a_model_that_waits_behind_long_runs_of_another_gets_a_thread_of_its_own() -> None:
    asked, long, other = Asked(slots=1), counting(), identity("FP32")
    other.run_seconds = 1.0
    counted = asked.ask(long, np.array(1 << 40))
    asked.batcher.flush()
    answered = asked.ask(other, _floats(2))
    asked.batcher.flush()
    with asked._done:
        assert asked._done.wait_for(lambda: asked.answered == 1, 60)
    assert np.array_equal(answered.arrays()[0], _floats(2))
    assert counted.outputs is None
    asked.batcher.cancel(counted)
    asked.finish()
