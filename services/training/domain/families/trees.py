"""Gradient-boosted trees by LightGBM, exported as one tree ensemble.

A categorical column becomes one number: the rank of its value by the mean of the target, which makes every split of the
values reachable by a threshold (Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, 2009, 9.2.4).
"""

import ctypes
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
from onnx import TensorProto

from services.training.domain.families.encoding import Encoded, Encoding, Graph
from services.training.domain.families.frame import Array, Target
from services.training.domain.families.model import IsCancelled, Progress, Report, Stopped

TREES_FILE = "trees.txt"
RANKS_FILE = "ranks.json"
# Pulls the mean of a rare value towards that of all rows, so that one row does not make a value extreme.
_SMOOTHING_ROWS = 10.0


def preload_openmp() -> None:
    """Load an OpenMP runtime for LightGBM: bare Debian has no libgomp.so.1, torch's wheel brings one.

    By its path and without importing torch, which would cost 200 MB.
    """
    try:
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        spec = find_spec("torch")
        folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
        for folder in folders:
            for library in (*(folder / "lib").glob("libgomp*.so*"), *(folder.parent / "torch.libs").glob("libgomp*")):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


@dataclass(frozen=True)
class TreesCore:
    """A LightGBM model and the ranks of categories.

    Args:
        booster_text: LightGBM's own text format.
        ranks: (known categories + 1,) number of each category; the last for unknown ones.
        task: regression, binary or multiclass.
    """

    booster_text: str
    ranks: Array
    task: str

    def scores(self, encoded: Encoded) -> Array:
        """Return (rows,) values, or (rows, classes) probabilities."""
        found = np.asarray(self._booster().predict(_features(encoded, self.ranks)))
        return np.stack([1.0 - found, found], axis=1) if self.task == "binary" else found

    def add_scores(self, graph: Graph, encoding: Encoding) -> str:
        """Add the nodes that give the same."""
        parts = []
        if encoding.numeric:
            parts.append(encoding.add_numbers(graph, TensorProto.FLOAT))
        if encoding.categorical:
            values = {
                "values_floats": [float(rank) for rank in self.ranks[:-1]],
                "default_float": float(self.ranks[-1]),
            }
            parts.append(encoding.add_codes(graph, values))
        features = graph.add("Concat", parts, axis=1) if len(parts) > 1 else parts[0]
        dump = self._booster().dump_model()
        raw = graph.add("TreeEnsembleRegressor", [features], domain="ai.onnx.ml", **_ensemble(dump))
        if self.task == "regression":
            return graph.add("Cast", [raw], to=TensorProto.DOUBLE)
        if self.task == "multiclass":
            return graph.add("Softmax", [raw], axis=1)
        positive = graph.add("Sigmoid", [raw])
        negative = graph.add("Sub", [graph.constant(np.array([[1.0]], dtype=np.float32)), positive])
        return graph.add("Concat", [negative, positive], axis=1)

    def files(self) -> dict[str, bytes]:
        """Return the trees as LightGBM's text, and the ranks as JSON."""
        ranks = {"task": self.task, "ranks": [float(rank) for rank in self.ranks]}
        return {TREES_FILE: self.booster_text.encode(), RANKS_FILE: json.dumps(ranks).encode()}

    @classmethod
    def load(cls, files: dict[str, bytes]) -> Self:
        """Return the core that gave the files."""
        ranks = json.loads(files[RANKS_FILE])
        return cls(files[TREES_FILE].decode(), np.array(ranks["ranks"]), ranks["task"])

    def _booster(self) -> Any:
        preload_openmp()
        import lightgbm

        return lightgbm.Booster(model_str=self.booster_text)


def fit_trees(
    encoding: Encoding,
    encoded: Encoded,
    truth: Array,
    target: Target,
    settings: Mapping[str, int | float | str | bool],
    seed: int,
    report: Report,
    is_cancelled: IsCancelled,
    base: TreesCore | None,
) -> TreesCore:
    """Boost trees; from a base, further ones on its ranks."""
    preload_openmp()
    import lightgbm

    ranks = base.ranks if base else _ranks(encoding, encoded, truth, target)
    rounds = int(settings["n_estimators"])
    data = lightgbm.Dataset(_features(encoded, ranks), truth, free_raw_data=False)

    def follow(state: Any) -> None:
        if is_cancelled():
            raise Stopped
        done = state.iteration - state.begin_iteration + 1
        metrics = {f"train_{name}": float(value) for _, name, value, _ in state.evaluation_result_list or ()}
        report(Progress(done / rounds, f"round {done} of {rounds}", done, metrics))

    booster = lightgbm.train(
        _parameters(target, settings, seed),
        data,
        num_boost_round=rounds,
        valid_sets=[data],
        valid_names=["train"],
        init_model=lightgbm.Booster(model_str=base.booster_text) if base else None,
        callbacks=[follow],
    )
    return TreesCore(booster.model_to_string(), ranks, target.task)


