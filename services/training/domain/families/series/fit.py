"""Fits a network that reads series, by the loop of all networks, and sets how wide its intervals are."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.frame import Array, Column
from services.training.domain.families.model import Run
from services.training.domain.families.neural.rows import class_weights, set_aside
from services.training.domain.families.series.model import SeriesModel
from services.training.domain.families.series.split import latest_rows
from services.training.domain.families.series.steps import series_steps, target_channel
from services.training.domain.families.target import Target

if TYPE_CHECKING:
    from services.training.domain.families.series.network import SeriesNetwork, Shape

# The last share of each series' rows, which a forecast's intervals are measured on.
_ASIDE = 0.1
_LEAST_ASIDE_ROWS = 10


def fit_rnn(
    columns: tuple[Column, ...], table: pa.Table, truth: Array, target: Target, run: Run, base: SeriesModel | None
) -> SeriesModel:
    """Fit a GRU or LSTM; from a base, scaling as that does and starting from its weights.

    Raises:
        InvalidArgument: settings that do not go together, too few rows, or a loss that is no longer a number.
        Stopped: it was cancelled.
    """
    # Here, for a job of another family needs none of it: two seconds and 200 MB.
    from torch import from_numpy

    from services.training.domain.families.neural.batches import Rows
    from services.training.domain.families.neural.loop import train_network
    from services.training.domain.families.series.network import load_network, network_files, new_network

    check_settings(run, target)
    if base is not None:
        run = replace(run, settings=settings_from(base, run))
    steps = series_steps(table, columns)
    aside = _latest(table, target) if target.horizon else set_aside(truth, len(target.classes), run)
    kept = np.flatnonzero(~aside)
    if base is None:
        network = new_network(_shape(columns, steps.shape[1], target, run), run.seed)
        _set_scaling(network, steps[kept], truth[kept], target)
    else:
        # The base stays what it is: it is scored beside its child.
        network = load_network(network_files(base.network))
        network.widening.fill_(1.0)
    if base is not None and run.settings["trainable"] == "last":
        network.recurrent.requires_grad_(False)
    goals = truth.astype(np.float32) if target.horizon else truth
    rows = Rows(from_numpy(steps), from_numpy(goals))
    watched = rows[from_numpy(np.flatnonzero(aside))] if aside.any() and run.number("early_stopping") else None
    learned = rows[from_numpy(kept)]
    lengths = (~learned.inputs.isnan()).any(dim=2).sum(dim=1)
    loss = _loss(network, truth[kept], target, run)
    train_network(network, loss, learned, run, watched, lengths if len(lengths.unique()) > 1 else None)
    if target.horizon:
        _set_widening(network, steps[aside], truth[aside], run.number("coverage"))
    return SeriesModel("rnn", dict(run.settings), columns, target, "ignore", network)


def settings_from(base: SeriesModel, run: Run) -> dict[str, int | float | str | bool]:
    """Return a run's settings with what a base brings along, so that a model tells what it is and is judged alike.

    Its network stays as it is. Its season and coverage count where the run's are the defaults: a resolved setting does
    not tell whether somebody asked for it.
    """
    shape = base.network.shape
    named = ("cell", "hidden_size", "layers", "dropout", "linear_steps", "scaling")
    found = dict(run.settings) | {name: getattr(shape, name) for name in named}
    found["bidirectional"] = "yes" if shape.bidirectional else "no"
    defaults = resolve_hyperparameters(base.family, {})
    for name in ("season", "coverage"):
        if found[name] == defaults[name]:
            found[name] = base.hyperparameters[name]
    if shape.is_forecast:
        found["start"] = "season" if shape.season else "mean"
        found["season"] = shape.season or found["season"]
    return found


def check_settings(run: Run, target: Target) -> None:
    """Check that settings go together.

    Raises:
        InvalidArgument: they do not.
    """
    if target.horizon and run.settings["bidirectional"] == "yes":
        raise InvalidArgument(
            "bidirectional is for classification: a forecast reads its series forward", reason="BAD_HYPERPARAMETER"
        )


def widening(predicted: Array, lower: Array, upper: Array, truth: Array, coverage: float) -> Array:
    """Return by how much intervals must be widened to hold a share of the truth, a factor a step of the horizon.

    Split conformal prediction with a score in units of the interval's own half: if the rows are exchangeable with those
    to come, the share holds for these, whatever the network learned.

    Args:
        predicted: (rows, horizon) of rows that the network did not learn from.
        lower: ends of their intervals, of the same shape, as is what follows.
        upper: the other ends.
        truth: what came.
        coverage: the share, 0 to 1.

    Source: Lei et al., Distribution-free predictive inference for regression, JASA 113, 2018; Romano et al.,
        Conformalized quantile regression, NeurIPS 2019.
    """
    tiny = np.finfo(np.float64).tiny
    scores = np.maximum(
        (truth - predicted) / np.maximum(upper - predicted, tiny),
        (predicted - truth) / np.maximum(predicted - lower, tiny),
    )
    rank = min(int(np.ceil((len(truth) + 1) * coverage)), len(truth))
    return np.asarray(np.sort(scores, axis=0)[rank - 1])


def _latest(table: pa.Table, target: Target) -> Array:
    """Return which rows set the intervals: each series' last, for windows beside each other hold the same steps."""
    aside = latest_rows(table, target.name, _ASIDE)
    if aside.sum() < _LEAST_ASIDE_ROWS:
        raise InvalidArgument(
            f"{len(aside)} windows are too few to forecast from: a tenth of them tells how wide intervals are, and "
            f"that must be {_LEAST_ASIDE_ROWS} at least",
            reason="TOO_FEW_ROWS",
        )
    return aside


