"""Lepton's Python SDK: data in, a governed and monitored gRPC endpoint out.

    import lepton

    data = lepton.load_data("german_credit.csv").dropna()
    model = lepton.LogisticRegression().fit(data, target="creditability")
    lepton.Deploy(model).save().predict(data)

Needs a running platform: `lepton up` starts one on this machine. Importing `lepton.v1` alone imports none of the SDK's
own dependencies, for the names below are looked up when first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


# Found by `lepton.steps` as by `import lepton.steps`.
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
    if name in _MODULES:
        return importlib.import_module(f"lepton.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'lepton' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted((*__all__, *_MODULES))
