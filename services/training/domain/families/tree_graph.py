"""LightGBM's trees as one ONNX TreeEnsemble, in doubles as LightGBM computes."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

_BRANCH_LEQ = 0
_SUM = 1


class Ensemble:
    """The attributes of a TreeEnsemble (ai.onnx.ml 5) in the making.

    Args:
        dump: a booster's `dump_model()`.
    """

    def __init__(self, dump: dict[str, Any]) -> None:
        self._targets = int(dump["num_tree_per_iteration"])
        self._roots: list[int] = []
        self._nodes: list[dict[str, Any]] = []
        self._leaves: list[tuple[int, float]] = []
        for number, tree in enumerate(dump["tree_info"]):
            self._roots.append(len(self._nodes))
            self._add(tree["tree_structure"], number % self._targets)

    def attributes(self) -> dict[str, Any]:
        """Return the operator's attributes."""
        columns = {name: [node[name] for node in self._nodes] for name in self._nodes[0]}
        splits = np.array(columns.pop("splits"), dtype=np.float64)
        return {
            **{f"nodes_{name}": values for name, values in columns.items()},
            "nodes_splits": numpy_helper.from_array(splits, "splits"),
            "nodes_modes": helper.make_tensor("modes", TensorProto.UINT8, [len(splits)], [_BRANCH_LEQ] * len(splits)),
            "leaf_targetids": [target for target, _ in self._leaves],
            "leaf_weights": numpy_helper.from_array(np.array([weight for _, weight in self._leaves]), "weights"),
            "tree_roots": self._roots,
            "n_targets": self._targets,
            "aggregate_function": _SUM,
            "post_transform": 0,
        }

    def _add(self, root: dict[str, Any], target: int) -> None:
        """Add a tree's nodes, parents before children."""
        if "leaf_value" in root:
            # A tree that is one leaf has no node to start from: it gets one, both sides of which are that leaf.
            leaf = root
            root = {"split_feature": 0, "threshold": 0.0, "missing_type": "None"}
            root |= {"left_child": leaf, "right_child": leaf}
        waiting = [root]
        self._nodes.append({})
        place = self._roots[-1]
        while waiting:
            node = waiting.pop(0)
            sides = {}
            for side, child in (("true", node["left_child"]), ("false", node["right_child"])):
                is_leaf = "leaf_value" in child
                sides[f"{side}leafs"] = int(is_leaf)
                sides[f"{side}nodeids"] = len(self._leaves) if is_leaf else len(self._nodes)
                if is_leaf:
                    self._leaves.append((target, float(child["leaf_value"])))
                else:
                    waiting.append(child)
                    self._nodes.append({})
            self._nodes[place] = {
                "featureids": node["split_feature"],
                "splits": node["threshold"],
                "missing_value_tracks_true": int(_missing_goes_left(node)),
                **sides,
            }
            place += 1


def _missing_goes_left(node: dict[str, Any]) -> bool:
    # Where training had no missing value, LightGBM reads NaN as zero.
    return bool(node["default_left"]) if node["missing_type"] == "NaN" else node["threshold"] >= 0.0
