"""Vectors of texts: those that belong together point the same way."""

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch

from lepton.v1 import common_pb2
from servicekit.errors import InvalidArgument
from services.inference.predict.texts import TextReader
from services.inference.serving.model import InputSpec
from services.training.child.messages import signature_to_proto
from services.training.domain.families import fitting
from services.training.domain.families.parity import measure_parity
from services.training.domain.families.text.embedder import ContrastiveLoss
from services.training.domain.families.text.model import TextModel
from services.training.domain.families.text.scoring import retrieval_metrics
from tests.training.families.text.reading import EMBED, fit, halves


@pytest.fixture(scope="module")
def embedder() -> TextModel:
    return fit(halves(1000), "second", {**EMBED, "epochs": 6})


@pytest.fixture(scope="module")
def graph(embedder: TextModel) -> bytes:
    return embedder.export()


def test_half_of_a_review_finds_its_other_half(embedder: TextModel) -> None:
    found = fitting.evaluate(embedder, halves(300, start=3000))
    assert found.rows == 300
    # By chance 1 and 10 of 300, and the middle.
    assert found.metrics["recall@1"] > 4 / 300
    assert found.metrics["recall@10"] > 25 / 300
    assert found.metrics["mrr"] > found.metrics["recall@1"]
    assert found.metrics["mean_rank"] < 120


def test_export_says_what_the_model_says(embedder: TextModel, graph: bytes) -> None:
    parity = measure_parity(embedder, graph, halves(100, start=3000))
    assert 0 <= parity.max_difference < 1e-5
    assert parity.rows == 100


def test_parity_sees_another_models_export(embedder: TextModel, graph: bytes) -> None:
    other = fit(halves(100), "second", EMBED, base=embedder)
    assert measure_parity(other, graph, halves(50, start=3000)).max_difference > 1e-3


def test_vectors_have_length_one_and_their_signature(embedder: TextModel, graph: bytes) -> None:
    vectors = embedder.embed(["质量太差了", "房间很干净，服务也好"])
    assert (vectors.dtype, vectors.shape) == (np.float32, (2, 32))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    signature = signature_to_proto(embedder)
    assert list(signature.outputs) == [common_pb2.TensorSpec(name="embedding", datatype="FP32", shape=[-1, 32])]
    assert (signature.task, signature.target, list(signature.text_columns)) == ("embedding", "second", ["first"])
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (output,) = session.get_outputs()
    assert (output.name, output.type, output.shape[1]) == ("embedding", "tensor(float)", 32)


def test_text_that_spells_the_padding_token_is_served_as_it_was_learned(embedder: TextModel, graph: bytes) -> None:
    texts: list[str | tuple[str, str]] = ["质量[PAD]太差了", "房间很干净，服务也好", "[PAD]"]
    inputs = {name: InputSpec(name, "INT64", (-1, -1), "batch") for name in ("input_ids", "attention_mask")}
    reader = TextReader.load(embedder.files()["tokenizer.json"], inputs)
    assert reader is not None
    (feed,) = reader.batches(texts)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["embedding"], feed)[0], embedder.embed(texts), atol=1e-5)


def test_same_rows_and_seed_give_the_same_files_and_these_give_the_model_again() -> None:
    settings = {**EMBED, "pretraining_epochs": 1}
    first, again = (fit(halves(60), "second", settings, seed=3) for _ in range(2))
    assert first.files() == again.files()
    loaded = fitting.load(first.files())
    assert isinstance(loaded, TextModel)
    assert loaded.files() == first.files()
    np.testing.assert_array_equal(loaded.embed(["好", "不好"]), first.embed(["好", "不好"]))


