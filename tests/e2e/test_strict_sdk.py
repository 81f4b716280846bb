"""The SDK against a platform: exact ids, kept and lost labels, strict predictions."""

import json
from pathlib import Path

import pandas as pd
import pytest

import lepton
from lepton import errors, steps
from lepton.connection import Connection
from lepton.models import LinearRegression, as_dataset
from tests.support.platform import Platform


@pytest.fixture(scope="module")
def connection(platform: Platform) -> Connection:
    return platform.connect()


def test_ids_with_missing_ones_stay_exact_from_file_to_file(
    platform: Platform, connection: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "exact-ids.csv"
    path.write_text("id,ok,v\n1111111111111111111,true,1\n,,2\n1111111111111111112,false,3\n")
    frame = lepton.load_data(path, label="v", connection=connection)
    assert [str(dtype) for dtype in frame.dtypes] == ["Int64", "boolean", "int64"]
    stored = as_dataset(frame.dropna(), connection)
    assert stored.to_arrow("id")["id"].to_pylist() == [1111111111111111111, 1111111111111111112]
    assert stored.message.label == "v"
    preview = json.loads(platform.lepton("data", "preview", stored.ref, "--json").stdout)
    assert [row["id"] for row in preview] == [1111111111111111111, 1111111111111111112]


def test_one_name_is_a_name_and_a_lost_label_an_error(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_text("x,y,xy,z\n1,2,3,4\n5,6,7,8\n")
    dataset = lepton.Dataset.import_file(path, label="y", connection=connection)
    assert dataset.transform(steps.drop_columns("xy"))[0].columns == ("x", "y", "z")
    assert dataset.transform([steps.drop_columns(["xy"])])[0].columns == ("x", "y", "z")  # type: ignore[arg-type]
    assert list(dataset.to_pandas("xy").columns) == ["xy"]
    with pytest.raises(errors.WrongType, match="transform takes steps"):
        dataset.transform("drop")  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgument, match="test_name is of a split"):
        dataset.transform(steps.drop_missing(), test_name="unused")
    with pytest.raises(errors.WrongType, match="model must be a trained model"):
        lepton.evaluate(5, dataset)  # type: ignore[arg-type]
    (without,) = dataset.transform(steps.drop_columns("y"), name="names-without")
    for data in (without, lepton.load_data(path, label="y", connection=connection).drop(columns="y")):
        with pytest.raises(errors.InvalidArgument, match="say which column to predict") as refused:
            LinearRegression(connection=connection).fit(data)
        assert refused.value.reason == "LABEL_LOST"
    with pytest.raises(errors.MissingColumn, match="did you mean xy"):
        LinearRegression(connection=connection).fit(dataset, target="xyz")


def test_frame_is_predicted_as_strictly_as_rows(connection: Connection) -> None:
    train = pd.DataFrame({"c": [place // 2 for place in range(60)], "b": [place % 2 == 0 for place in range(60)]})
    train["y"] = train["c"] * 10.0 + train["b"] * 300
    model = LinearRegression(name="strict-frames", connection=connection).fit(train, target="y")
    deployment = lepton.Deploy(model).save()
    good = pd.DataFrame({"c": pd.array([2, 3], dtype="Int64"), "b": pd.array([True, False], dtype="boolean")})
    found = deployment.predict(good)["y"]
    assert list(found) == pytest.approx([320, 30], abs=0.1)
    assert list(deployment.predict(good.astype({"c": "float64"}))["y"]) == list(found)
    assert list(deployment.predict_rows(good)["y"]) == pytest.approx(list(found))
    for column, values in (("c", [1.9, 2.0]), ("c", ["1_000", "2"]), ("b", ["False", "True"]), ("b", [1, 0])):
        bad = good.astype({column: object}).assign(**{column: pd.Series(values, dtype=object)})
        for predict in (deployment.predict, lambda frame: deployment.predict_rows(frame.to_dict("records"))):
            with pytest.raises(errors.InvalidArgument, match=rf"row 0, column '{column}'") as refused:
                predict(bad)
            assert refused.value.reason == "BAD_ROW"
    assert list(deployment.predict(good, version=1)["y"]) == list(found)  # type: ignore[arg-type]
    for seconds in ("5", -1, float("nan")):
        with pytest.raises(errors.InvalidArgument, match="timeout_seconds takes a number"):
            deployment.predict(good, timeout_seconds=seconds)  # type: ignore[arg-type]
    with pytest.raises(errors.WrongType, match="score takes a Dataset"):
        deployment.score(good)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgument, match="column 'c' more than once"):
        deployment.predict(pd.concat([good, good[["c"]]], axis=1))
