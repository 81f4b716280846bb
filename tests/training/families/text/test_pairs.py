"""Two texts read together: what they are to each other, as a class or a number."""

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest

from lepton.v1 import common_pb2
from servicekit.errors import InvalidArgument
from services.training.child.messages import signature_to_proto
from services.training.domain.families import fitting
from services.training.domain.families.parity import measure_parity
from services.training.domain.families.text.model import TextModel
from services.training.domain.families.text.scoring import spearman
from services.training.domain.families.text.tokens import SEPARATOR_ID, token_ids, train_tokenizer
from tests.training.families.text.reading import fit, halves, shared_words


def _numbers(rows: int = 800, seed: int = 0) -> pa.Table:
    return shared_words(rows, seed).select(["a", "b", "shared"])


def _classes(rows: int = 800, seed: int = 0) -> pa.Table:
    return shared_words(rows, seed).select(["a", "b", "kind"])


@pytest.fixture(scope="module")
def scorer() -> TextModel:
    return fit(_numbers(), "shared", {"epochs": 12})


@pytest.fixture(scope="module")
def classifier() -> TextModel:
    return fit(_classes(), "kind", {"epochs": 12})


@pytest.fixture(scope="module")
def graph(scorer: TextModel) -> bytes:
    return scorer.export()


def test_number_of_a_pair_is_learned_on_its_own_scale(scorer: TextModel) -> None:
    found = fitting.evaluate(scorer, _numbers(seed=1)).metrics
    # The mean of all says 0, and neither text alone says more.
    assert found["r2"] > 0.5
    assert found["spearman"] > 0.7
    assert 0 < found["mae"] <= found["rmse"] < 10


def test_class_of_a_pair_is_learned(classifier: TextModel) -> None:
    found = fitting.evaluate(classifier, _classes(seed=1))
    assert found.labels == ("alike", "other")
    assert found.metrics["roc_auc"] > 0.85


def test_export_says_what_the_model_says(scorer: TextModel, graph: bytes) -> None:
    parity = measure_parity(scorer, graph, _numbers(200, seed=1))
    assert (0 <= parity.max_difference < 1e-5, parity.rows) == (True, 200)


def test_signature_says_what_the_export_gives(scorer: TextModel, graph: bytes) -> None:
    signature = signature_to_proto(scorer)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (output,) = session.get_outputs()
    assert (output.name, output.type, output.shape[1:]) == ("prediction", "tensor(double)", [1])
    assert list(signature.outputs) == [common_pb2.TensorSpec(name="prediction", datatype="FP64", shape=[-1, 1])]
    assert (signature.task, signature.target, list(signature.text_columns)) == ("regression", "shared", ["a", "b"])
    assert [spec.name for spec in signature.inputs] == ["input_ids", "attention_mask"]


def test_the_second_text_begins_behind_the_separator_and_padding_changes_no_answer(
    scorer: TextModel, graph: bytes
) -> None:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def shared(ids: list[int], padding: int = 0) -> float:
        row = np.array([ids + [0] * padding], dtype=np.int64)
        feed = {"input_ids": row, "attention_mask": (row != 0).astype(np.int64)}
        return float(session.run(["prediction"], feed)[0][0, 0])

    pair, other = (
        token_ids(scorer.tokenizer, [(first, "red green blue")])[0].tolist()
        for first in ("red green blue", "old new big")
    )
    assert pair.count(SEPARATOR_ID) == 1
    assert shared(pair, 5) == pytest.approx(shared(pair), rel=1e-6)
    assert shared(pair) > shared(other) + 5


def _halves_of_one_or_two(rows: int, start: int) -> pa.Table:
    """Return each review's first half with its own second one, and with the next one's."""
    parts = halves(rows, start)
    first, second = parts.column("first").to_pylist(), parts.column("second").to_pylist()
    kinds = ["one"] * rows + ["two"] * rows
    return pa.table({"first": first * 2, "second": [*second, *second[1:], second[0]], "reviews": kinds})


@pytest.mark.slow
def test_halves_of_one_review_are_told_from_those_of_two() -> None:
    settings = {"vocabulary": 2000, "max_tokens": 96, "epochs": 10, "token_dropout": 0.1}
    model = fit(_halves_of_one_or_two(2500, 0), "reviews", settings)
    # By chance 0.5, give or take 0.013.
    assert fitting.evaluate(model, _halves_of_one_or_two(1000, 4000)).metrics["roc_auc"] > 0.57


