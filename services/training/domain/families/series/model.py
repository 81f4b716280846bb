"""A model that reads series: its network, predicting, exported, stored and loaded again."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from services.training.domain.families.frame import Array, Column
from services.training.domain.families.model import STATE_FILE, Description, Input, Predictions
from services.training.domain.families.series.steps import series_steps, target_channel
from services.training.domain.families.target import Target

if TYPE_CHECKING:
    from services.training.domain.families.series.network import SeriesNetwork

_BATCH_ROWS = 256
# Steps in single precision that are this share of their size apart are the same but for rounding.
_ROUNDING = 4.0 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class SeriesModel:
    """A model of series that was trained here.

    Args:
        family: its family.
        hyperparameters: as resolved.
        columns: those with the series.
        target: what it predicts.
        handle_unknown: ignore.
        network: steps to log odds or forecasts, in torch.
    """

    family: str
    hyperparameters: dict[str, int | float | str | bool]
    columns: tuple[Column, ...]
    target: Target
    handle_unknown: str
    network: "SeriesNetwork"

    def inputs(self) -> tuple[Input, ...]:
        """Return what the export takes: (rows, steps) a channel."""
        return tuple(Input(column.name, "FP32", (-1, -1), column) for column in self.columns)

    def predict(self, table: pa.Table) -> Predictions:
        """Return predictions for a table's rows.

        Raises:
            InvalidArgument: a column of series lacks, or a row has no value in any.
        """
        import torch

        parts, seasonal = [np.zeros((0, *self._answer_shape()))], _SeasonalError(self._past(), self._season)
        with torch.inference_mode():
            for steps in self._batches(table):
                seasonal.add(steps)
                parts.append(self.network(torch.from_numpy(steps)).double().numpy())
        found = np.concatenate(parts)
        if self.target.classes:
            odds = np.exp(found - found.max(axis=1, keepdims=True))
            return Predictions(found.argmax(axis=1), odds / odds.sum(axis=1, keepdims=True))
        return Predictions(found[:, 0], None, (found[:, 1], found[:, 2]), seasonal.mean())

    def feeds(self, table: pa.Table) -> Iterator[tuple[Array, dict[str, Array]]]:
        """Yield places of a table's rows, and these rows as the export takes them."""
        start = 0
        for steps in self._batches(table):
            channels = {column.name: steps[:, :, place].copy() for place, column in enumerate(self.columns)}
            yield np.arange(start, start + len(steps)), channels
            start += len(steps)

    def export(self) -> bytes:
        """Return the ONNX model: a tensor a channel in; a class, or a forecast with its interval, out."""
        from services.training.domain.families.series.graph import SeriesGraph
        from services.training.domain.families.series.network import LEAST_SPREAD

        weights = {name: value.numpy() for name, value in self.network.state_dict().items()}
        names = [column.name for column in self.columns]
        return SeriesGraph(asdict(self.network.shape), weights, names, LEAST_SPREAD).build(self.target)

    def files(self) -> dict[str, bytes]:
        """Return the trainable state, from which `load` makes the model again."""
        from services.training.domain.families.series.network import network_files

        return {STATE_FILE: Description.of(self).to_json(), **network_files(self.network)}

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """Return the model that gave some files."""
        from services.training.domain.families.series.network import load_network

        return cls(**vars(Description.read(files)), network=load_network(files))

    @property
    def _season(self) -> int:
        return int(self.hyperparameters["season"])

    def _past(self) -> int | None:
        return target_channel(self.columns, self.target.name) if self.target.horizon else None

    def _answer_shape(self) -> tuple[int, ...]:
        return (len(self.target.classes),) if self.target.classes else (3, self.target.horizon)

    def _batches(self, table: pa.Table) -> Iterator[Array]:
        for start in range(0, table.num_rows, _BATCH_ROWS):
            yield series_steps(table.slice(start, _BATCH_ROWS), self.columns)


class _SeasonalError:
    """How far steps lie from those a season before, over all rows.

    Args:
        channel: which one; None for nothing to look at.
        season: steps.
    """

    def __init__(self, channel: int | None, season: int) -> None:
        self._channel = channel
        self._season = season
        self._sum = self._size = 0.0
        self._count = 0

    def add(self, steps: Array) -> None:
        """Look at some rows."""
        if self._channel is None:
            return
        past = steps[:, :, self._channel].astype(np.float64)
        apart = np.abs(past[:, self._season :] - past[:, : -self._season])
        is_known = np.isfinite(apart)
        self._sum += float(apart[is_known].sum())
        self._size += float(np.abs(past[:, self._season :][is_known]).sum())
        self._count += int(is_known.sum())

    def mean(self) -> float | None:
        """Return their mean distance; None where no row is long enough, or every season is the last one again."""
        return self._sum / self._count if self._sum > _ROUNDING * self._size else None
