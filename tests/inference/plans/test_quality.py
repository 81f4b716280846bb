"""How answers are judged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.plans.quality import Task, find_task, judge, label_text, same_but_rounding


@pytest.mark.parametrize(
    ("outputs", "task", "classes", "truth", "expected"),
    [
        # A model trained here: labels beside probabilities.
        (
            [("prediction", "BYTES", (-1, 1)), ("probabilities", "FP32", (-1, 2))],
            "binary",
            ("a", "b"),
            ["a"],
            Task("prediction", "labels"),
        ),
        ([("prediction", "FP64", (-1, 1))], "regression", (), ["1.5"], Task("prediction", "values")),
        # Made elsewhere: scores, if the labels are places or known classes.
        ([("logits", "FP32", (-1, 3))], "", (), ["0", "2"], Task("logits", "scores", ("0", "1", "2"))),
        ([("logits", "FP32", (-1, 2))], "", ("no", "yes"), ["yes"], Task("logits", "scores", ("no", "yes"))),
        ([("logits", "FP32", (-1, 2))], "", ("no", "yes"), None, Task("logits", "scores", ("no", "yes"))),
        ([("logits", "FP32", (-1, 3))], "", (), ["cat"], Task("logits", "values")),
        # An embedding.
        ([("embedding", "FP32", (-1, 384))], "", (), None, Task("embedding", "values")),
        ([("embedding", "FP32", (-1, 3))], "embedding", (), ["0", "2"], Task("embedding", "values")),
        ([("label", "INT64", (-1,))], "", (), None, Task("label", "labels")),
    ],
)
def test_what_is_judged_follows_from_the_signature_and_the_labels(
    outputs: list[tuple[str, str, tuple[int, ...]]],
    task: str,
    classes: tuple[str, ...],
    truth: list[str] | None,
    expected: Task,
) -> None:
    assert find_task(outputs, task, classes, truth) == expected


def test_scores_are_judged_by_the_class_that_they_name() -> None:
    plain = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 5.0]])
    found = np.array([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0], [0.0, 5.0]])
    quality = judge(Task("logits", "scores", ("no", "yes")), plain, found, ["no", "yes", "yes", "yes"])
    assert (quality.metric, quality.plain_points, quality.points) == ("accuracy", 75.0, 75.0)
    # As good, and yet another model: it says so.
    assert quality.agreement_points == 50.0
    assert quality.loss_points == 0.0


def test_without_labels_a_plan_is_as_good_as_it_agrees() -> None:
    quality = judge(
        Task("y", "labels"), np.array([b"a", b"b"], dtype=object), np.array([b"a", b"a"], dtype=object), None
    )
    assert (quality.metric, quality.loss_points) == ("agreement", 50.0)
    values = judge(Task("y", "values"), np.arange(8.0).reshape(4, 2), np.arange(8.0).reshape(4, 2), None)
    assert (values.metric, values.loss_points) == ("r2_to_plain", 0.0)


def test_values_are_judged_by_r2() -> None:
    truth = ["1", "2", "3", "4"]
    plain, found = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[1.0], [2.0], [3.0], [5.0]])
    quality = judge(Task("y", "values"), plain, found, truth)
    assert (quality.metric, quality.plain_points, quality.points) == ("r2", 100.0, 80.0)
    assert quality.loss_points == pytest.approx(20.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_loses_everything(bad: float) -> None:
    plain = np.array([[1.0], [2.0], [3.0]])
    broken = np.array([[1.0], [bad], [3.0]])
    assert judge(Task("y", "values"), plain, broken, None).loss_points == np.inf
    scores = np.array([[1.0, bad]])
    assert judge(Task("y", "scores", ("0", "1")), np.array([[0.0, 1.0]]), scores, ["1"]).points == 0.0


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20))
def test_a_plan_loses_nothing_to_itself(values: list[float]) -> None:
    answers = np.array(values)[:, None]
    assert judge(Task("y", "values"), answers, answers, None).loss_points == 0.0
    assert same_but_rounding([answers], [answers])


def test_rounding_is_no_difference_and_anything_else_is() -> None:
    values = np.array([100.0, 0.01, np.nan], dtype=np.float32)
    assert same_but_rounding([values], [values * np.float32(1.0001)])
    assert not same_but_rounding([values], [values + np.float32(1.0)])
    assert not same_but_rounding([values], [np.array([100.0, 0.01, 0.0], dtype=np.float32)])
    assert not same_but_rounding([np.array([1])], [np.array([2])])
    assert not same_but_rounding([values], [values[:2]])


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (1.0, "1"), (1.5, "1.5"), (b"x", "x"), ("x", "x"), (3, "3")]
)
def test_labels_are_written_as_training_writes_classes(value: object, text: str) -> None:
    assert label_text(value) == text