def test_same_rows_and_seed_give_the_same_files_and_these_give_the_model_again() -> None:
    first, again = (fit(_classes(100), "kind", {"pretraining_epochs": 1}, seed=3) for _ in range(2))
    assert first.files() == again.files()
    loaded = fitting.load(first.files())
    assert loaded.files() == first.files()
    rows = _classes(50, seed=1)
    np.testing.assert_array_equal(loaded.predict(rows).probabilities, first.predict(rows).probabilities)


def test_fine_tune_goes_on_from_its_parents_numbers_and_leaves_it_as_it_was(scorer: TextModel) -> None:
    before = scorer.files()
    # Another scale: the child's rows are worth ten points more than the parent's.
    rows = _numbers(200, seed=2)
    shifted = rows.set_column(2, "shared", pa.array(rows.column("shared").to_numpy() + 10.0))
    child = fit(shifted, "shared", {"learning_rate": 1e-6}, base=scorer)
    asked = _numbers(200, seed=3)
    np.testing.assert_allclose(child.predict(asked).values, scorer.predict(asked).values, atol=0.5)
    assert scorer.files() == before
    assert child.files()["tokenizer.json"] == before["tokenizer.json"]


def test_tokenizer_of_single_texts_knows_no_separator() -> None:
    texts = ["one two three", "two three"] * 3
    alone, pairs = train_tokenizer(texts, 100, 16), train_tokenizer(texts, 100, 16, for_pairs=True)
    assert alone.token_to_id("[SEP]") is None
    assert pairs.token_to_id("[SEP]") == SEPARATOR_ID
    assert alone.encode("one two").ids[0] == pairs.encode("one two").ids[0] == 2


def test_both_texts_of_a_long_pair_are_cut() -> None:
    tokenizer = train_tokenizer(["a b", "c d"], 100, 8, for_pairs=True)
    found = tokenizer.encode("a " * 50, "c " * 50)
    assert len(found.ids) == 8
    assert set(found.type_ids) == {0, 1}


def test_spearman_is_that_of_ranks_and_of_nothing_where_one_side_is_constant() -> None:
    # By hand: ranks 1, 2, 3.5, 3.5 against 1, 3, 2, 4.
    expected = np.corrcoef([1, 2, 3.5, 3.5], [1, 3, 2, 4])[0, 1]
    assert spearman(np.array([0.1, 0.2, 9.0, 9.0]), np.array([1.0, 30.0, 20.0, 400.0])) == pytest.approx(expected)
    assert spearman(np.ones(3), np.arange(3.0)) is None


@pytest.mark.parametrize(
    ("table", "settings", "reason"),
    [
        (_classes(20).append_column("c", pa.array(["x"] * 20)), {}, "NOT_ONE_TEXT_COLUMN"),
        (_classes(20).append_column("c", pa.array(["x"] * 20)), {"task": "pair"}, "NOT_TWO_TEXT_COLUMNS"),
        (_classes(20).drop_columns(["b"]), {"task": "pair"}, "NOT_TWO_TEXT_COLUMNS"),
        (_classes(20), {"task": "classification"}, "NOT_ONE_TEXT_COLUMN"),
        (_classes(20).set_column(1, "b", pa.array(range(20))), {}, "NOT_TEXT"),
        (_classes(20).set_column(1, "b", pa.array(["x"] * 19 + [" "])), {}, "TEXT_MISSING"),
        (_classes(20).set_column(1, "b", pa.array(["x"] * 19 + [None])), {}, "TEXT_MISSING"),
        (_classes(1), {}, "TOO_FEW_ROWS"),
        (_classes(20), {"task": "translation"}, "BAD_HYPERPARAMETER"),
    ],
)
def test_what_is_no_pair_is_refused_before_training(table: pa.Table, settings: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        fit(table, "kind", settings)
    assert refused.value.reason == reason


def test_fine_tune_keeps_to_its_parents_task(classifier: TextModel) -> None:
    with pytest.raises(InvalidArgument, match="task is pair") as refused:
        fit(_classes(50), "kind", {"task": "classification"}, base=classifier)
    assert refused.value.reason == "BASE_MISMATCH"