def test_fine_tune_begins_where_its_parent_ended_and_leaves_it_as_it_was(embedder: TextModel) -> None:
    before = embedder.files()
    given = {"learning_rate": 1e-6, "layers": 2, "hidden_size": 64}
    child = fit(halves(64, start=2000), "second", given, base=embedder)
    np.testing.assert_allclose(child.embed(["好", "不好"]), embedder.embed(["好", "不好"]), atol=1e-3)
    assert embedder.files() == before
    assert child.files()["weights.safetensors"] != before["weights.safetensors"]
    # It tells the network that it has, not what the fit was given.
    named = ("layers", "hidden_size", "heads", "max_tokens", "dropout")
    assert [child.hyperparameters[name] for name in named] == [1, 32, 2, 64, 0.0]
    assert child.hyperparameters["vocabulary"] == embedder.tokenizer.get_vocab_size()


def test_fine_tune_of_the_last_layer_leaves_the_table_of_tokens(embedder: TextModel) -> None:
    child = fit(halves(64, start=2000), "second", {"trainable": "last"}, base=embedder)
    was, now = embedder.network.state_dict(), child.network.state_dict()
    changed = {name for name in was if not was[name].equal(now[name])}
    assert changed
    assert all(name.startswith("encoder.encoder.layer.0.") for name in changed)


def test_loss_is_that_of_telling_texts_apart() -> None:
    loss = ContrastiveLoss(0.5)
    apart = torch.eye(3).unsqueeze(1).expand(3, 2, 3)
    texts = torch.arange(6).reshape(3, 2)
    # Its own at cosine 1, the two others at 0, over a temperature of a half.
    assert float(loss(apart, texts)) == pytest.approx(-np.log(np.e**2 / (np.e**2 + 2)))
    # The second and third row have the same text behind them: no wrong answers to each other.
    texts[2, 1] = texts[1, 1]
    rest = -np.log(np.e**2 / (np.e**2 + 1))
    first = -np.log(np.e**2 / (np.e**2 + 2))
    assert float(loss(apart, texts)) == pytest.approx((first + 2 * rest) / 3)


def test_rank_counts_whoever_is_as_near_and_a_text_that_stands_twice_once() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    texts = np.array(["a", "b", "a"], dtype=object)
    assert retrieval_metrics(vectors, vectors, texts) == {"recall@1": 1.0, "mrr": 1.0, "mean_rank": 1.0}
    # A model that says the same of everything finds nothing.
    same = np.ones((20, 2)) / np.sqrt(2)
    found = retrieval_metrics(same, same, np.array([f"text {place}" for place in range(20)], dtype=object))
    assert found == pytest.approx({"recall@1": 0.0, "recall@10": 0.0, "mrr": 1 / 20, "mean_rank": 20.0})


def test_many_rows_are_looked_for_among_at_most_a_thousand() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((2500, 8))
    texts = np.array([f"text {place}" for place in range(2500)], dtype=object)
    found = retrieval_metrics(vectors, draw.standard_normal((2500, 8)), texts)
    # By chance the middle of 834 candidates, not of 2,500.
    assert 350 < found["mean_rank"] < 480


@pytest.mark.parametrize(
    ("table", "settings", "reason"),
    [
        (halves(9).append_column("third", pa.array(["x"] * 9)), {}, "NOT_ONE_TEXT_COLUMN"),
        (halves(9).set_column(1, "second", pa.array(range(9))), {}, "TARGET_NOT_TEXT"),
        (halves(9).set_column(1, "second", pa.array(["x"] * 8 + [" "])), {}, "TEXT_MISSING"),
        (halves(9).set_column(1, "second", pa.array(["x"] * 8 + [None])), {}, "TARGET_MISSING"),
        (halves(9).set_column(0, "first", pa.array(["x"] * 8 + [""])), {}, "TEXT_MISSING"),
        (halves(9).set_column(1, "second", pa.array(["x"] * 9)), {}, "TARGET_CONSTANT"),
        (halves(1), {}, "TOO_FEW_ROWS"),
        (halves(9), {"batch_size": 1}, "BAD_HYPERPARAMETER"),
    ],
)
def test_what_cannot_be_embedded_is_refused(table: pa.Table, settings: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        fit(table, "second", {**EMBED, **settings})
    assert refused.value.reason == reason
