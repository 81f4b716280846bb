"""Processes side by side: their parts of a batch together are the batch, and each counts by its share."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, multiprocessing, nn

from servicekit.errors import InvalidArgument
from services.training.domain.families.catalog import FAMILIES, resolve_hyperparameters
from services.training.domain.families.model import Run
from services.training.domain.families.neural.batches import Batches, Rows
from services.training.domain.families.neural.loop import train_here
from services.training.domain.families.neural.ranks import RankBatches, Ranks, share_buffers, weight_of
from services.training.domain.families.neural.synchronised import SynchronisedBatchNorm2d
from services.training.domain.families.neural.training import Training
from services.training.domain.families.text.embedder import ContrastiveLoss


def _batches(count: int, size: int, seed: int, rank: int, ranks: int) -> RankBatches:
    rows = Rows(torch.arange(count).reshape(-1, 1).float(), torch.arange(count) % 3)
    return RankBatches(Batches(rows, size, seed), Ranks(rank, ranks), weight_of(nn.CrossEntropyLoss()))


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 7), st.integers(0, 2**62))
def test_parts_of_all_ranks_are_the_batch(count: int, size: int, ranks: int, seed: int) -> None:
    rows = Rows(torch.arange(count).reshape(-1, 1).float(), torch.arange(count) % 3)
    whole = list(Batches(rows, size, seed))
    of_ranks = [list(_batches(count, size, seed, rank, ranks)) for rank in range(ranks)]
    assert [len(parts) for parts in of_ranks] == [len(whole)] * ranks
    for place, (inputs, goals) in enumerate(whole):
        parts = [parts[place] for parts in of_ranks]
        counting = [part for part in parts if part[2] > 0]
        assert torch.cat([part[0] for part in counting]).equal(inputs)
        assert torch.cat([part[1] for part in counting]).equal(goals)
        # Whoever has no row takes part by one that counts nothing.
        assert all(len(part[0]) == 1 for part in parts if part[2] == 0)
        sizes = [len(part[0]) for part in counting]
        assert max(sizes) - min(sizes) <= 1
        assert sum(part[2] for part in parts) == pytest.approx(ranks)
        assert {part[3] for part in parts} == {len(inputs)}


@pytest.mark.parametrize("weights", [None, [0.2, 1.0, 5.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_mean_of_the_ranks_losses_is_the_loss_of_the_batch(
    ranks: int, smoothing: float, weights: list[float] | None
) -> None:
    torch.manual_seed(0)
    odds, goals = torch.randn(32, 3, dtype=torch.float64), torch.randint(0, 3, (32,))
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    loss = nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
    parts = [next(iter(RankBatches([(odds, goals)], Ranks(rank, ranks), weight_of(loss)))) for rank in range(ranks)]
    mean = sum(float(loss(inputs, part)) * share for inputs, part, share, _ in parts) / ranks
    assert mean == pytest.approx(float(loss(odds, goals)), rel=1e-12)


def test_loss_that_compares_rows_is_not_taken_of_parts() -> None:
    loss, ids = ContrastiveLoss(0.05), torch.tensor([[0, 1], [2, 3]])
    vectors = nn.functional.normalize(torch.randn(2, 2, 4), dim=2)
    # Why: a part of one row has nothing to tell it apart from.
    assert float(loss(vectors[:1], ids[:1])) == 0.0
    training = Training(nn.Linear(4, 4), loss, Rows(vectors, ids))
    run = Run(resolve_hyperparameters("transformer", {"task": "embedding"}), 0, lambda _: None, lambda: False)
    with pytest.raises(InvalidArgument, match="one worker") as refused:
        train_here(training, run, Ranks(0, 2))
    assert refused.value.reason == "ONE_WORKER_ONLY"


def test_what_is_drawn_at_a_step_is_of_the_seed_the_step_and_the_rank() -> None:
    def drawn(rank: int, seed: int, epoch: int, batch: int) -> float:
        with torch.random.fork_rng(devices=[]):
            Ranks(rank, 2).seed(seed, epoch, batch)
            return float(torch.rand(()))

    assert drawn(0, 1, 2, 3) == drawn(0, 1, 2, 3)
    places = [(0, 1, 2, 3), (1, 1, 2, 3), (0, 2, 2, 3), (0, 1, 3, 3), (0, 1, 2, 4)]
    assert len({drawn(*place) for place in places}) == len(places)


def test_networks_are_the_families_that_train_by_steps() -> None:
    networks = {family.name for family in FAMILIES.values() if family.is_network}
    assert {"mlp", "cnn", "transformer"} <= networks
    assert networks.isdisjoint({"linear_regression", "logistic_regression", "boosted_trees"})


def _share(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    norm = nn.BatchNorm2d(3)
    # Each has seen rows of its own.
    norm(torch.full((2, 3, 4, 4), float(rank)) + torch.arange(2).view(2, 1, 1, 1))
    share_buffers(norm)
    torch.save(norm.state_dict(), f"{folder}/{rank}")
    distributed.destroy_process_group()


def test_all_ranks_take_the_first_ones_buffers(tmp_path: Path) -> None:
    multiprocessing.spawn(_share, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert first["running_mean"].tolist() == pytest.approx([0.05] * 3)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_synchronised_batch_normalization_of_one_rank_is_torchs_own(tmp_path: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        images = torch.randn(5, 3, 4, 6) * 3 + 2
        outcomes = []
        for kind in (nn.BatchNorm2d, SynchronisedBatchNorm2d):
            norm, given = kind(3), images.clone().requires_grad_()
            norm.weight.data, norm.bias.data = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([1.0, 0.0, -1.0])
            found = norm(given)
            (found * torch.arange(found.numel()).view_as(found).sin()).sum().backward()
            buffers = [value.double() for value in norm.buffers()]
            outcomes.append([found, given.grad, norm.weight.grad, norm.bias.grad, *buffers, norm.eval()(images)])
        for own, ours in zip(*outcomes, strict=True):
            torch.testing.assert_close(ours, own, rtol=1e-5, atol=1e-5)
    finally:
        distributed.destroy_process_group()
