"""Lepton's Python SDK: data in, a governed and monitored gRPC endpoint out.

    import lepton

    data = lepton.load_data("german_credit.csv").dropna()
    model = lepton.LogisticRegression().fit(data, target="creditability")
    lepton.Deploy(model).save().predict(data)

Needs a running platform: `lepton up` starts one on this machine. Importing `lepton.v1` alone imports none of the SDK's
own dependencies, for the names below are looked up when first used.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton import connection as connection
    from lepton import datasets as datasets
    from lepton import deployment as deployment
    from lepton import errors as errors
    from lepton import evaluation as evaluation
    from lepton import frames as frames
    from lepton import images as images
    from lepton import interrupts as interrupts
    from lepton import jobs as jobs
    from lepton import models as models
    from lepton import steps as steps
    from lepton import studies as studies
    from lepton import utils as utils
    from lepton import versions as versions
    from lepton import workers as workers
    from lepton.connection import Connection, connect
    from lepton.datasets import Dataset
    from lepton.deployment import Deploy
    from lepton.errors import LeptonError
    from lepton.evaluation import Evaluation, evaluate
    from lepton.jobs import Job
    from lepton.models import CNN, MLP, RNN, BoostedTrees, LinearRegression, LogisticRegression, Transformer
    from lepton.reports import Report
    from lepton.utils import load_data
    from lepton.versions import ModelVersion

_HOMES = {
    "Connection": "lepton.connection",
    "connect": "lepton.connection",
    "Dataset": "lepton.datasets",
    "Deploy": "lepton.deployment",
    "Evaluation": "lepton.evaluation",
    "LeptonError": "lepton.errors",
    "evaluate": "lepton.evaluation",
    "Job": "lepton.jobs",
    "BoostedTrees": "lepton.models",
    "CNN": "lepton.models",
    "LinearRegression": "lepton.models",
    "LogisticRegression": "lepton.models",
    "MLP": "lepton.models",
    "Report": "lepton.reports",
    "RNN": "lepton.models",
    "Transformer": "lepton.models",
    "load_data": "lepton.utils",
    "ModelVersion": "lepton.versions",
}

__all__ = [
    "CNN",
    "MLP",
    "RNN",
    "BoostedTrees",
    "Connection",
    "Dataset",
    "Deploy",
    "Evaluation",
    "Job",
    "LeptonError",
    "LinearRegression",
    "LogisticRegression",
    "ModelVersion",
    "Report",
    "Transformer",
    "connect",
    "evaluate",
    "load_data",
]


# Public modules: found by `lepton.steps` as by `import lepton.steps`.
_MODULES = (
    "connection",
    "curves",
    "datasets",
    "deployment",
    "errors",
    "evaluation",
    "frames",
    "images",
    "interrupts",
    "jobs",
    "models",
    "names",
    "plans",
    "plots",
    "pretrained",
    "progress",
    "releases",
    "reports",
    "steps",
    "studies",
    "utils",
    "v1",
    "versions",
    "workers",
)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    # Every module, those that __dir__ leaves out, too.
    if not name.startswith("_") and importlib.util.find_spec(f"lepton.{name}") is not None:
        return importlib.import_module(f"lepton.{name}")
    raise AttributeError(f"module 'lepton' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*__all__, *_MODULES))
