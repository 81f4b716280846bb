"""Boosted trees over rows that stream: LightGBM bins them as they come, one byte a value in place of eight."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from services.training.domain.families.categories import FOLDS, class_outcomes, smoothed
from services.training.domain.families.encoding import Encoding
from services.training.domain.families.frame import Array
from services.training.domain.families.lightgbm_library import load_lightgbm
from services.training.domain.families.logistic import balance
from services.training.domain.families.model import Run, Stopped
from services.training.domain.families.streamed.budget import Budget
from services.training.domain.families.streamed.draws import Division, Purpose, drawn_points
from services.training.domain.families.streamed.parted import Measured, Part, Parted
from services.training.domain.families.streamed.rows import TableRows
from services.training.domain.families.target import Target
from services.training.domain.families.target_units import OWN_UNIT, tree_unit
from services.training.domain.families.trees import TreesCore, callbacks, core_of, parameters

# Beside its bins, what LightGBM keeps of a row (measured): label, score, gradients, places in leaves.
_ROW_BYTES = 48
# It holds the bins by column and by row.
_BIN_BYTES = 2
# A row of its sample, beside the values: an object of Python's.
_SAMPLED_ROW_BYTES = 160
_SAMPLED_ROWS = 200_000
_LEAST_ROWS = 1000
_INDEXES = 1 << 20


def fit_trees(parted: Parted, measured: Measured, aside: pa.Table | None, run: Run, budget: Budget) -> TreesCore:
    """Boost trees on all rows, or on a draw of as many as fit once they are binned; that is told.

    Args:
        parted: the rows to learn from.
        measured: what is known of them.
        aside: rows that only decide when to stop, and how probabilities are calibrated.
        run: settings, seed, progress.
        budget: of memory.
    """
    lightgbm = load_lightgbm()
    target = parted.schema.target
    unit = OWN_UNIT if target.classes else tree_unit(float(measured.truth.mean[0]), float(measured.truth.spread[0]))
    sums = _CategorySums(parted.encoding, target, measured, run)
    if parted.encoding.categorical:
        for part in parted.parts():
            _check(run)
            sums.update(part)
    features = parted.encoding.number_count + len(parted.encoding.categorical)
    most = max(budget.memory_bytes // (_ROW_BYTES + _BIN_BYTES * features), _LEAST_ROWS)
    drawn = _Drawn(parted.parts, sums.training_features, measured.rows, min(1.0, most / measured.rows), run)
    _warn_of_draw(drawn, run)
    labels, weights = np.zeros(drawn.count, np.float32), None
    if target.classes and run.settings["class_weight"] == "balanced":
        weights = np.zeros(drawn.count, np.float32)
    class_weights = balance(measured.class_rows) if weights is not None else np.zeros(0)

    class Rows(lightgbm.Sequence):  # type: ignore[misc, name-defined]
        """What LightGBM asks for: some single rows in order, then all of them in order."""

        def __len__(self) -> int:
            return drawn.count

        def __getitem__(self, index: Any) -> Array:
            if not isinstance(index, slice):
                return np.array(drawn.read(int(index), int(index) + 1)[0][0])
            rows, truth = drawn.read(index.start, index.stop)
            labels[index] = truth if target.classes else unit.learned(truth)
            if weights is not None:
                weights[index] = class_weights[truth]
            return rows

    sampled = budget.memory_bytes // 4 // (_SAMPLED_ROW_BYTES + 32 * features)
    most_sampled = int(min(max(sampled, _LEAST_ROWS), _SAMPLED_ROWS))
    settings = parameters(target, run, drawn.count, unit) | {"bin_construct_sample_cnt": most_sampled}
    # Labels and weights are filled while the rows are read, and looked at afterwards.
    data = lightgbm.Dataset(Rows(), labels, weight=weights, params=settings, free_raw_data=True)
    watched, aside_features, aside_truth = [], np.zeros((0, features)), np.zeros(0)
    if aside is not None:
        aside_features, aside_truth = _whole(Parted(TableRows(aside), parted.schema, Division(())), sums)
        aside_truth = aside_truth if target.classes else unit.learned(aside_truth)
        watched = [data.create_valid(aside_features, aside_truth)]
    booster = lightgbm.train(
        settings,
        data,
        num_boost_round=int(run.number("n_estimators")),
        valid_sets=watched,
        valid_names=["validation"] * len(watched),
        callbacks=callbacks(lightgbm, run, stops_early=bool(run.number("early_stopping") and aside is not None)),
    )
    return core_of(booster, sums.values, target, run, aside_features, aside_truth, unit=unit)


def _warn_of_draw(drawn: "_Drawn", run: Run) -> None:
    if drawn.count < drawn.rows:
        run.warn(
            f"it learned from {drawn.count:,} of {drawn.rows:,} rows, as many as fit into the memory declared: declare "
            "more memory for all"
        )


class _CategorySums:
    """The outcomes of the rows that have each category, by fold: as `categories.training_values`, row by row."""

    def __init__(self, encoding: Encoding, target: Target, measured: Measured, run: Run) -> None:
        self._seed = run.seed
        self._outcomes = class_outcomes(measured.class_rows) if target.task == "multiclass" else None
        self._counts, self._sums = np.zeros((2, FOLDS, encoding.unknown + 1))
        self._rows, self._totals = np.zeros((2, FOLDS))

    def update(self, part: Part) -> None:
        """Add rows."""
        outcomes = part.truth.astype(float) if self._outcomes is None else self._outcomes[part.truth]
        folds = self._folds(part)
        self._rows += np.bincount(folds, minlength=FOLDS)
        self._totals += np.bincount(folds, outcomes, minlength=FOLDS)
        for place in range(part.encoded.codes.shape[1]):
            np.add.at(self._counts, (folds, part.encoded.codes[:, place]), 1.0)
            np.add.at(self._sums, (folds, part.encoded.codes[:, place]), outcomes)

    @property
    def values(self) -> Array:
        """(known categories + 1,) of all rows."""
        return smoothed(self._counts.sum(axis=0), self._sums.sum(axis=0), self._totals.sum() / max(self._rows.sum(), 1))

    def training_features(self, part: Part) -> Array:
        """Return (rows, features), each category's value from the outcomes of other rows alone."""
        others = [
            smoothed(
                self._counts.sum(axis=0) - self._counts[fold],
                self._sums.sum(axis=0) - self._sums[fold],
                (self._totals.sum() - self._totals[fold]) / max(self._rows.sum() - self._rows[fold], 1),
            )
            for fold in range(FOLDS)
        ]
        codes = np.array(others)[self._folds(part)[:, None], part.encoded.codes]
        return np.concatenate([part.encoded.numbers, codes], axis=1)

    def features(self, part: Part) -> Array:
        """Return (rows, features) of rows that were not learned from."""
        return np.concatenate([part.encoded.numbers, self.values[part.encoded.codes]], axis=1)

    def _folds(self, part: Part) -> Array:
        return np.asarray((drawn_points(part.places, self._seed, Purpose.FOLDS) * FOLDS).astype(np.int64))


