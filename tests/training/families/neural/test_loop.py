"""The loop's own: its schedules and its order of rows."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from servicekit.errors import InvalidArgument
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.model import Run
from services.training.domain.families.neural.batches import Batches, Rows
from services.training.domain.families.neural.loop import step_share, train_network
from services.training.domain.families.neural.snapshot import Snapshot
from tests.training.families.neural.test_checkpoints import Kept


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


def _one_pass(loss: Callable[[torch.Tensor], torch.Tensor], kept: Kept, batch_size: int = 8) -> nn.Module:
    """Train a network by a single pass over eight rows."""
    settings = resolve_hyperparameters("mlp", {"epochs": 1, "gradient_clip": 0.0, "batch_size": batch_size})
    network = nn.Linear(1, 1)
    run = Run(settings, 0, lambda _: None, lambda: False, checkpoints=kept)
    train_network(network, lambda found, _: loss(found), _rows(8), run)
    return network


def _of_infinite_slope(found: torch.Tensor) -> torch.Tensor:
    """Return 0, as long as what was found are numbers."""
    return (found - found.detach()).sum().sqrt()


@pytest.mark.parametrize(
    ("batch_size", "words"),
    [(8, "a weight is no longer a number after the last batch"), (4, "the loss is no longer a number at batch 2")],
)
def test_step_that_leaves_no_numbers_is_told_and_takes_the_place_of_no_checkpoint(batch_size: int, words: str) -> None:
    kept = Kept()
    with pytest.raises(InvalidArgument, match=f"{words}.*: lower learning_rate") as caught:
        _one_pass(_of_infinite_slope, kept, batch_size)
    assert caught.value.reason == "LOSS_DIVERGED"
    # What was kept before that step.
    (before,) = kept.kept
    assert all(bool(value.isfinite().all()) for value in Snapshot.from_bytes(before.content).network.values())


def test_last_step_that_leaves_numbers_is_none_of_that() -> None:
    assert all(bool(weight.isfinite().all()) for weight in _one_pass(torch.mean, Kept()).parameters())
