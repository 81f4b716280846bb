"""How large batches are, learnt from what they take: simulated runs, no clock."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.serving.batch_sizes import BatchSizes


def _settled(seconds: Callable[[int], float], waiting: int, limit: int = 64, runs: int = 40) -> list[int]:
    """Return the rows of each run of a queue that always holds so many."""
    sizes = BatchSizes()
    found = []
    for _ in range(runs):
        rows = min(sizes.most(limit, waiting), waiting)
        sizes.learn(rows, seconds(rows))
        found.append(rows)
    return found


def test_all_that_waits_goes_together_where_runs_cost_the_same_whatever_their_rows() -> None:
    assert _settled(lambda rows: 0.01, 32)[-10:] == [32] * 10


def test_rows_that_gain_nothing_together_run_alone() -> None:
    assert _settled(lambda rows: 0.01 * rows, 32)[-10:] == [1] * 10


def test_best_size_between_is_found_and_kept() -> None:
    # 16 rows fill a cache; beyond, each row costs half as much again.
    found = _settled(lambda rows: 0.002 + 0.001 * rows + 0.0006 * max(0, rows - 16) * rows / 16, 32)
    assert found[-10:] == [16] * 10
    assert set(found) == {32, 16, 8}


def test_what_was_learnt_of_few_rows_does_not_bound_many() -> None:
    sizes = BatchSizes()
    for _ in range(10):
        sizes.learn(1, 0.01)
    assert sizes.most(64, 32) == 64


def test_size_that_was_slow_once_is_tried_again() -> None:
    sizes = BatchSizes()
    sizes.learn(16, 10.0)
    sizes.learn(8, 0.01)
    assert sizes.most(64, 32) == 4
    sizes.learn(4, 0.01)
    for _ in range(600):
        rows = min(sizes.most(64, 32), 32)
        sizes.learn(rows, 0.01)
    assert sizes.most(64, 32) == 32


@given(
    st.lists(st.tuples(st.integers(1, 200), st.floats(1e-6, 10.0)), max_size=50),
    st.integers(1, 128),
    st.integers(1, 1000),
)
def test_batch_is_never_empty_nor_beyond_the_limit(runs: list[tuple[int, float]], limit: int, waiting: int) -> None:
    sizes = BatchSizes()
    for rows, seconds in runs:
        sizes.learn(rows, seconds)
    assert 1 <= sizes.most(limit, waiting) <= limit


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (3, 4), (5, 4), (6, 8), (31, 32), (22, 16), (23, 32), (64, 64)])
def test_sizes_between_count_as_the_nearest_power_of_two(rows: int, size: int) -> None:
    sizes = BatchSizes()
    sizes.learn(rows, 1.0)
    # Its half is what it asks for next.
    assert sizes.most(1024, 1) == max(size // 2, 1)
