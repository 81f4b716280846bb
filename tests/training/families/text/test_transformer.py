"""The Transformer: reads what it learned to read, exports what it says, and is the same every time."""

from collections.abc import Mapping

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch

from servicekit.errors import InvalidArgument
from services.inference.predict.texts import TextReader
from services.inference.serving.model import InputSpec
from services.training.domain.families import fitting
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.model import Model, Progress, Run, Stopped
from services.training.domain.families.parity import measure_parity
from services.training.domain.families.text.model import TextModel
from services.training.domain.families.text.network import cropped

SMALL: dict[str, object] = {
    "layers": 1,
    "hidden_size": 32,
    "heads": 2,
    "vocabulary": 200,
    "max_tokens": 16,
    "epochs": 8,
    "pretraining_epochs": 0,
    "learning_rate": 3e-3,
}


def _moods(rows: int = 300, seed: int = 0) -> pa.Table:
    """Return sentences that are glad but where they say not: words alone do not tell."""
    draw = np.random.default_rng(seed)
    nouns, glad = ["the room", "this book", "der Zug", "服务", "Ｔｈｅ food"], ["good", "nice", "great", "schön"]
    is_not = draw.random(rows) < 0.5
    texts = [
        f"{draw.choice(nouns)} is {'not ' if hidden else ''}{draw.choice(glad)} {'!' * int(draw.integers(0, 4))}"
        for hidden in is_not
    ]
    return pa.table({"text": texts, "mood": np.where(is_not, "bad", "good").tolist()})


def _fit(table: pa.Table, settings: Mapping[str, object] | None = None, **more: object) -> tuple[Model, list[Progress]]:
    resolved = resolve_hyperparameters("transformer", {**SMALL, **(settings or {})})
    base = more.get("base")
    assert base is None or isinstance(base, TextModel)
    schema = fitting.describe("transformer", table, "mood", resolved, base=base)
    told: list[Progress] = []
    model = fitting.fit(
        "transformer", schema, table, Run(resolved, int(str(more.get("seed", 0))), told.append, lambda: False), base
    )
    return model, told


def test_sentences_are_told_apart() -> None:
    model, told = _fit(_moods())
    assert fitting.evaluate(model, _moods(seed=1)).metrics["accuracy"] > 0.97
    assert told[-1].share == 1.0
    assert told[0].message == "first batch"
    assert told[-1].metrics["loss"] < told[1].metrics["loss"]


def test_export_says_what_the_model_says() -> None:
    model, _ = _fit(_moods(), {"epochs": 2})
    parity = measure_parity(model, model.export(), _moods(seed=1))
    assert parity.max_difference < 1e-5
    assert parity.label_mismatches == 0


