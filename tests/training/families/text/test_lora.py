"""LoRA: adapters alone learn, and a model with them merged is one like any other."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch

from services.training.domain.families import fitting
from services.training.domain.families.bodies import read_body
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.checkpoints import NoCheckpoints
from services.training.domain.families.model import Model, Progress, Run, Stopped
from services.training.domain.families.neural.snapshot import Snapshot
from services.training.domain.families.parity import measure_parity
from services.training.domain.families.text.lora import add_lora
from services.training.domain.families.text.model import TextModel
from services.training.domain.families.text.pretrained import TextBody
from tests.training.families.neural.test_checkpoints import Kept
from tests.training.families.text.test_pretrained import FEW, SIZES, moods, pretrained_files

LORA: dict[str, object] = {**FEW, "trainable": "lora", "lora_rank": 2, "learning_rate": 0.005, "epochs": 3}


def _run() -> Run:
    settings = resolve_hyperparameters("transformer", LORA, has_body=True)
    return Run(settings, 0, lambda _: None, lambda: False)


def _fit(
    files: dict[str, bytes],
    *,
    seed: int = 0,
    checkpoints: Kept | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    stop_after: int | None = None,
    **given: object,
) -> TextModel:
    settings = resolve_hyperparameters("transformer", {**LORA, **given}, has_body=True)
    table = moods()
    schema = fitting.describe("transformer", table, "mood", settings)

    def is_cancelled() -> bool:
        return stop_after is not None and checkpoints is not None and len(checkpoints.kept) >= stop_after

    body = read_body("transformer", files)
    model = fitting.fit(
        "transformer",
        schema,
        table,
        Run(settings, seed, report, is_cancelled, checkpoints=checkpoints or NoCheckpoints()),
        body=body,
    )
    assert isinstance(model, TextModel)
    return model


@pytest.mark.parametrize("architecture", SIZES)
def test_adapters_and_head_alone_have_gradients(architecture: str) -> None:
    body = TextBody.read(pretrained_files(architecture))
    _, classifier = body.begin(_run().settings, 2, 0)
    whole = sum(value.numel() for value in classifier.parameters() if value.requires_grad)
    add_lora(classifier.encoder, _run())
    ids = torch.tensor([[2, 6, 7, 3]])
    classifier(ids, torch.ones_like(ids)).sum().backward()
    learning = {name for name, value in classifier.named_parameters() if value.grad is not None}
    assert {name for name in learning if "lora_" not in name} == {"head.weight", "head.bias"}
    # Queries, keys, values and what is made of them, in two layers; two matrices each.
    assert len([name for name in learning if "lora_" in name]) == 2 * 4 * 2
    few = sum(value.numel() for value in classifier.parameters() if value.requires_grad)
    assert few < whole / 4


def test_merged_model_is_one_like_any_other() -> None:
    files = pretrained_files()
    model = _fit(files, epochs=8)
    body = TextBody.read(files)
    assert set(model.network.encoder.state_dict()) == set(body.begin(_run().settings, 2, 0)[1].encoder.state_dict())
    was, now = body.weights, model.network.encoder.state_dict()
    changed = {name for name in now if not now[name].equal(was[name])}
    places = ("self.query", "self.key", "self.value", "output.dense")
    assert changed == {f"encoder.layer.{layer}.attention.{place}.weight" for layer in (0, 1) for place in places}
    parity = measure_parity(model, model.export(), moods(seed=3))
    assert (parity.max_difference < 1e-5, parity.label_mismatches) == (True, 0)
    assert fitting.evaluate(model, moods(seed=3)).metrics["accuracy"] > 0.9
    assert fitting.load(model.files()).files() == model.files()


def test_fine_tune_by_lora_begins_where_its_parent_ended_and_leaves_it_as_it_was() -> None:
    parent = _fit(pretrained_files())
    before = parent.files()
    settings = resolve_hyperparameters("transformer", {**LORA, "epochs": 1, "learning_rate": 1e-6})
    schema = fitting.describe("transformer", moods(seed=4), "mood", settings, base=parent)
    child: Model = fitting.fit(
        "transformer", schema, moods(seed=4), Run(settings, 0, lambda _: None, lambda: False), parent
    )
    assert parent.files() == before
    rows = pa.table({"text": moods(seed=5)["text"], "mood": moods(seed=5)["mood"]})
    was, now = parent.predict(rows).probabilities, child.predict(rows).probabilities
    assert was is not None
    assert now is not None
    np.testing.assert_allclose(was, now, atol=1e-3)
    assert not np.array_equal(was, now)


def test_fit_cut_at_any_step_ends_with_the_same_files_and_checkpoints_hold_adapters_alone() -> None:
    files, whole = pretrained_files(), Kept()
    told: list[Progress] = []
    # Rows aside decide which weights are kept: those of a checkpoint, too.
    ended = _fit(files, checkpoints=whole, report=told.append, early_stopping=2).files()
    assert len(whole.kept) >= 6
    for place in range(0, len(whole.kept), 4):
        resumed = Kept(whole.kept[place])
        assert _fit(files, checkpoints=resumed, early_stopping=2).files() == ended, f"cut at step {place}"
    names = set(Snapshot.from_bytes(whole.kept[-1].content).network)
    assert all("lora_" in name or "head" in name for name in names)
    cut = Kept()
    with pytest.raises(Stopped):
        _fit(files, checkpoints=cut, stop_after=5, early_stopping=2)
    assert _fit(files, checkpoints=Kept(cut.kept[-1]), early_stopping=2).files() == ended
    assert _fit(files, seed=1).files() != ended
