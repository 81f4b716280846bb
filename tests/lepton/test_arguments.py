"""What users pass is taken as they mean it, or refused by the argument's name."""

import enum
import json
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lepton import errors, plans, releases, steps
from lepton.arguments import as_list, build, one_of, to_json_value, to_name, to_names
from lepton.jobs import Job
from lepton.models import to_hyperparameters, to_resources
from lepton.reading import to_message
from lepton.studies import Budget, to_search
from lepton.typed_rows import to_records, to_texts_request
from lepton.v1 import data_pb2, training_pb2


class _Color(enum.Enum):
    RED = "red"
    FIVE = 5


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("xy", ["xy"]),
        (np.str_("xy"), ["xy"]),
        (np.array("xy"), ["xy"]),
        (["xy", "z"], ["xy", "z"]),
        (("xy",), ["xy"]),
        (np.array(["xy", "z"]), ["xy", "z"]),
        (pd.Index(["xy", "z"]), ["xy", "z"]),
        (pd.Series(["xy"], index=[7]), ["xy"]),
        (range(2), ["0", "1"]),
        ((name for name in ("xy", "z")), ["xy", "z"]),
        ({"xy": 1, "z": 2}.keys(), ["xy", "z"]),
        ({"xy": 1}, ["xy"]),
        (_Color.RED, ["red"]),
        (None, []),
        ((), []),
    ],
)
def test_names_are_a_list_and_one_name_is_itself(given: Any, expected: list[str]) -> None:
    assert to_names(given) == expected


@pytest.mark.parametrize("given", [1.5, b"xy", [b"xy"], [None], [math.nan], [["a"]], True, [True], object()])
def test_what_is_no_name_is_refused_by_the_argument(given: Any) -> None:
    with pytest.raises(errors.InvalidArgument, match="channels takes one name or a list of names"):
        to_names(given, "channels")


@pytest.mark.parametrize(
    ("step", "names"),
    [
        (steps.drop_columns, lambda step: step.drop_columns.columns),
        (steps.drop_missing, lambda step: step.drop_missing.columns),
        (steps.drop_duplicates, lambda step: step.drop_duplicates.columns),
        (lambda given: steps.windows("t", given, 4), lambda step: step.windows.channels),
    ],
)
def test_one_name_of_a_step_is_not_taken_apart(step: Callable[[Any], Any], names: Callable[[Any], Any]) -> None:
    for given in ("xy", ["xy"], pd.Index(["xy"]), iter(["xy"])):
        assert list(names(step(given))) == ["xy"]


def test_steps_refuse_other_types_by_name() -> None:
    cases: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: steps.split("a"), "test_fraction takes a number"),  # type: ignore[arg-type]
        (lambda: steps.split(0.2, seed=2**63), "seed takes a whole number"),
        (lambda: steps.sample(rows=1.5), "rows takes a whole number"),  # type: ignore[arg-type]
        (lambda: steps.rename(["a"]), "names takes a dict by name"),  # type: ignore[arg-type]
        (lambda: steps.cast({"a": 1.0}), "types takes one name"),
        (lambda: steps.filter(3), "expression takes a text"),  # type: ignore[arg-type]
    )
    for make, match in cases:
        with pytest.raises(errors.InvalidArgument, match=match):
            make()
    assert steps.split(np.float32(0.5), seed=np.int64(3), stratify=None).split.seed == 3  # type: ignore[arg-type]
    assert to_name(None, "x") == ""


def test_single_values_count_where_lists_go() -> None:
    assert as_list(b"png", "images") == [b"png"]
    assert as_list(Path("a.png"), "images") == [Path("a.png")]
    assert list(to_texts_request("hello").texts) == ["hello"]
    assert list(to_texts_request(pd.Series(["a", "b"])).texts) == ["a", "b"]
    assert to_records({"x": 1}) == [{"x": 1}]
    assert to_records(pd.DataFrame({"x": [1, 2], "y": ["a", "b"]})) == [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}]
    with pytest.raises(errors.WrongType, match="rows takes records"):
        to_records("x")
    canary = releases.to_canary("m@2", 25, min_agreement=np.float64(0.5))  # type: ignore[arg-type]
    assert (list(canary.steps), canary.min_agreement) == ([25], 0.5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.int64(5), 5),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("adam"), "adam"),
        (np.array(3), 3),
        (np.array([1, 2]), [1, 2]),
        (np.array([[0.5], [1.0]]), [[0.5], [1.0]]),
        (range(4, 6), [4, 5]),
        (pd.Series([1, 2], index=["a", "b"]), [1, 2]),
        (pd.Index(["a"]), ["a"]),
        ((1, 2), [1, 2]),
        ({3, 1}, [1, 3]),
        ((item for item in (1, 2)), [1, 2]),
        ({"low": np.float64(1e-3), "log": np.True_}, {"low": 1e-3, "log": True}),
        (Decimal("0.25"), 0.25),
        (Decimal(3), 3),
        (Fraction(1, 2), 0.5),
        (_Color.RED, "red"),
        (_Color.FIVE, 5),
        (Path("a/b"), "a/b"),
        (None, None),
    ],
)
def test_value_becomes_json(given: Any, expected: object) -> None:
    found = to_json_value(given, "x")
    assert found == expected
    assert type(found) is type(expected)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    "given",
    [
        *(
            math.nan,
            math.inf,
            np.float32("nan"),
            Decimal("NaN"),
            Decimal("1e400"),
            Fraction(10**400),
            10**400,
        ),
        *(1j, b"x", object(), pd.NA, pd.Timestamp("2020-01-01"), np.datetime64("2020-01-01"), [1, object()]),
    ],
)
def test_what_has_no_json_form_is_refused_by_name(given: Any) -> None:
    with pytest.raises(errors.InvalidArgument, match="learning_rate takes numbers"):
        to_hyperparameters({"learning_rate": given})


