"""A fine-tuned version of every family names its parent, and is scored on the parent's rows beside the new."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lepton.v1 import training_pb2
from tests.training.families.image.test_cnn import digits
from tests.training.families.series.series_tables import SEASON, waves
from tests.training.house import FAILED, FINE_TUNE, SUCCEEDED, House, refused

IMAGES: dict[str, object] = {"epochs": 1, "image_size": 8, "width": 8, "channels": "grey"}
TEXTS: dict[str, object] = {
    "epochs": 1,
    "pretraining_epochs": 0,
    "hidden_size": 8,
    "heads": 2,
    "layers": 1,
    "vocabulary": 100,
    "max_tokens": 16,
}
NETWORKS = ("mlp", "transformer", "cnn")
FAMILIES: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    "linear_regression": ("line", {}, {"epochs": 2}),
    "logistic_regression": ("signs", {}, {"max_iterations": 5}),
    "boosted_trees": ("signs", {"n_estimators": 5}, {"n_estimators": 2}),
    "mlp": ("signs", {"epochs": 1, "hidden_units": 4}, {"epochs": 1, "trainable": "last"}),
    "transformer": ("moods", TEXTS, {"epochs": 1, "trainable": "lora", "lora_rank": 2}),
    "cnn": ("digits", IMAGES, {"epochs": 1, "trainable": "last"}),
}


def _json(settings: Mapping[str, object]) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in settings.items()}


async def _import(house: House, name: str, rows: int) -> None:
    if name.startswith("line"):
        await house.import_line(name, rows)
    elif name.startswith("signs"):
        xs = [(index * 7 % 50) / 10 - 2.5 for index in range(rows)]
        await house.import_table(name, {"x": xs, "y": ["up" if x > 0 else "down" for x in xs]}, "y")
    elif name.startswith("moods"):
        is_good = [index % 2 == 0 for index in range(rows)]
        texts = ["good nice room" if good else "bad ugly room" for good in is_good]
        await house.import_table(name, {"text": texts, "y": ["up" if good else "down" for good in is_good]}, "y")
    else:
        table = digits(rows)
        await house.import_table(name, {"image": table["image"].to_pylist(), "y": table["digit"].to_pylist()}, "y")


async def test_rows_that_judge_a_child_and_taught_its_parent_are_warned_of(busy_house: House) -> None:
    draw = np.random.default_rng(0)
    xs = draw.standard_normal(400).round(6).tolist()
    columns = {"x": xs, "y": [2 * x + 1 for x in xs]}
    await busy_house.import_table("some", {name: values[:300] for name, values in columns.items()}, "y")
    await busy_house.import_table("all", columns, "y")
    await busy_house.import_table("others", {name: values[300:] for name, values in columns.items()}, "y")
    async with busy_house.worker():
        await _ended(busy_house, family="linear_regression", model="m", dataset="some@1")
        spec: dict[str, Any] = {"kind": FINE_TUNE, "family": "", "base_version": "m@1"}
        more = await _ended(busy_house, **spec, dataset="all@1")
        others = await _ended(busy_house, **spec, dataset="others@1")
    (warning,) = more.warnings
    assert "are among those that m@1 learned from" in warning
    assert not others.warnings


# torch's exporter takes some seconds, twice.
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow) if name in NETWORKS else name for name in FAMILIES]
)
async def test_child_names_its_parent_and_is_scored_on_its_rows(busy_house: House, family: str) -> None:
    data, first, then = FAMILIES[family]
    if data != "line":
        await _import(busy_house, data, 100)
    await _import(busy_house, f"{data}-more", 80)
    async with busy_house.worker():
        spec: dict[str, Any] = {"family": family, "model": "m", "dataset": f"{data}@1"}
        parent = await _ended(busy_house, **spec, hyperparameters=_json(first))
        spec = {"kind": FINE_TUNE, "family": "", "base_version": "m@1", "dataset": f"{data}-more@1"}
        child = await _ended(busy_house, **spec, hyperparameters=_json(then))
    assert (parent.version, child.version) == ("m@1", "m@2")
    version = await busy_house.developer.get("m@2")
    assert (version.lineage.parent, version.lineage.family) == ("m@1", family)
    assert [scores.dataset for scores in version.evaluations] == [f"{data}-more@1", f"{data}@1"]
    # On the same rows as the parent: as many, at least.
    assert version.evaluations[1].rows == (await busy_house.developer.get("m@1")).evaluations[0].rows
    assert all(scores.metrics for scores in version.evaluations)


async def test_fine_tune_tells_the_shape_and_the_season_that_it_has_from_its_parent(busy_house: House) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(waves(150), sink)
    await busy_house.import_parquet("waves", sink.getvalue().to_pybytes(), "wave_next")
    given = {"epochs": 1, "hidden_size": 4, "season": SEASON, "coverage": 0.95}
    async with busy_house.worker():
        await _ended(busy_house, family="rnn", model="w", dataset="waves@1", hyperparameters=_json(given))
        spec: dict[str, Any] = {"kind": FINE_TUNE, "family": "", "base_version": "w@1", "dataset": "waves@1"}
        await _ended(busy_house, **spec, hyperparameters=_json({"epochs": 2}))
    told = (await busy_house.developer.get("w@2")).lineage.hyperparameters
    expected = given | {"epochs": 2, "cell": "gru"}
    assert {name: json.loads(told[name]) for name in expected} == expected


@pytest.mark.slow
async def test_fit_from_a_version_learns_other_labels_and_names_it_as_its_parent(busy_house: House) -> None:
    await _import(busy_house, "digits", 100)
    table = digits(60)
    others = ["even" if digit % 2 == 0 else "odd" for digit in table["digit"].to_pylist()]
    await busy_house.import_table("parity", {"image": table["image"].to_pylist(), "y": others}, "y")
    async with busy_house.worker():
        await _ended(busy_house, family="cnn", model="digits", dataset="digits@1", hyperparameters=_json(IMAGES))
        spec: dict[str, Any] = {"family": "cnn", "model": "parity", "dataset": "parity@1", "base_version": "digits@1"}
        await _ended(busy_house, **spec, hyperparameters=_json({"epochs": 1}))
    version = await busy_house.developer.get("parity@1")
    assert (version.lineage.parent, list(version.signature.classes)) == ("digits@1", ["even", "odd"])
    # Its parent's rows have other labels.
    assert [scores.dataset for scores in version.evaluations] == ["parity@1"]
    assert "width" not in version.lineage.hyperparameters


async def test_what_a_fit_cannot_begin_from_is_refused_before_it_is_queued(busy_house: House) -> None:
    async with busy_house.worker():
        await _ended(busy_house, model="line")
    create = busy_house.people.create
    await refused(create(base_version="line@1"), "INVALID_ARGUMENT", "BASE_NOT_TAKEN")
    await refused(create(family="cnn", base_version="line@1"), "INVALID_ARGUMENT", "BASE_MISMATCH")
    lora = {"trainable": '"lora"'}
    await refused(create(family="transformer", hyperparameters=lora), "INVALID_ARGUMENT", "BASE_REQUIRED")


async def _ended(house: House, **spec: Any) -> training_pb2.Job:
    job = await house.people.ended((await house.people.create(**spec)).name)
    assert job.state == SUCCEEDED, (job.state == FAILED, job.error_reason, job.error_message)
    return job
