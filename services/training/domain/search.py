"""What a study looks for: ranges of hyperparameters, how trials are chosen, and when it has looked enough.

Imports no library that trains, so that the service can check what it is asked.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from servicekit.errors import InvalidArgument
from services.training.domain.families.catalog import find_family
from services.training.domain.families.hyperparameters import Hyperparameter, check_value, unknown_hyperparameter

SAMPLERS = ("bayesian", "random", "grid")
PRUNERS = ("median", "asha", "none")
# Of a study that is not told what to look at: better when lower, as the losses are that trials tell while they run.
DEFAULT_METRICS = {
    "regression": "rmse",
    "binary": "log_loss",
    "multiclass": "log_loss",
    "forecasting": "mae",
    "embedding": "mean_rank",
}
LOWER_IS_BETTER = ("rmse", "mae", "mase", "log_loss", "mean_rank")
HIGHER_IS_BETTER = ("accuracy", "f1", "roc_auc", "r2", "spearman", "recall@1", "recall@10", "mrr")
_GRID_LEVELS = 3
_MOST_GRID_TRIALS = 10_000

Value = int | float | str | bool


@dataclass(frozen=True)
class Choices:
    """Values to choose from.

    Args:
        name: of the hyperparameter.
        values: in any order.
    """

    name: str
    values: tuple[Value, ...]

    def levels(self) -> tuple[Value, ...]:
        """Return what a grid tries."""
        return self.values


@dataclass(frozen=True)
class Range:
    """Numbers to choose from.

    Args:
        name: of the hyperparameter.
        low, high: inclusive bounds.
        is_log: whether factors count rather than differences.
        is_whole: whether only whole numbers count.
        count: values that a grid tries.
    """

    name: str
    low: float
    high: float
    is_log: bool
    is_whole: bool
    count: int = _GRID_LEVELS

    def levels(self) -> tuple[Value, ...]:
        """Return what a grid tries: evenly spread, ends included."""
        shares = [place / max(self.count - 1, 1) for place in range(self.count)]
        if self.is_log:
            spread = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            spread = [self.low + (self.high - self.low) * share for share in shares]
        if self.is_whole:
            return tuple(dict.fromkeys(round(value) for value in spread))
        return tuple(dict.fromkeys(min(max(value, self.low), self.high) for value in spread))


Dimension = Choices | Range

# Where nothing else is asked: what decides most, over what is sensible on tables of some thousand rows.
_TRAINING: Mapping[str, object] = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "weight_decay": {"low": 1e-4, "high": 1.0, "log": True},
    "batch_size": [16, 32, 64, 128],
    "dropout": {"low": 0.0, "high": 0.5},
}
DEFAULT_SPACES: Mapping[str, Mapping[str, object]] = {
    "linear_regression": {"l2": {"low": 1e-4, "high": 1e3, "log": True}},
    "logistic_regression": {"c": {"low": 1e-3, "high": 1e2, "log": True}, "class_weight": ["none", "balanced"]},
    "boosted_trees": {
        "n_estimators": {"low": 50, "high": 600, "log": True},
        "learning_rate": {"low": 0.01, "high": 0.3, "log": True},
        "num_leaves": {"low": 4, "high": 64, "log": True},
        "min_child_samples": {"low": 5, "high": 100, "log": True},
        "colsample": {"low": 0.4, "high": 1.0},
        "l2": {"low": 1e-3, "high": 10.0, "log": True},
    },
    "mlp": {**_TRAINING, "hidden_units": {"low": 16, "high": 256, "log": True}, "hidden_layers": [1, 2, 3]},
    "cnn": {**_TRAINING, "width": [8, 16, 32], "augmentation": ["none", "shift", "flip", "shift_and_flip"]},
    "rnn": {**_TRAINING, "hidden_size": [16, 32, 48, 64, 96], "cell": ["gru", "lstm"], "scaling": ["window", "global"]},
    "transformer": {**_TRAINING, "token_dropout": {"low": 0.0, "high": 0.4}, "layers": [1, 2, 3]},
}


def read_space(
    family: str, given: Mapping[str, object], fixed: Mapping[str, object], *, has_body: bool = False
) -> tuple[Dimension, ...]:
    """Return the ranges of a study, by name; without any given, the family's own but for what is fixed.

    Args:
        family: its name.
        given: by hyperparameter: a list of values, or {"low": ..., "high": ..., "log": ..., "levels": ...}.
        fixed: hyperparameters that are set.
        has_body: whether fits begin from the body of another: what that brings along is set, too.

    Raises:
        InvalidArgument: an unknown hyperparameter, or values that are out of range.
    """
    known = {setting.name: setting for setting in find_family(family).hyperparameters}
    if has_body:
        fixed = {**fixed, **dict.fromkeys(find_family(family).from_scratch)}
    wanted = given or {name: spread for name, spread in DEFAULT_SPACES[family].items() if name not in fixed}
    dimensions = []
    for name, spread in sorted(wanted.items()):
        if name not in known:
            raise InvalidArgument(unknown_hyperparameter(family, name, known), reason="UNKNOWN_HYPERPARAMETER")
        if name in fixed:
            raise InvalidArgument(f"{name} is set and searched at once: leave one out", reason="BAD_SEARCH_SPACE")
        dimensions.append(_dimension(known[name], spread))
    if not dimensions:
        raise InvalidArgument("there is nothing to search: every hyperparameter is set", reason="BAD_SEARCH_SPACE")
    return tuple(dimensions)


def grid(space: tuple[Dimension, ...]) -> Iterator[dict[str, Value]]:
    """Yield every combination of the levels of a space.

    Raises:
        InvalidArgument: there are too many.
    """
    count = math.prod(len(dimension.levels()) for dimension in space)
    if count > _MOST_GRID_TRIALS:
        raise InvalidArgument(
            f"a grid of {count:,} trials is too large: name fewer hyperparameters or levels, or sample at random",
            reason="BAD_SEARCH_SPACE",
        )
    for values in itertools.product(*(dimension.levels() for dimension in space)):
        yield {dimension.name: value for dimension, value in zip(space, values, strict=True)}


def is_within(dimension: Dimension, value: object) -> bool:
    """Return whether a study could have chosen a value."""
    if isinstance(dimension, Choices):
        return value in dimension.values
    return isinstance(value, int | float) and dimension.low <= value <= dimension.high


def nearest(dimension: Dimension, value: Value) -> Value:
    """Return what a study could have chosen that is nearest to a value: that itself where it could."""
    if isinstance(dimension, Choices) or not isinstance(value, int | float):
        return value
    return type(value)(min(max(value, dimension.low), dimension.high))


def _dimension(setting: Hyperparameter, spread: object) -> Dimension:
    if isinstance(spread, list) and spread:
        return Choices(setting.name, tuple(dict.fromkeys(check_value(setting, value) for value in spread)))
    if (
        not isinstance(spread, Mapping)
        or set(spread) - {"low", "high", "log", "levels"}
        or not {"low", "high"} <= set(spread)
    ):
        raise InvalidArgument(
            f"{setting.name} is searched over a list of values, or over "
            '{"low": 0.001, "high": 0.1, "log": true, "levels": 3}; got ' + repr(spread),
            reason="BAD_SEARCH_SPACE",
        )
    if setting.choices:
        raise InvalidArgument(
            f"{setting.name} has no range: list some of {', '.join(setting.choices)}", reason="BAD_SEARCH_SPACE"
        )
    low, high = (float(check_value(setting, spread[end])) for end in ("low", "high"))
    is_log, count = bool(spread.get("log", False)), spread.get("levels", _GRID_LEVELS)
    if low >= high or (is_log and low <= 0) or not isinstance(count, int) or not 1 <= count <= 1000:
        raise InvalidArgument(
            f"the range of {setting.name} needs low < high, low > 0 where it is logarithmic, and 1 to 1,000 levels",
            reason="BAD_SEARCH_SPACE",
        )
    return Range(setting.name, low, high, is_log, isinstance(setting.default, int), count)