def test_search_space_takes_arrays_ranges_and_one_value() -> None:
    space: dict[str, object] = {
        "num_leaves": range(4, 6),
        "max_depth": np.array([3, 5]),
        "learning_rate": (np.float64(0.5), 1),
        "booster": "gbdt",
    }
    search = to_search(space, "random", "none", "", Budget(trials=np.int64(3)))  # type: ignore[arg-type]
    assert {name: json.loads(spread) for name, spread in search.space.items()} == {
        "num_leaves": [4, 5],
        "max_depth": [3, 5],
        "learning_rate": {"low": 0.5, "high": 1},
        "booster": ["gbdt"],
    }
    assert search.max_trials == 3


def test_field_of_another_type_or_range_is_named() -> None:
    assert build(training_pb2.JobSpec, seed=np.int32(3), workers=2.0).workers == 2  # type: ignore[arg-type]
    for fields, match in (
        ({"seed": 2**63}, r"seed takes a whole number between -2\*\*63 and"),
        ({"seed": "7"}, "seed takes a whole number"),
        ({"seed": 1.5}, "seed takes a whole number"),
        ({"model": 3}, "model takes a text"),
        ({"model": "\ud800"}, "model takes a text that UTF-8 can encode"),
        ({"hyperparameters": 3}, "hyperparameters takes"),
        ({"sead": 3}, "unknown argument 'sead'.* did you mean seed"),
    ):
        with pytest.raises(errors.InvalidArgument, match=match):
            build(training_pb2.JobSpec, **fields)
    with pytest.raises(errors.InvalidArgument, match="rows takes a whole number"):
        build(data_pb2.PreviewDatasetRequest, ref="x@1", rows="ten")  # type: ignore[arg-type]


def test_unknown_choices_are_named_with_the_nearest() -> None:
    cases: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: one_of("bayes", ("bayesian", "random"), "sampler"), "sampler 'bayes'.*did you mean bayesian"),
        (lambda: to_search({}, "grids", "none", "", Budget()), "did you mean grid"),
        (lambda: to_search({}, "grid", "mediann", "", Budget()), "did you mean median"),
        (lambda: plans.to_tuning("losless"), "did you mean lossless"),
        (lambda: to_resources({"core": 1}), "did you mean cores"),
        (lambda: to_resources({"cores": "two"}), "cores takes a number"),  # type: ignore[dict-item]
        (lambda: releases.to_canary("m@2", step_second=3), "did you mean step_seconds"),
        (lambda: releases.to_canary("m@2", percent=3), "unknown rule 'percent'"),
        (lambda: Job.list(state="DONE"), "state 'DONE'.*SUCCEEDED"),
    )
    for make, match in cases:
        with pytest.raises(errors.InvalidArgument, match=match):
            make()
    with pytest.raises(errors.InvalidArgument, match="resources takes a dict"):
        to_resources(5)  # type: ignore[arg-type]
    with pytest.raises(errors.WrongType, match="budget takes a Budget"):
        to_search({}, "grid", "none", "", 5)  # type: ignore[arg-type]
    memory = to_resources({"memory_bytes": 2e9})
    assert memory is not None
    assert memory.memory_bytes == 2_000_000_000


def test_types_are_those_of_arrow_python_or_numpy() -> None:
    given = {"a": str, "b": np.float32, "c": np.dtype("int16"), "d": "double", "e": bool}
    expected = {"a": "string", "b": "float32", "c": "int16", "d": "double", "e": "bool"}
    assert dict(steps.cast(given).cast.types) == expected
    assert dict(to_message({"types": given, "missing": None}, None).types) == expected  # type: ignore[arg-type, typeddict-item]


def test_header_is_no_row_number() -> None:
    with pytest.raises(errors.InvalidArgument, match="skip=N"):
        to_message({"header": 0}, None)  # type: ignore[arg-type, typeddict-item]