def test_padding_changes_no_answer() -> None:
    model, _ = _fit(_moods(), {"epochs": 2})
    session = onnxruntime.InferenceSession(model.export(), providers=["CPUExecutionProvider"])
    ids = np.array([[2, 10, 11]], dtype=np.int64)
    alone = session.run(["probabilities"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    padded, mask = np.pad(ids, ((0, 0), (0, 5))), np.pad(np.ones_like(ids), ((0, 0), (0, 5)))
    beside = session.run(["probabilities"], {"input_ids": padded, "attention_mask": mask})[0]
    np.testing.assert_allclose(alone, beside, atol=1e-6)


def test_text_that_spells_the_padding_token_is_served_as_it_was_learned() -> None:
    model, _ = _fit(_moods(), {"epochs": 2})
    assert isinstance(model, TextModel)
    inputs = {name: InputSpec(name, "INT64", (-1, -1), "batch") for name in ("input_ids", "attention_mask")}
    reader = TextReader.load(model.files()["tokenizer.json"], inputs)
    assert reader is not None
    texts = ["the room is [PAD] not good", "this book [PAD]", "[PAD]", "[PAD] is nice [PAD] !", "not great ! ! ! !"]
    (feed,) = reader.batches(texts)
    session = onnxruntime.InferenceSession(model.export(), providers=["CPUExecutionProvider"])
    expected = model.predict(pa.table({"text": texts})).probabilities
    assert expected is not None
    np.testing.assert_allclose(session.run(["probabilities"], feed)[0], expected, atol=1e-5)


def test_padding_within_a_text_costs_it_no_token_behind() -> None:
    ids, mask = cropped(torch.tensor([[2, 5, 0, 7, 9, 0], [2, 4, 0, 0, 0, 0]]))
    assert ids.tolist() == [[2, 5, 0, 7, 9], [2, 4, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 0, 1, 1], [1, 1, 0, 0, 0]]
    assert [part.shape for part in cropped(torch.zeros((2, 3), dtype=torch.int64))] == [(2, 0), (2, 0)]


def test_same_rows_and_seed_give_the_same_files_and_another_seed_others() -> None:
    settings = {"epochs": 1, "pretraining_epochs": 1}
    first, again, other = (_fit(_moods(), settings, seed=seed)[0] for seed in (3, 3, 4))
    assert first.files() == again.files()
    assert first.export() == again.export()
    assert first.files()["weights.safetensors"] != other.files()["weights.safetensors"]


def test_export_names_no_file_of_the_machine_that_made_it() -> None:
    assert b".py" not in _fit(_moods(), {"epochs": 1})[0].export()


def test_stored_model_is_the_same_when_it_is_loaded() -> None:
    model, _ = _fit(_moods(), {"epochs": 1})
    loaded = fitting.load(model.files())
    assert loaded.files() == model.files()
    rows = _moods(seed=1)
    np.testing.assert_array_equal(loaded.predict(rows).probabilities, model.predict(rows).probabilities)


def test_pretraining_comes_first_and_learns_to_guess() -> None:
    _, told = _fit(_moods(), {"epochs": 1, "pretraining_epochs": 6, "pretraining_learning_rate": 0.01})
    losses = [one.metrics["pretraining_loss"] for one in told if "pretraining_loss" in one.metrics]
    assert len(losses) == 6
    assert losses[-1] < 0.7 * losses[0]
    shares = [one.share for one in told]
    assert shares == sorted(shares)
    assert told[0].message == "pretraining, first batch"
    assert told[1].message == "pretraining, epoch 1 of 6"
    assert told[-1].message == "epoch 1 of 1"


def test_fine_tune_begins_where_its_parent_ended_and_leaves_it_as_it_was() -> None:
    parent, _ = _fit(_moods())
    before = parent.files()
    given = {"epochs": 1, "learning_rate": 1e-6, "layers": 2, "hidden_size": 64, "phrases": "off"}
    child, _ = _fit(_moods(100, seed=2), given, base=parent)
    assert fitting.evaluate(child, _moods(seed=1)).metrics["accuracy"] > 0.97
    assert parent.files() == before
    assert child.files()["weights.safetensors"] != before["weights.safetensors"]
    assert child.files()["tokenizer.json"] == before["tokenizer.json"]
    # It tells the network that it has, not what the fit was given.
    assert [child.hyperparameters[name] for name in ("layers", "hidden_size", "phrases")] == [1, 32, "on"]


def test_fine_tune_of_the_last_layer_leaves_the_encoder() -> None:
    parent, _ = _fit(_moods(), {"epochs": 1})
    child, _ = _fit(_moods(100, seed=2), {"epochs": 1, "trainable": "last"}, base=parent)
    assert isinstance(parent, TextModel)
    assert isinstance(child, TextModel)
    was, now = parent.network.state_dict(), child.network.state_dict()
    changed = {name for name in was if not was[name].equal(now[name])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize("phase", ["pretraining", "epoch"])
def test_a_fit_can_be_stopped_in_each_phase(phase: str) -> None:
    resolved = resolve_hyperparameters("transformer", {**SMALL, "pretraining_epochs": 2})
    table = _moods()
    schema = fitting.describe("transformer", table, "mood", resolved)
    told: list[str] = []
    with pytest.raises(Stopped):
        fitting.fit(
            "transformer",
            schema,
            table,
            Run(
                resolved,
                0,
                lambda progress: told.append(progress.message),
                lambda: any(message.startswith(phase) for message in told),
            ),
        )


def _without(table: pa.Table, name: str) -> pa.Table:
    return table.drop_columns([name])


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (
            _moods().append_column("b", pa.array(["x"] * 300)).append_column("c", pa.array(["y"] * 300)),
            "NOT_ONE_TEXT_COLUMN",
        ),
        (_without(_moods(), "text"), "NOT_ONE_TEXT_COLUMN"),
        (_without(_moods(), "text").append_column("text", pa.array(range(300))), "NOT_TEXT"),
        (pa.table({"text": ["a", " ", "c", "d"], "mood": ["x", "x", "y", "y"]}), "TEXT_MISSING"),
        (pa.table({"text": ["a", None, "c", "d"], "mood": ["x", "x", "y", "y"]}), "TEXT_MISSING"),
    ],
)
def test_what_is_no_text_is_refused_before_training(table: pa.Table, reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        _fit(table)
    assert refused.value.reason == reason


def test_heads_must_share_the_hidden_size() -> None:
    with pytest.raises(InvalidArgument, match="multiple of heads"):
        _fit(_moods(), {"hidden_size": 30, "heads": 4})


def test_a_text_of_nothing_that_is_known_is_answered() -> None:
    model, _ = _fit(_moods(), {"epochs": 1})
    found = model.predict(pa.table({"text": ["\u0e01\u0e02", "🙂"]}))
    assert found.probabilities is not None
    assert np.isfinite(found.probabilities).all()