def _shape(columns: tuple[Column, ...], steps: int, target: Target, run: Run) -> "Shape":
    from services.training.domain.families.series.network import Shape

    is_forecast = target.horizon > 0
    return Shape(
        cell=str(run.settings["cell"]),
        channels=len(columns),
        hidden_size=int(run.number("hidden_size")),
        layers=int(run.number("layers")),
        bidirectional=run.settings["bidirectional"] == "yes",
        dropout=run.number("dropout"),
        linear_steps=min(int(run.number("linear_steps")), steps),
        scaling=str(run.settings["scaling"]),
        outputs=target.horizon or len(target.classes),
        is_forecast=is_forecast,
        season=int(run.number("season")) if is_forecast and run.settings["start"] == "season" else 0,
        own=target_channel(columns, target.name) if is_forecast else None,
    )


def _set_scaling(network: "SeriesNetwork", steps: Array, truth: Array, target: Target) -> None:
    """Scale channels and goals by what the rows hold; a forecast of a channel by that channel."""
    from torch import from_numpy

    mean = np.nanmean(steps, axis=(0, 1), dtype=np.float64)
    std = np.nanstd(steps, axis=(0, 1), dtype=np.float64)
    mean, std = np.asarray(np.nan_to_num(mean)), np.where(std > 0, np.nan_to_num(std, nan=1.0), 1.0)
    network.mean.copy_(from_numpy(mean))
    network.std.copy_(from_numpy(std))
    own = network.shape.own
    if target.horizon:
        network.goal_mean.fill_(float(truth.mean() if own is None else mean[own]))
        network.goal_std.fill_(float(truth.std() or 1.0 if own is None else std[own]))


def _loss(network: "SeriesNetwork", truth: Array, target: Target, run: Run) -> Any:
    import torch
    from torch import nn

    if target.classes:
        weights = torch.tensor(class_weights(truth, len(target.classes), run)).float()
        return nn.CrossEntropyLoss(weight=weights)
    tail, unit = (1.0 - run.number("coverage")) / 2.0, float(network.goal_std)

    def pinball(found: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        """Return the quantile loss of the median and both ends, in units of the target's spread."""
        total = torch.zeros((), device=found.device)
        for place, quantile in enumerate((0.5, tail, 1.0 - tail)):
            over = (goals - found[:, place]) / unit
            total = total + torch.maximum(quantile * over, (quantile - 1.0) * over).mean()
        return total

    return pinball


def _set_widening(network: "SeriesNetwork", steps: Array, truth: Array, coverage: float) -> None:
    import torch

    network.eval()
    with torch.inference_mode():
        found = np.concatenate([network(part).double().numpy() for part in torch.from_numpy(steps).split(256)])
    with torch.no_grad():
        network.widening.copy_(torch.from_numpy(widening(found[:, 0], found[:, 1], found[:, 2], truth, coverage)))
