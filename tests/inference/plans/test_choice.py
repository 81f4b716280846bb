"""The choice among measured plans, and what a batch costs."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.inference.plans.candidates import PLAIN, Candidate, find_candidate, simplicity
from services.inference.plans.choice import (
    LEAST_GAIN,
    Timing,
    best_threads,
    in_order,
    speedup,
)
from services.inference.serving.batch_cost import best_batch, fit_cost

_NAMES = ("extended", "fused", "int8_dynamic", "fused_int8_dynamic", "int8_static")


def _candidate(name: str) -> Candidate:
    found = find_candidate(name)
    assert found is not None
    return found


def _timing(name: str, gain: float) -> Timing:
    return Timing(_candidate(name), {1: 1.0 / gain, 8: 4.0 / gain})


_PLAIN = Timing(PLAIN, {1: 1.0, 8: 4.0})


def test_speedup_is_the_mean_over_batches() -> None:
    assert speedup(Timing(_candidate("fused"), {1: 0.5, 8: 1.0}), _PLAIN) == pytest.approx(8**0.5)
    assert speedup(Timing(_candidate("fused"), {2: 0.5}), _PLAIN) == 0.0


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ({"int8_dynamic": 2.4, "int8_static": 1.5}, ["int8_dynamic", "int8_static"]),
        # As fast: the simpler one.
        ({"int8_static": 2.45, "int8_dynamic": 2.4}, ["int8_dynamic", "int8_static"]),
        # Too small a gain is none.
        ({"fused": 1.04, "int8_dynamic": 0.7}, []),
        ({"fused": 1.3, "fused_int8_dynamic": 2.0}, ["fused_int8_dynamic", "fused"]),
    ],
)
def test_fastest_comes_first_and_near_ties_go_to_the_simpler(gains: dict[str, float], expected: list[str]) -> None:
    ordered = in_order([_timing(name, gain) for name, gain in gains.items()], _PLAIN)
    assert [timing.candidate.name for timing in ordered] == expected


@given(st.dictionaries(st.sampled_from(_NAMES), st.floats(0.2, 20.0)))
# Each is as fast as the next, and the first is not as fast as the last.
@example({"extended": 18.5, "int8_dynamic": 19.5, "fused": 19.0})
def test_next_is_the_simplest_of_those_as_fast_as_the_fastest_left(gains: dict[str, float]) -> None:
    ordered = in_order([_timing(name, gain) for name, gain in gains.items()], _PLAIN)
    assert {timing.candidate.name for timing in ordered} == {
        name for name in gains if speedup(_timing(name, gains[name]), _PLAIN) >= LEAST_GAIN
    }
    for place, timing in enumerate(ordered):
        fastest = max(speedup(left, _PLAIN) for left in ordered[place:])
        near = [left.candidate for left in ordered[place:] if speedup(left, _PLAIN) * LEAST_GAIN >= fastest]
        assert timing.candidate == min(near, key=simplicity)


def test_best_batch_is_where_throughput_stops_growing() -> None:
    assert best_batch({1: 0.01, 2: 0.011, 4: 0.013, 8: 0.02, 16: 0.0395, 32: 0.078}) == 8
    assert best_batch({4: 1.0}) == 4


@given(st.floats(0, 1e-1), st.floats(1e-7, 1e-2))
def test_cost_of_a_line_is_found_again(fixed: float, per_row: float) -> None:
    found = fit_cost({rows: fixed + per_row * rows for rows in (1, 2, 4, 8, 16)})
    assert found == pytest.approx((fixed, per_row), rel=1e-4, abs=1e-9)


@given(st.dictionaries(st.integers(1, 64), st.floats(1e-6, 1.0), min_size=1))
def test_cost_is_never_below_nothing(seconds: dict[int, float]) -> None:
    fixed, per_row = fit_cost(seconds)
    assert fixed >= 0
    assert per_row >= 0


def test_more_threads_are_taken_only_where_the_cores_lose_next_to_nothing() -> None:
    assert best_threads({1: 1.0, 2: 0.52, 4: 0.4}) == 2
    assert best_threads({1: 1.0, 2: 0.9}) == 1
    assert best_threads({2: 1.0}) == 2
