"""Windows, a forecast and its intervals, on a whole platform; and the example of the bikes, as its README says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lepton
from lepton import steps
from tests.support.platform import Platform

SCRIPT = Path(__file__).parents[2] / "examples" / "series" / "train.py"
LEVELS = {"a": 0.0, "b": 100.0}


def _hours() -> pd.DataFrame:
    """Return two noisy waves, hour by hour, one hour of them missing."""
    draw = np.random.default_rng(0)
    times = pd.date_range("2024-01-01", periods=240, freq="h")
    parts = [
        pd.DataFrame(
            {
                "shop": shop,
                "time": times,
                "sold": level + 5 * np.sin(2 * np.pi * np.arange(240) / 12) + draw.normal(0, 0.5, 240),
            }
        )
        for shop, level in LEVELS.items()
    ]
    frame = pd.concat(parts, ignore_index=True)
    frame.loc[100, "sold"] = np.nan
    return frame


def test_series_are_windowed_forecast_deployed_and_scored(platform: Platform) -> None:
    connection = platform.connect()
    hours = lepton.Dataset.import_frame(_hours(), "sold-hours", connection=connection)
    windows = hours.windows("time", ["sold"], 24, horizon=6, target="sold", series="shop", min_length=12)
    assert (windows.message.label, windows.columns) == ("sold_next", ("shop", "time", "sold", "sold_next"))
    # 240 hours of each shop, less 11 before the shortest window and 6 behind; and 6 with the missing hour to forecast.
    assert windows.message.rows == 2 * (240 - 11 - 6) - 6
    (train,) = windows.transform(steps.filter("time < '2024-01-08'"), name="sold-train")
    (test,) = windows.transform(steps.filter("time >= '2024-01-08 06:00'"), name="sold-test")
    model = lepton.RNN(name="sold", season=12, epochs=4, hidden_size=16, connection=connection).fit(
        train, evaluation_data=test
    )
    assert set(model.metrics) == {"mae", "rmse", "mase", "coverage", "mean_interval_width"}
    assert model.metrics["mae"] < 2.5
    deployment = lepton.Deploy(model).save()
    rows = test.to_pandas()
    found = deployment.predict(rows)
    assert list(found.columns) == ["sold_next", "lower", "upper"]
    values = {name: np.stack(list(found[name])) for name in found}
    assert values["sold_next"].shape == (len(rows), 6)
    assert (values["lower"] <= values["sold_next"]).all()
    truth = np.stack(list(rows["sold_next"]))
    assert np.abs(values["sold_next"] - truth).mean() == pytest.approx(model.metrics["mae"], rel=1e-4)
    coverage = ((values["lower"] <= truth) & (truth <= values["upper"])).mean()
    assert coverage == pytest.approx(model.metrics["coverage"], abs=0.002)

    # A shorter row beside a longer one, and by every other way in the same.
    two = pd.DataFrame({"sold": [rows["sold"][0], rows["sold"][0][-15:]]})
    by_tensor, by_row = deployment.predict(two), deployment.predict_rows(two.to_dict("records"))
    alone = deployment.predict(two.iloc[1:])
    for name in found:
        np.testing.assert_allclose(np.stack(list(by_row[name])), np.stack(list(by_tensor[name])), rtol=1e-5)
        np.testing.assert_allclose(alone[name].iloc[0], by_tensor[name][1], rtol=1e-4, atol=1e-4)
    scored = deployment.score(test, name="sold-scored").to_pandas()
    np.testing.assert_allclose(np.stack(list(scored["sold_next_predicted"])), values["sold_next"], rtol=1e-5, atol=1e-4)

    record = json.dumps({"sold": rows["sold"][0].tolist()})
    (answer,) = json.loads(platform.lepton("predict", "sold", "--row", record, "--json").stdout)
    np.testing.assert_allclose(answer["sold_next"], values["sold_next"][0], rtol=1e-5, atol=1e-4)
    told = platform.lepton(
        *("data", "windows", hours.ref, "--order", "time", "--channel", "sold", "--series", "shop", "--length", "24"),
        *("--stride", "24", "--name", "sold-latest", "--json"),
    )
    assert json.loads(told.stdout)["rows"] == "20"


def _run(platform: Platform, *arguments: str) -> tuple[dict[str, float], dict[str, float]]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=platform.environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^\{.*\}$", done.stdout, re.MULTILINE)
    metrics, rivals = (json.loads(line.replace("'", '"')) for line in lines)
    return metrics, rivals


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_bikes_are_forecast_better_than_by_yesterday_and_by_linear_autoregression(platform: Platform) -> None:
    metrics, rivals = _run(platform)
    assert metrics["mae"] < rivals["linear autoregression"] < rivals["seasonal naive"]
    # Asked for 0.9; the last two months are not quite like those before.
    assert 0.85 < metrics["coverage"] < 0.95