def _parameters(
    target: Target, settings: Mapping[str, int | float | str | bool], seed: int
) -> dict[str, int | float | str | bool]:
    objectives = {"regression": "regression", "binary": "binary", "multiclass": "multiclass"}
    return {
        "objective": objectives[target.task],
        **({"num_class": len(target.classes)} if target.task == "multiclass" else {}),
        "learning_rate": settings["learning_rate"],
        "num_leaves": settings["num_leaves"],
        "max_depth": settings["max_depth"],
        "min_data_in_leaf": settings["min_child_samples"],
        "bagging_fraction": settings["subsample"],
        "bagging_freq": 1 if float(settings["subsample"]) < 1 else 0,
        "feature_fraction": settings["colsample"],
        "lambda_l2": settings["l2"],
        "seed": seed,
        # The same rows and seed give the same trees, whatever the machine's load.
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


def _features(encoded: Encoded, ranks: Array) -> Array:
    # Rounded to what the graph computes with: a threshold then parts the same rows on both sides.
    joined = np.concatenate([encoded.numbers, ranks[encoded.codes]], axis=1)
    return joined.astype(np.float32).astype(np.float64)


def _ranks(encoding: Encoding, encoded: Encoded, truth: Array, target: Target) -> Array:
    """Return the number of each category: its rank among its column's by smoothed target mean."""
    # With several classes there is no one mean: that of the most frequent class orders the values.
    if target.task == "multiclass":
        truth = (truth == np.bincount(truth).argmax()).astype(float)
    counts = np.zeros(encoding.unknown + 1)
    sums = np.zeros(encoding.unknown + 1)
    for place in range(encoded.codes.shape[1]):
        np.add.at(counts, encoded.codes[:, place], 1.0)
        np.add.at(sums, encoded.codes[:, place], truth)
    means = (sums + _SMOOTHING_ROWS * truth.mean()) / (counts + _SMOOTHING_ROWS)
    ranks = np.full(encoding.unknown + 1, -1.0)
    start = 0
    for column in encoding.categorical:
        stop = start + len(column.categories)
        ranks[start:stop][np.argsort(means[start:stop], kind="stable")] = np.arange(stop - start)
        start = stop
    return ranks


def _ensemble(dump: dict[str, Any]) -> dict[str, Any]:
    """Return a LightGBM model as the attributes of a TreeEnsembleRegressor."""
    per_round = dump["num_tree_per_iteration"]
    table: dict[str, list[Any]] = {
        name: []
        for name in (
            "nodes_treeids",
            "nodes_nodeids",
            "nodes_featureids",
            "nodes_values",
            "nodes_modes",
            "nodes_truenodeids",
            "nodes_falsenodeids",
            "nodes_missing_value_tracks_true",
            "target_treeids",
            "target_nodeids",
            "target_ids",
            "target_weights",
        )
    }
    for number, tree in enumerate(dump["tree_info"]):
        _add_tree(table, number, number % per_round, tree["tree_structure"])
    return {**table, "n_targets": per_round, "aggregate_function": "SUM"}


def _add_tree(table: dict[str, list[Any]], tree: int, target: int, root: dict[str, Any]) -> None:
    """Add a tree's nodes, parents before children."""
    waiting = [root]
    numbers = {id(root): 0}
    while waiting:
        node = waiting.pop(0)
        is_leaf = "leaf_value" in node
        children = [] if is_leaf else [node["left_child"], node["right_child"]]
        for child in children:
            numbers[id(child)] = len(numbers)
            waiting.append(child)
        row = {
            "nodes_treeids": tree,
            "nodes_nodeids": numbers[id(node)],
            "nodes_featureids": 0 if is_leaf else node["split_feature"],
            "nodes_values": 0.0 if is_leaf else _threshold(node["threshold"]),
            "nodes_modes": "LEAF" if is_leaf else "BRANCH_LEQ",
            "nodes_truenodeids": 0 if is_leaf else numbers[id(children[0])],
            "nodes_falsenodeids": 0 if is_leaf else numbers[id(children[1])],
            "nodes_missing_value_tracks_true": int(not is_leaf and _missing_goes_left(node)),
        }
        for name, value in row.items():
            table[name].append(value)
        if is_leaf:
            table["target_treeids"].append(tree)
            table["target_nodeids"].append(numbers[id(node)])
            table["target_ids"].append(target)
            table["target_weights"].append(node["leaf_value"])


def _missing_goes_left(node: dict[str, Any]) -> bool:
    # Where training had no missing value, LightGBM reads NaN as zero.
    return bool(node["default_left"]) if node["missing_type"] == "NaN" else node["threshold"] >= 0.0


def _threshold(value: float) -> float:
    """Return the largest float32 not above a threshold: features are float32, so the same rows pass."""
    # LightGBM's threshold for "not missing" is the largest double: as float32 that is infinity, and parts them alike.
    with np.errstate(over="ignore"):
        rounded = np.float32(value)
    return float(np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > value else rounded)
