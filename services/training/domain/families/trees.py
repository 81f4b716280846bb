"""Gradient-boosted trees by LightGBM, exported as one tree ensemble.

A categorical column becomes one number: the mean outcome of the rows that have the value (categories.py), so that a
threshold parts the values and a request costs one look-up. An unknown value lies at the mean of all rows.
"""

import json
import time
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from onnx import TensorProto

from services.training.domain.families.aside import drawn_aside
from services.training.domain.families.calibration import AS_IT_IS, Calibration, fit_calibration
from services.training.domain.families.categories import category_values, outcome, training_values, values_of
from services.training.domain.families.encoding import Encoded, Encoding, Graph
from services.training.domain.families.frame import Array
from services.training.domain.families.lightgbm_library import load_lightgbm
from services.training.domain.families.linear import add_probabilities, probabilities
from services.training.domain.families.logistic import balanced_weights
from services.training.domain.families.model import Progress, Run, Stopped
from services.training.domain.families.target import Target
from services.training.domain.families.target_units import OWN_UNIT, Unit, mean_and_spread, tree_unit
from services.training.domain.families.tree_graph import Ensemble

TREES_FILE = "trees.txt"
CATEGORIES_FILE = "categories.json"
_ASIDE = 0.1
_LEAST_ASIDE_ROWS = 20
# LightGBM's own least rows of a bin.
_BIN_ROWS = 3
_LEAST_BAG_ROWS = 2
# What looking at the training loss may take: of small tables in every round, of large ones this share of the time.
_LOOK_SECONDS, _LOOK_SHARE = 0.2, 0.02


@dataclass(frozen=True)
class TreesCore:
    """A LightGBM model and the values of categories.

    Args:
        booster_text: LightGBM's own text format.
        category_values: (known categories + 1,) number of each category; the last for unknown ones.
        task: regression, binary or multiclass.
        calibration: of its log odds.
        unit: of the values that the trees give, for regression.
    """

    booster_text: str
    category_values: Array
    task: str
    calibration: Calibration = AS_IT_IS
    unit: Unit = OWN_UNIT

    def scores(self, encoded: Encoded) -> Array:
        """Return (rows,) values, or (rows, classes) probabilities."""
        features = np.concatenate([encoded.numbers, values_of(encoded, self.category_values)], axis=1)
        found = np.asarray(self.booster().predict(features, num_threads=1, raw_score=True))
        if self.task == "regression":
            return self.unit.restored(found)
        return probabilities(self.calibration.apply(found.reshape(len(features), -1)))

    def add_scores(self, graph: Graph, encoding: Encoding) -> str:
        """Add the nodes that give the same."""
        parts = []
        if encoding.number_count:
            parts.append(encoding.add_numbers(graph, TensorProto.DOUBLE))
        if encoding.categorical:
            parts.append(encoding.add_codes(graph, self.category_values))
        features = graph.add("Concat", parts, axis=1) if len(parts) > 1 else parts[0]
        ensemble = Ensemble(self.booster().dump_model())
        raw = graph.add("TreeEnsemble", [features], domain="ai.onnx.ml", **ensemble.attributes())
        if self.task == "regression":
            if self.unit == OWN_UNIT:
                return raw
            spread = graph.add("Mul", [raw, graph.constant(np.array([[self.unit.spread]]))])
            return graph.add("Add", [spread, graph.constant(np.array([[self.unit.offset]]))])
        if self.calibration != AS_IT_IS:
            sloped = graph.add("Mul", [raw, graph.constant(np.array([[self.calibration.slope]]))])
            raw = graph.add("Add", [sloped, graph.constant(np.array([[self.calibration.shift]]))])
        return add_probabilities(graph, raw, 1 if self.task == "binary" else 2)

    def files(self) -> dict[str, bytes]:
        """Return the trees as LightGBM's text, and the values of categories and the calibration as JSON."""
        categories = {
            "task": self.task,
            "values": [float(value) for value in self.category_values],
            "calibration": asdict(self.calibration),
            "unit": asdict(self.unit),
        }
        return {TREES_FILE: self.booster_text.encode(), CATEGORIES_FILE: json.dumps(categories).encode()}

    @classmethod
    def load(cls, files: dict[str, bytes]) -> Self:
        """Return the core that gave the files."""
        categories = json.loads(files[CATEGORIES_FILE])
        # Models of before have neither.
        calibration, unit = Calibration(**categories.get("calibration", {})), Unit(**categories.get("unit", {}))
        return cls(files[TREES_FILE].decode(), np.array(categories["values"]), categories["task"], calibration, unit)

    def booster(self) -> Any:
        """Return LightGBM's own."""
        return load_lightgbm().Booster(model_str=self.booster_text)


