"""Studies: what a search for hyperparameters is asked, and what it found."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from lepton import errors
from lepton.arguments import build, one_of, to_json_value, to_mapping
from lepton.v1 import training_pb2
from lepton.versions import ModelVersion

STUDY_FILE = "study.json"
_SAMPLERS = ("bayesian", "random", "grid")
_PRUNERS = ("median", "asha", "none")


@dataclass(frozen=True)
class Budget:
    """When a study ends; whichever comes first.

    Args:
        trials: most of them; 0 for 20, or a whole grid.
        seconds: after which no trial begins; 0 for any.
        core_seconds: cores times seconds of all trials, after which none begins; 0 for any.
        parallel: trials side by side; as many run at once as the workers have room for.
    """

    trials: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0
    parallel: int = 2


def to_search(
    space: Mapping[str, object] | None, sampler: str, pruner: str, metric: str, budget: Budget
) -> training_pb2.Search:
    """Return a search as a message.

    Args:
        space: by hyperparameter a list, array or range of values, one value, (low, high), or
            {"low": ..., "high": ..., "log": ..., "levels": ...}.
        sampler: bayesian, random or grid; empty for the default, as for the next two.
        pruner: median, asha or none.
        metric: what is best.
        budget: when it ends.

    Raises:
        InvalidArgument: the sampler or pruner is unknown, or a value has no JSON form.
    """
    if not isinstance(budget, Budget):
        raise errors.WrongType(
            f"budget takes a Budget, such as Budget(trials=20), got a {type(budget).__name__}", reason="BAD_ARGUMENT"
        )
    if sampler:
        one_of(sampler, _SAMPLERS, "sampler")
    if pruner:
        one_of(pruner, _PRUNERS, "pruner")
    return build(
        training_pb2.Search,
        sampler=sampler,
        pruner=pruner,
        metric=metric,
        space=_to_space(space),
        max_trials=budget.trials,
        max_seconds=budget.seconds,
        max_core_seconds=budget.core_seconds,
        parallel_trials=budget.parallel,
    )


def _to_space(space: Mapping[str, object] | None) -> dict[str, str]:
    given = to_mapping(space or {}, "space")
    return {name: json.dumps(_spread(spread, f"space[{name!r}]")) for name, spread in given.items()}


def _spread(spread: object, argument: str) -> object:
    if isinstance(spread, tuple) and len(spread) == 2:
        return to_json_value({"low": spread[0], "high": spread[1]}, argument)
    found = to_json_value(spread, argument)
    return found if isinstance(found, list | dict) else [found]


class StudyResults:
    """What a study found, as it stands beside the version that it registered.

    Args:
        version: that version.

    Raises:
        FailedPrecondition: the version is of no study.
    """

    def __init__(self, version: ModelVersion) -> None:
        if STUDY_FILE not in {artifact.name for artifact in version.message.artifacts}:
            raise errors.FailedPrecondition(f"{version.ref} was found by no study", reason="NO_STUDY")
        self._found = json.loads(version.download(STUDY_FILE))
        self.version = version

    @property
    def metric(self) -> str:
        """What was best by."""
        return str(self._found["metric"])

    @property
    def importance(self) -> Mapping[str, float]:
        """How much of the difference between trials each hyperparameter explains, 0 to 1 (PED-ANOVA)."""
        return dict(self._found["importance"])

    @property
    def best_trial(self) -> int:
        """The number of the trial that was registered: the best, or the default where that may be chance."""
        return int(self._found["best_trial"])

    @property
    def note(self) -> str:
        """Why that one, where another had the best value; else empty."""
        return str(self._found.get("note", ""))

    def trials(self) -> pd.DataFrame:
        """Return one row a trial: state, value (of the metric), seconds, best so far, and its hyperparameters."""
        rows = [
            {**{name: trial[name] for name in ("trial", "state", "value", "seconds")}, **trial["hyperparameters"]}
            for trial in self._found["trials"]
        ]
        frame = pd.DataFrame(rows).set_index("trial")
        values = pd.to_numeric(frame["value"])
        frame.insert(2, "best_value", values.cummin() if self._found["lower_is_better"] else values.cummax())
        return frame

    def to_html(self) -> str:
        """Return its plots, history and importance, as one page that needs nothing else."""
        from lepton.study_page import study_page

        return study_page(self)

    def _repr_html_(self) -> str:
        from lepton.html_pages import fragment
        from lepton.study_page import study_body

        return fragment(study_body(self))
