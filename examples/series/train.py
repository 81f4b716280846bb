"""Hours of bike hire to forecasts with intervals, by a GRU: `lepton up --detach`, then `python train.py`.

From the last two days it forecasts the next 24 hours. Ten months train it, November and December judge it, beside
repeating yesterday and a linear regression on the same hours; a few minutes on a core. `--epochs 2` shows the way.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import lepton
from lepton import steps

_DATA = Path(__file__).with_name("bike_hours.csv")
_LENGTH, _HORIZON, _SEASON = 48, 24, 24
_CHANNELS = ["bikers", "temperature", "humidity", "working_day_ahead", "hour_sin", "hour_cos"]
# No window to train on forecasts an hour that a window to test on forecasts.
_TRAIN, _TEST = "time < '2011-10-30 23:00'", "time >= '2011-10-31 23:00'"


def read_hours() -> pd.DataFrame:
    """Return every hour of the year, those without a record as missing, with what is known of it beforehand."""
    hours = pd.read_csv(_DATA, parse_dates=["time"]).set_index("time").asfreq("h")
    # The calendar tells today whether tomorrow is a working day.
    hours["working_day_ahead"] = hours.pop("working_day").groupby(hours.index.date).transform("max").shift(-24)
    angle = 2 * np.pi * hours.index.hour / 24
    return hours.assign(hour_sin=np.sin(angle), hour_cos=np.cos(angle)).reset_index()


def errors_of_rivals(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, float]:
    """Return the mean absolute error of two forecasts that need no network.

    Args:
        train: windows to learn from.
        test: windows to judge on.
    """
    truth = np.stack(list(test["bikers_next"]))
    naive = _history(test)[:, -_SEASON:, 0][:, np.arange(_HORIZON) % _SEASON]
    known, asked = (_with_one(_history(windows).reshape(len(windows), -1)) for windows in (train, test))
    weights, *_ = np.linalg.lstsq(known, np.stack(list(train["bikers_next"])), rcond=None)
    return {
        "seasonal naive": float(np.abs(naive - truth).mean()),
        "linear autoregression": float(np.abs(asked @ weights - truth).mean()),
    }


def _history(windows: pd.DataFrame) -> np.ndarray:
    """Return (windows, steps, channels), what is missing as the mean of its window."""
    found = np.stack([np.stack(list(windows[name])) for name in _CHANNELS], axis=2)
    return np.where(np.isnan(found), np.nanmean(found, axis=1, keepdims=True), found)


def _with_one(columns: np.ndarray) -> np.ndarray:
    return np.column_stack((columns, np.ones(len(columns))))


def main() -> None:
    """Import, make windows, train, deploy, predict; print what came of it."""
    given = _arguments()
    hours = lepton.Dataset.import_frame(read_hours(), "bike-hours")
    windows = hours.windows("time", _CHANNELS, _LENGTH, horizon=_HORIZON, target="bikers", stride=3)
    (train,) = windows.transform(steps.filter(_TRAIN), name="bike-train")
    (test,) = windows.transform(steps.filter(_TEST), name="bike-test")
    model = lepton.RNN(
        name="bikes",
        hidden_size=64,
        dropout=0.2,
        season=_SEASON,
        scaling="global",
        linear_steps=_LENGTH,
        epochs=given.epochs,
        seed=given.seed,
    ).fit(train, evaluation_data=test)
    print(f"{model.trained_version().ref}: {train.message.rows:,} windows learned, {test.message.rows:,} judged")
    print({name: round(value, 3) for name, value in model.metrics.items()})
    rivals = errors_of_rivals(train.to_pandas(), test.to_pandas())
    print({name: round(value, 3) for name, value in rivals.items()})
    print(lepton.Deploy(model).save().predict(test.head(2)).map(lambda steps: np.round(steps[:6])).to_string())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30, help="passes over the windows (30)")
    parser.add_argument("--seed", type=int, default=0, help="of every random draw (0)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
