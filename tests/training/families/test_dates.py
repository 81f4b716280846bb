"""Dates and times are calendar features: the same in training and in the export, for every family of columns."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from servicekit.errors import InvalidArgument
from services.training.domain.families import fitting
from services.training.domain.families.calendar import EARLIEST, FEATURES, LATEST, calendar_features
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.encoding import Encoding, Graph
from services.training.domain.families.frame import Column
from services.training.domain.families.model import Run
from services.training.domain.families.parity import measure_parity
from services.training.domain.families.streamed.budget import Budget
from services.training.domain.families.streamed.fit import Plan, prepare
from services.training.domain.families.streamed.rows import TableRows
from tests.training.families.training import FEW_TREES, train

EPOCH = datetime(1970, 1, 1)
MOMENTS = st.lists(st.integers(EARLIEST, LATEST), min_size=1, max_size=20)
FAMILIES: list[tuple[str, str, dict[str, object]]] = [
    ("linear_regression", "value", {}),
    ("logistic_regression", "is_high", {}),
    ("boosted_trees", "value", FEW_TREES),
    ("mlp", "value", {"epochs": 2}),
]


@given(values=MOMENTS, origin=st.integers(EARLIEST, LATEST))
@settings(deadline=None)
def test_features_are_those_of_the_calendar(values: list[int], origin: int) -> None:
    moments = np.array(values).reshape(-1, 1)
    found = calendar_features(moments, np.zeros_like(moments, bool), np.array([origin]))
    for row, value in zip(found, values, strict=True):
        features = dict(zip(FEATURES, row.tolist(), strict=True))
        moment = EPOCH + timedelta(microseconds=value)
        assert (features["year"], features["month"], features["day"]) == (moment.year, moment.month, moment.day)
        assert features["weekday"] == moment.weekday()
        assert features["is_weekend"] == (moment.weekday() > 4)
        midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        assert features["hour"] == pytest.approx((moment - midnight) / timedelta(hours=1), abs=1e-9)
        assert features["elapsed_days"] == pytest.approx((value - origin) / 86_400e6, rel=1e-12, abs=1e-9)
        assert np.hypot(features["day_sine"], features["day_cosine"]) == pytest.approx(1.0)


@given(values=st.lists(st.none() | st.integers(-(2**62), 2**62), min_size=1, max_size=20))
@settings(deadline=None)
def test_the_graph_gives_the_same_features_to_the_bit(values: list[int | None]) -> None:
    columns = (
        Column("gap", "temporal", "FP64", True, origin=5),
        Column("full", "temporal", "INT64", False, origin=-7),
    )
    encoding = Encoding(columns)
    full = [value or 0 for value in values]
    table = pa.table({"gap": pa.array(values, pa.timestamp("us")), "full": pa.array(full, pa.timestamp("us"))})
    graph = Graph(["features"])
    graph.add("Identity", [encoding.add_numbers(graph, TensorProto.DOUBLE)], output="features")
    output = helper.make_tensor_value_info("features", TensorProto.DOUBLE, [None, encoding.number_count])
    session = onnxruntime.InferenceSession(graph.build(encoding.graph_inputs(), [output]))
    feed = {
        "gap": np.array([np.nan if value is None else float(value) for value in values]).reshape(-1, 1),
        "full": np.array(full, dtype=np.int64).reshape(-1, 1),
    }
    (found,) = session.run(["features"], feed)
    np.testing.assert_array_equal(found, encoding.encode(table).numbers)


def _table(rows: int = 300) -> pa.Table:
    start = datetime(2019, 12, 20, 3, 30)
    moments = [start + timedelta(hours=19 * row) for row in range(rows)]
    value = np.array([2.0 * moment.month + 3.0 * (moment.weekday() > 4) for moment in moments])
    return pa.table(
        {
            "at": pa.array(moments, pa.timestamp("us")),
            "day": pa.array([moment.date() for moment in moments], pa.date32()),
            "zoned": pa.array(moments, pa.timestamp("ns", "Europe/Berlin")),
            "gap": pa.array(
                [None if row % 9 == 0 else moment for row, moment in enumerate(moments)], pa.timestamp("s")
            ),
            "time": pa.array([moment.time() for moment in moments], pa.time64("us")),
            "lasted": pa.array([timedelta(minutes=row) for row in range(rows)], pa.duration("ms")),
            "x": np.random.default_rng(0).normal(size=rows),
            "value": value,
            "is_high": value > np.median(value),
        }
    )


@pytest.mark.parametrize(("family", "target", "given"), FAMILIES)
def test_every_family_learns_from_dates(family: str, target: str, given: dict[str, object]) -> None:
    table = _table().drop(["is_high" if target == "value" else "value"])
    model = train(family, table, target, given).model
    kinds = {column.name: (column.kind, column.datatype) for column in model.columns}
    assert kinds["at"] == kinds["day"] == kinds["zoned"] == kinds["time"] == ("temporal", "INT64")
    assert (kinds["gap"], kinds["lasted"]) == (("temporal", "FP64"), ("numeric", "FP64"))
    parity = measure_parity(model, model.export(), table)
    assert parity.max_difference < 1e-6
    again = fitting.load(model.files())
    np.testing.assert_array_equal(again.predict(table).values, model.predict(table).values)


@pytest.mark.parametrize(("family", "target", "given"), FAMILIES)
def test_every_family_that_streams_learns_from_dates(family: str, target: str, given: dict[str, object]) -> None:
    table = _table().drop(["is_high" if target == "value" else "value"])
    settings = resolve_hyperparameters(family, given)
    plan = Plan(family, target, settings, 1)
    prepared = prepare(plan, TableRows(table, 100), Budget(1 << 28))
    model: Any = prepared.fit(Run(settings, 1, lambda _: None, lambda: False))
    assert measure_parity(model, model.export(), table).max_difference < 1e-6


def test_a_season_is_learned_by_a_linear_model() -> None:
    model = train("linear_regression", _table().select(["at", "value"]), "value").model
    later = [datetime(2021, 7, 5), datetime(2021, 7, 10)]
    monday, saturday = model.predict(pa.table({"at": pa.array(later, pa.timestamp("us"))})).values
    assert (monday, saturday) == (pytest.approx(14.0, abs=1e-6), pytest.approx(17.0, abs=1e-6))


def test_a_moment_is_the_same_in_every_unit_and_zone() -> None:
    model = train("linear_regression", _table().select(["at", "value"]), "value").model
    moment = datetime(2021, 7, 5, 12, tzinfo=UTC)
    kinds = [pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("ms", "Asia/Tokyo"), pa.timestamp("us", "UTC")]
    found = {float(model.predict(pa.table({"at": pa.array([moment], kind)})).values[0]) for kind in kinds}
    assert len(found) == 1


@pytest.mark.parametrize("values", [pa.array([5]), pa.array(["2020-01-01"]), pa.array([1.5])])
def test_what_is_no_date_is_refused(values: pa.Array) -> None:
    model = train("linear_regression", _table().select(["at", "value"]), "value").model
    with pytest.raises(InvalidArgument, match="dates or times") as caught:
        model.predict(pa.table({"at": values}))
    assert caught.value.reason == "COLUMN_TYPE"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("count", pa.array([0], pa.timestamp("us"))),
        ("count", pa.array(["5"])),
        ("count", pa.array([True])),
        ("size", pa.array(["5.0"])),
        ("town", pa.array([True])),
        ("town", pa.array([1.5])),
        ("town", pa.array([0], pa.timestamp("us"))),
        ("is_new", pa.array([1])),
    ],
)
def test_a_value_of_another_kind_is_never_converted_in_silence(name: str, values: pa.Array) -> None:
    table = pa.table(
        {"size": [0.5, 1.0] * 5, "count": [1, 2] * 5, "town": ["a", "b"] * 5, "is_new": [True, False] * 5}
    ).append_column("y", pa.array(np.arange(10.0)))
    model = train("linear_regression", table, "y").model
    row = table.slice(0, 1).drop(["y"])
    with pytest.raises(InvalidArgument) as caught:
        model.predict(row.set_column(row.column_names.index(name), name, values))
    assert caught.value.reason == "COLUMN_TYPE"
    # Whole numbers have one spelling.
    assert len(model.predict(row.set_column(row.column_names.index("town"), "town", pa.array([12]))).values) == 1
