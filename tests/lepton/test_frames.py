"""A frame remembers what was done to it, and notices what was done behind its back."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from lepton import errors
from lepton.frames import Frame, check_label, fingerprint, with_lineage


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


@pytest.mark.parametrize(
    ("change", "label"),
    [
        (lambda frame: pd.concat([frame, frame.head(1)]), "y"),
        (lambda frame: pd.concat([frame, pd.DataFrame({"z": [1, 2, 3, 4]})], axis=1), "y"),
        (lambda frame: frame.merge(pd.DataFrame({"s": ["a"], "z": [1]}), on="s"), "y"),
        (lambda frame: pd.merge(frame, frame[["n"]].assign(z=1), on="n"), "y"),
        (lambda frame: pd.get_dummies(frame, columns=["s"]), "y"),
        (lambda frame: frame.rename(columns={"y": "target"}), "target"),
        (lambda frame: frame.rename(columns=str.upper), "Y"),
        (lambda frame: frame.rename(index=str), "y"),
        (lambda frame: frame.rename(columns={"y": "t"}).dropna().drop(columns=["s"]), "t"),
        (lambda frame: frame.assign(z=1).sort_values("n").reset_index(drop=True), "y"),
        (lambda frame: frame.groupby("s").agg({"y": "max", "n": "mean"}).reset_index(), "y"),
        (lambda frame: frame.groupby("s", as_index=False).mean(), "y"),
        (lambda frame: frame[frame["y"] == 0].query("n > 1"), "y"),
    ],
)
def test_label_is_kept_where_pandas_keeps_its_column(change: Callable[[Frame], Frame], label: str) -> None:
    changed = change(_frame())
    assert changed.lineage is not None
    assert (changed.lineage.label, changed.lineage.parent) == (label, "data@1")
    assert label in changed.columns
    check_label(changed)


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.drop(columns=["y"]),
        lambda frame: frame[["n", "s"]],
        lambda frame: pd.get_dummies(frame.astype({"y": "str"})),
        lambda frame: frame.add_prefix("x_"),
        lambda frame: frame.set_axis(["a", "b", "c"], axis=1),
        lambda frame: frame.merge(frame, on="n"),
        lambda frame: pd.concat([frame, with_lineage(pd.DataFrame({"n": [1.0]}), "other@1", "n")]),
        lambda frame: frame.groupby("s").agg({"n": "mean"}),
        lambda frame: frame.groupby("s").agg(mean=("n", "mean")).reset_index(),
        lambda frame: frame.groupby("s")[["n"]].mean(),
        lambda frame: frame.pivot_table(index="s", values="n"),
        lambda frame: frame.melt(id_vars=["s"]),
        lambda frame: frame.T,
    ],
)
def test_lost_label_is_an_error_that_says_how_to_go_on(change: Callable[[Frame], Frame]) -> None:
    changed = change(_frame())
    assert isinstance(changed, Frame)
    with pytest.raises(errors.InvalidArgument, match="target=") as refused:
        check_label(changed)
    assert refused.value.reason == "LABEL_LOST"


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: pd.DataFrame({"size": [1.0, 2.0], "rank": [0, 1]}).merge(frame, on="size", how="left")[
            ["churned", "town", "rank"]
        ],
        lambda frame: pd.concat([pd.DataFrame({"size": [5.0]}), frame])[["churned", "size"]],
        lambda frame: pd.DataFrame(frame)[["churned", "size"]],
    ],
)
def test_plain_frames_with_the_label_of_loaded_data_do_not_guess_another(
    change: Callable[[Frame], pd.DataFrame],
) -> None:
    changed = change(
        with_lineage(pd.DataFrame({"size": [1.0, 2.0], "town": ["a", "b"], "churned": [0, 1]}), "data@1", "churned")
    )
    assert not isinstance(changed, Frame)
    with pytest.raises(errors.InvalidArgument, match=r"'churned' is the label .* target=") as refused:
        check_label(changed)
    assert refused.value.reason == "LABEL_LOST"
    check_label(changed.assign(churned=changed.pop("churned")))
    check_label(pd.DataFrame({"unrelated": [1], "other": [2]}))


def test_frame_without_a_label_loses_none() -> None:
    frame = with_lineage(pd.DataFrame({"a": [1], "b": [2]}), "data@1", "")
    for changed in (frame, pd.concat([frame, frame]), frame[["a"]], frame.rename(columns={"a": "c"})):
        check_label(changed)


def test_objects_that_pandas_does_not_hash_have_a_lineage() -> None:
    odd = pd.DataFrame({"x": [1, 2]})
    odd["sets"] = pd.Series([{1, 2}, {3}], dtype=object)
    odd["dicts"] = pd.Series([{"a": 1}, {"b": [2]}], dtype=object)
    odd["texts"] = pd.Series(["\ud800", "b"], dtype=object)
    odd["mixed"] = pd.Series([1, "a"], dtype=object)
    frame = with_lineage(odd, "data@1", "x")
    assert frame.lineage is not None
    assert frame.lineage.is_untouched
    frame.loc[1, "mixed"] = "b"
    assert frame.lineage.edited
    doubled = with_lineage(pd.DataFrame([[1, 2]], columns=["a", "a"]), "data@1", "")
    assert doubled.lineage is not None
    assert doubled.lineage.is_untouched


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


def test_arguments_of_a_split_are_checked() -> None:
    frame = with_lineage(pd.DataFrame({"x": range(8)}), "d@1", "")
    assert len(frame.split(np.float64(0.5), seed=np.int64(3))[0]) == 4  # type: ignore[arg-type]
    for arguments, match in (
        (("a",), "test_fraction takes a number"),
        ((2,), "between 0 and 1"),
        ((0.5, "q"), "seed takes a whole number"),
        ((0.5, 0, "nope"), "no column 'nope'"),
    ):
        named = dict(zip(("test_fraction", "seed", "stratify"), arguments, strict=False))
        with pytest.raises(errors.InvalidArgument, match=match):
            frame.split(**named)  # type: ignore[arg-type]


def test_fingerprint_knows_values_types_and_names() -> None:
    frame = pd.DataFrame({"x": [1, 2]})
    assert fingerprint(frame) == fingerprint(frame.copy())
    for other in (pd.DataFrame({"x": [1, 3]}), pd.DataFrame({"y": [1, 2]}), frame.astype(float), frame.iloc[::-1]):
        assert fingerprint(frame) != fingerprint(other)


@pytest.mark.parametrize(("expression", "is_recorded"), [("not (k > 2)", False), ("k != 2", False), ("k > 2", True)])
def test_negation_of_unknown_values_is_not_recorded(expression: str, is_recorded: bool) -> None:
    # pandas leaves rows out that the platform keeps.
    frame = with_lineage(pd.DataFrame({"k": pd.array([1, 2, 3, None], dtype="Int64")}), "numbers@1", "")
    found = frame.query(expression).lineage
    assert found is not None
    assert found.edited is not is_recorded
    whole = with_lineage(pd.DataFrame({"k": pd.array([1, 2, 3], dtype="Int64")}), "numbers@1", "")
    assert whole.query(expression).lineage.edited is False


def test_column_to_stratify_by_is_one_name() -> None:
    frame = with_lineage(pd.DataFrame({"x": range(8), "y": ["a", "b"] * 4}), "rows@1", "y")
    train, _ = frame.split(0.25, stratify=["y"])  # type: ignore[arg-type]
    assert train.equals(frame.split(0.25, stratify="y")[0])
    with pytest.raises(errors.InvalidArgument, match="one name"):
        frame.split(0.25, stratify=["x", "y"])  # type: ignore[arg-type]
