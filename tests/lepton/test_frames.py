"""A frame remembers what was done to it, and notices what was done behind its back."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from lepton.frames import Frame, fingerprint, with_lineage


def _frame() -> Frame:
    plain = pd.DataFrame({"n": [1.0, np.nan, 3.0, 3.0], "s": ["a", "b", None, None], "y": [0, 1, 0, 0]})
    return with_lineage(plain, "data@1", "y")


def _kinds(frame: Frame) -> list[str]:
    assert frame.lineage is not None
    return [str(step.WhichOneof("kind")) for step in frame.lineage.recipe.steps]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda frame: frame.dropna(), "drop_missing"),
        (lambda frame: frame.dropna(subset=["n"]), "drop_missing"),
        (lambda frame: frame.drop(columns=["s"]), "drop_columns"),
        (lambda frame: frame.drop("s", axis=1), "drop_columns"),
        (lambda frame: frame.drop_duplicates(), "drop_duplicates"),
        (lambda frame: frame.fillna({"n": 2.0}), "fill_missing"),
        (lambda frame: frame.rename(columns={"n": "m"}), "rename"),
        (lambda frame: frame.astype({"y": "float64"}), "cast"),
        (lambda frame: frame.query("y == 0"), "filter"),
        (lambda frame: frame.split(0.5, seed=1)[0], "split"),
    ],
)
def test_step_is_recorded_and_pandas_own(change: Callable[[Frame], Frame], kind: str) -> None:
    changed = change(_frame())
    assert _kinds(changed) == [kind]
    assert changed.lineage is not None
    assert not changed.lineage.edited
    if kind != "split":
        pd.testing.assert_frame_equal(pd.DataFrame(changed), change(pd.DataFrame(_frame())))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.assign(n=0),
        lambda frame: frame[["n"]],
        lambda frame: frame.head(2),
        lambda frame: frame.drop(index=[0]),
        lambda frame: frame.dropna(how="all", axis=1, thresh=None) if False else frame.dropna(thresh=3),
        lambda frame: frame.sort_values("n", ascending=False),
        lambda frame: frame.sample(n=2),
        lambda frame: frame.sample(n=2, random_state=1),
    ],
)
def test_change_outside_the_vocabulary_is_an_edit(change: Callable[[Frame], Frame]) -> None:
    changed = change(_frame())
    assert changed.lineage is not None
    assert changed.lineage.edited
    assert changed.lineage.parent == "data@1"


def test_series_are_remembered_and_their_changes_seen() -> None:
    plain = pd.DataFrame({"x": [np.array([1.0, np.nan]), np.array([2.0])], "y": [0, 1]})
    frame = with_lineage(plain, "data@1", "y")
    assert frame.lineage is not None
    assert frame.lineage.is_untouched
    assert _kinds(frame.drop(columns=["y"])) == ["drop_columns"]
    frame["x"] = pd.Series([np.array([1.0, np.nan]), np.array([3.0])])
    assert frame.lineage is not None
    assert frame.lineage.edited


def test_change_in_place_is_an_edit() -> None:
    frame = _frame()
    frame.loc[0, "n"] = 7.0
    assert frame.lineage is not None
    assert frame.lineage.edited
    frame = _frame().dropna()
    frame["new"] = 1
    assert _kinds(frame) == ["drop_missing"]
    assert frame.lineage is not None
    assert frame.lineage.edited


def test_steps_follow_each_other_and_the_untouched_frame_is_its_parent() -> None:
    frame = _frame()
    assert frame.lineage is not None
    assert frame.lineage.is_untouched
    assert _kinds(frame.dropna().drop(columns=["s"]).drop_duplicates()) == [
        *("drop_missing", "drop_columns", "drop_duplicates")
    ]


def test_split_is_exact_seeded_and_stratified() -> None:
    frame = with_lineage(pd.DataFrame({"x": range(100), "y": ["a"] * 80 + ["b"] * 20}), "d@1", "y")
    train, test = frame.split(0.25, seed=3, stratify="y")
    assert (len(train), len(test), (test["y"] == "b").sum()) == (75, 25, 5)
    assert list(test["x"]) == sorted(test["x"])
    assert list(frame.split(0.25, seed=3, stratify="y")[1]["x"]) == list(test["x"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        frame.split(1.0)
    with pytest.raises(KeyError):
        frame.split(0.5, stratify="nope")


def test_fingerprint_knows_values_types_and_names() -> None:
    frame = pd.DataFrame({"x": [1, 2]})
    assert fingerprint(frame) == fingerprint(frame.copy())
    for other in (pd.DataFrame({"x": [1, 3]}), pd.DataFrame({"y": [1, 2]}), frame.astype(float), frame.iloc[::-1]):
        assert fingerprint(frame) != fingerprint(other)
