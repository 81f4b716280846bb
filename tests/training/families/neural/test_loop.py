"""The loop's own: its schedules and its order of rows."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.training.domain.families.neural.batches import Batches, Rows
from services.training.domain.families.neural.loop import step_share


def _rows(count: int) -> Rows:
    return Rows(torch.arange(count).reshape(-1, 1).float(), torch.arange(count))


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 2**62))
def test_every_row_comes_once_a_pass(count: int, size: int, seed: int) -> None:
    batches = Batches(_rows(count), size, seed)
    for _ in range(2):
        goals = torch.cat([goals for _, goals in batches])
        assert sorted(goals.tolist()) == list(range(count))
    assert len(batches) == len(list(batches))


def test_order_is_of_the_seed_and_the_pass() -> None:
    def order(batches: Batches) -> list[int]:
        return [int(goal) for _, goals in batches for goal in goals]

    first, again = Batches(_rows(50), 8, 1), Batches(_rows(50), 8, 1)
    passes = [order(first), order(first)]
    assert passes == [order(again), order(again)]
    assert passes[0] != passes[1]
    # One that goes on from a pass draws the same as one that never stopped.
    assert order(Batches(_rows(50), 8, 1, passes=1)) == passes[1]
    assert order(Batches(_rows(50), 8)) == list(range(50))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_step_size_grows_then_falls(schedule: str) -> None:
    shares = [step_share(schedule, step, 10, 100) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10] == 1.0
    assert all(before >= after for before, after in itertools.pairwise(shares[10:]))
    assert shares[-1] == (1.0 if schedule == "constant" else pytest.approx(0.0, abs=0.02))
    assert step_share(schedule, 0, 0, 1) == 1.0
