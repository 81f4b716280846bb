"""A fit that was cut goes on from its checkpoint, and ends with the same files as one that never was."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

from services.training.domain.families import fitting
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.checkpoints import Checkpoint
from services.training.domain.families.model import Progress, Run, Stopped
from services.training.domain.families.neural.snapshot import Snapshot, position_of
from tests.training.families.image.test_cnn import FEW as FEW_CNN
from tests.training.families.image.test_cnn import digits


@dataclass
class Kept:
    """Keeps the latest checkpoint of every step."""

    found: Checkpoint | None = None
    kept: list[Checkpoint] = field(default_factory=list)

    def is_due(self) -> bool:
        return True

    def keep(self, checkpoint: Checkpoint) -> None:
        self.kept.append(checkpoint)


def _numbers(rows: int = 60) -> pa.Table:
    draw = np.random.default_rng(1)
    x = draw.standard_normal((rows, 2))
    return pa.table({"a": x[:, 0], "b": x[:, 1], "y": np.where(x.sum(axis=1) > 0, "yes", "no")})


def _texts(rows: int = 24) -> pa.Table:
    draw = np.random.default_rng(2)
    words = np.array(["good", "fine", "nice", "bad", "poor", "ugly"])
    is_good = np.arange(rows) % 2 == 0
    texts = [" ".join(words[draw.integers(0, 3, 6) + (0 if good else 3)]) for good in is_good]
    return pa.table({"text": texts, "mood": np.where(is_good, "up", "down")})


def _pairs(rows: int = 16) -> pa.Table:
    texts = _texts(2 * rows).column("text").to_pylist()
    return pa.table({"text": texts[:rows], "other": texts[rows:]})


FITS: dict[str, tuple[str, Callable[[], pa.Table], str, dict[str, object]]] = {
    "adamw": ("mlp", _numbers, "y", {"epochs": 3, "batch_size": 16, "hidden_units": 8, "dropout": 0.3}),
    "momentum and early stopping": (
        "mlp",
        lambda: _numbers(120),
        "y",
        {
            "epochs": 30,
            "batch_size": 54,
            "hidden_units": 8,
            "early_stopping": 2,
            "optimizer": "sgd",
            "learning_rate": 1.0,
        },
    ),
    "batch norm and augmentation": ("cnn", lambda: digits(150), "digit", {**FEW_CNN, "epochs": 2}),
    "pretraining": (
        "transformer",
        _texts,
        "mood",
        {
            "epochs": 2,
            "pretraining_epochs": 2,
            "batch_size": 8,
            "hidden_size": 8,
            "heads": 2,
            "layers": 1,
            "vocabulary": 100,
            "max_tokens": 16,
        },
    ),
    "embeddings": (
        "transformer",
        _pairs,
        "other",
        {
            "task": "embedding",
            "epochs": 3,
            "pretraining_epochs": 0,
            "batch_size": 8,
            "hidden_size": 8,
            "heads": 2,
            "layers": 1,
            "vocabulary": 100,
            "max_tokens": 16,
        },
    ),
}


def _fit(
    name: str, checkpoints: Kept, report: Callable[[Progress], None] = lambda _: None, stop_after: int | None = None
) -> dict[str, bytes]:
    family, table, target, given = FITS[name]
    settings = resolve_hyperparameters(family, given)
    rows = table()
    schema = fitting.describe(family, rows, target, settings)

    def is_cancelled() -> bool:
        return stop_after is not None and len(checkpoints.kept) >= stop_after

    return fitting.fit(family, schema, rows, Run(settings, 0, report, is_cancelled, checkpoints=checkpoints)).files()


# The first two steps of a phase and its last, and between them every fourth.
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FITS)
def test_fit_cut_at_any_step_ends_as_one_that_never_was(name: str, every: int) -> None:
    whole, told = Kept(), list[Progress]()
    files = _fit(name, whole, told.append)
    assert len(whole.kept) >= 6
    phases = [position_of(each.content).phase for each in whole.kept]
    edges = {place for place, phase in enumerate(phases) if phases[place - 2 : place] != [phase] * 2}
    edges |= {place for place, phase in enumerate(phases) if phases[place + 1 : place + 2] != [phase]}
    for place in sorted(edges | set(range(0, len(phases), every))):
        resumed, heard = Kept(whole.kept[place]), list[Progress]()
        assert _fit(name, resumed, heard.append) == files, f"cut at step {place}"
        # The steps that were left are those that are done, and their curves are the same.
        assert [each.content for each in resumed.kept] == [each.content for each in whole.kept[place:]]
        assert heard == told[len(told) - len(heard) :]


def test_keeping_checkpoints_changes_nothing() -> None:
    family, table, target, given = FITS["adamw"]
    settings, rows = resolve_hyperparameters(family, given), table()
    schema = fitting.describe(family, rows, target, settings)
    plain = fitting.fit(family, schema, rows, Run(settings, 0, lambda _: None, lambda: False)).files()
    assert plain == _fit("adamw", Kept())


def test_fit_that_is_asked_to_stop_keeps_where_it_stood() -> None:
    files = _fit("adamw", Kept())
    cut = Kept()
    with pytest.raises(Stopped):
        _fit("adamw", cut, stop_after=5)
    assert _fit("adamw", Kept(cut.kept[-1])) == files


def test_checkpoint_says_where_it_stands_and_holds_no_code() -> None:
    kept = Kept()
    _fit("pretraining", kept)
    phases = [position_of(each.content).phase for each in kept.kept]
    assert phases == sorted(phases)
    assert set(phases) == {"pretraining", "training"}
    positions = [
        Snapshot.from_bytes(each.content).position
        for each in kept.kept
        if position_of(each.content).phase == "training"
    ]
    assert [(one.epoch, one.batch) for one in positions] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    # safetensors: the length of a JSON header, then that.
    size = int.from_bytes(kept.kept[0].content[:8], "little")
    assert kept.kept[0].content[8:9] == b"{"
    assert size < len(kept.kept[0].content)