class _Drawn:
    """Rows by their number among those that are drawn, read in ascending order, from the start as often as is needed.

    Args:
        parts: reads the rows afresh.
        features: makes LightGBM's of some.
        rows: how many there are to draw from.
        share: that is drawn.
        run: seed; stops.
    """

    def __init__(
        self, parts: Callable[[], Iterator[Part]], features: Callable[[Part], Array], rows: int, share: float, run: Run
    ) -> None:
        self._parts = parts
        self._features = features
        self._share = share
        self._run = run
        self.rows = rows
        starts = range(0, rows, _INDEXES)
        self.count = sum(int(self._takes(start, min(start + _INDEXES, rows)).sum()) for start in starts)
        self._reading: Iterator[tuple[Array, Array]] = iter(())
        self._held, self._truth = np.zeros((0, 0)), np.zeros(0)
        self._start = rows

    def read(self, start: int, stop: int) -> tuple[Array, Array]:
        """Return (rows, features) and (rows,) truth of some rows."""
        if start < self._start:
            self._reading, self._start = self._passed(), 0
            self._held, self._truth = next(self._reading)
        found: list[tuple[Array, Array]] = []
        while start < stop:
            while start >= self._start + len(self._held):
                self._start += len(self._held)
                self._held, self._truth = next(self._reading)
            part = slice(start - self._start, stop - self._start)
            found.append((self._held[part], self._truth[part]))
            start += len(found[-1][0])
        features, truth = zip(*found, strict=True)
        return (features[0], truth[0]) if len(found) == 1 else (np.concatenate(features), np.concatenate(truth))

    def _passed(self) -> Iterator[tuple[Array, Array]]:
        index = 0
        for part in self._parts():
            _check(self._run)
            taken = np.flatnonzero(self._takes(index, index + len(part)))
            index += len(part)
            if len(taken):
                drawn = part[taken]
                yield self._features(drawn), drawn.truth

    def _takes(self, start: int, stop: int) -> Array:
        if self._share >= 1:
            return np.ones(stop - start, dtype=bool)
        return np.asarray(drawn_points(np.arange(start, stop), self._run.seed, Purpose.FITTING) < self._share)


def _whole(parted: Parted, sums: _CategorySums) -> tuple[Array, Array]:
    """Return (rows, features) and (rows,) truth of all rows."""
    found = [(sums.features(part), part.truth) for part in parted.parts()]
    return np.concatenate([rows for rows, _ in found]), np.concatenate([truth for _, truth in found])


def _check(run: Run) -> None:
    if run.is_cancelled():
        raise Stopped