def fit_trees(
    encoding: Encoding, encoded: Encoded, truth: Array, target: Target, run: Run, base: TreesCore | None
) -> TreesCore:
    """Boost trees; from a base, further ones on its values of categories, calibrated as that unless anew."""
    lightgbm = load_lightgbm()
    unit = base.unit if base else OWN_UNIT if target.classes else tree_unit(*mean_and_spread(truth))
    truth = truth if target.classes else unit.learned(truth)
    outcomes = outcome(truth, target)
    if base is None:
        values = category_values(encoding, encoded.codes, outcomes)
        codes = training_values(encoding, encoded.codes, outcomes, run.seed)
    else:
        values = base.category_values
        codes = values_of(encoded, values)
    # Copies of what may be most of the memory are made only where something changes.
    features = np.concatenate([encoded.numbers, codes], axis=1) if codes.shape[1] else encoded.numbers
    aside = _set_aside(truth, target, run)
    learned = np.flatnonzero(~aside) if aside.any() else slice(None)
    weights = _row_weights(truth[learned], target, run)
    data = lightgbm.Dataset(features[learned], truth[learned], weight=weights, free_raw_data=False)
    watched = [data.create_valid(features[aside], truth[aside])] if aside.any() else []
    booster = lightgbm.train(
        parameters(target, run, len(truth[learned]), unit),
        data,
        num_boost_round=int(run.number("n_estimators")),
        valid_sets=watched,
        valid_names=["validation"] * len(watched),
        init_model=base.booster() if base else None,
        callbacks=callbacks(lightgbm, run, stops_early=bool(run.number("early_stopping") and aside.any())),
    )
    calibration = base.calibration if base else AS_IT_IS
    return core_of(booster, values, target, run, features[aside], truth[aside], calibration, unit)


def core_of(
    booster: Any,
    values: Array,
    target: Target,
    run: Run,
    features: Array,
    truth: Array,
    calibration: Calibration = AS_IT_IS,
    unit: Unit = OWN_UNIT,
) -> TreesCore:
    """Return what boosting has learned, calibrated on rows that it did not learn from where that is asked for.

    Args:
        booster: LightGBM's.
        values: of the categories.
        target: what is predicted.
        run: settings.
        features: (rows, features) of the rows that were set aside.
        truth: (rows,) of them.
        calibration: where that is not asked for, or there are no such rows.
        unit: that values were learned in.
    """
    # 0 rounds that are best means that none was sought: all.
    best = booster.best_iteration if booster.best_iteration > 0 else None
    if run.settings["calibration"] == "on" and target.classes and len(truth):
        odds = np.asarray(booster.predict(features, num_iteration=best, num_threads=1, raw_score=True))
        calibration = fit_calibration(odds.reshape(len(truth), -1), truth)
    return TreesCore(booster.model_to_string(num_iteration=best), values, target.task, calibration, unit)


def _row_weights(truth: Array, target: Target, run: Run) -> Array | None:
    if not target.classes or run.settings["class_weight"] == "none":
        return None
    return balanced_weights(truth, len(target.classes))


def _set_aside(truth: Array, target: Target, run: Run) -> Array:
    """Return which rows only decide when to stop, and how probabilities are calibrated; none where nobody asks."""
    count = round(len(truth) * _ASIDE)
    is_asked = run.number("early_stopping") or run.settings["calibration"] == "on"
    is_drawn = is_asked and count >= _LEAST_ASIDE_ROWS
    return drawn_aside(truth, len(target.classes), count if is_drawn else 0, run.seed)


def callbacks(lightgbm: Any, run: Run, *, stops_early: bool) -> list[Any]:
    """Return what tells of every round, and ends boosting where it is cancelled or gains no more."""
    rounds, training_loss = int(run.number("n_estimators")), _TrainingLoss()

    def follow(state: Any) -> None:
        if run.is_cancelled():
            raise Stopped
        done = state.iteration - state.begin_iteration + 1
        scores = state.evaluation_result_list or training_loss.look(state.model, is_last=done == rounds)
        metrics = {f"{where}_{name}": float(value) for where, name, value, _ in scores}
        run.report(Progress(done / rounds, f"round {done} of {rounds}", done, metrics))

    # Reports come first: the round that stops is one, too.
    follow.order = 0  # type: ignore[attr-defined]
    if not stops_early:
        return [follow]
    return [follow, lightgbm.early_stopping(int(run.number("early_stopping")), verbose=False)]


class _TrainingLoss:
    """The loss on the rows that are learned from, where none are aside: looked at as often as takes little of the time.

    On a million rows it costs a third of what a round does.
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._spent = 0.0

    def look(self, booster: Any, *, is_last: bool) -> list[tuple[str, str, float, bool]]:
        """Return it as LightGBM tells it; nothing where it was looked at lately."""
        now = time.perf_counter()
        if self._spent > _LOOK_SECONDS + _LOOK_SHARE * (now - self._began) and not is_last:
            return []
        found = [("train", name, value, is_better) for _, name, value, is_better in booster.eval_train()]
        self._spent += time.perf_counter() - now
        return found


def parameters(target: Target, run: Run, rows: int, unit: Unit = OWN_UNIT) -> dict[str, int | float | str | bool]:
    """Return LightGBM's parameters for some rows, and a target that is learned in a unit."""
    settings = run.settings
    # LightGBM fails on a share of less than one row.
    least_share = min(1.0, _LEAST_BAG_ROWS / max(rows, 1))
    return {
        # LightGBM calls the tasks as we do.
        "objective": target.task,
        **({"num_class": len(target.classes)} if target.task == "multiclass" else {}),
        "learning_rate": settings["learning_rate"],
        "num_leaves": settings["num_leaves"],
        "max_depth": settings["max_depth"],
        "min_data_in_leaf": settings["min_child_samples"],
        # A bin of several values would be the smaller leaf.
        "min_data_in_bin": min(_BIN_ROWS, int(run.number("min_child_samples"))),
        "bagging_fraction": max(run.number("subsample"), least_share),
        "bagging_freq": 1 if run.number("subsample") < 1 else 0,
        "feature_fraction": settings["colsample"],
        # Of sums of gradients, which are in the target's unit.
        "lambda_l1": run.number("l1") / unit.spread,
        "lambda_l2": settings["l2"],
        "seed": run.seed % 2**31,
        # The same rows and seed give the same trees, whatever the machine's load.
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": run.threads,
        "verbosity": -1,
    }
