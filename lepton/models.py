"""Model families as estimators: choose, fit, fine-tune, predict.

from lepton.models import LogisticRegression

model = LogisticRegression(c=0.5).fit(train, target="creditability")
better = model.fine_tune(more)
"""

import difflib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd

from lepton import errors, names, tracing
from lepton.arguments import build, to_json_value, to_mapping, to_name, unknown
from lepton.connection import Connection, current
from lepton.datasets import Dataset
from lepton.frames import Frame, check_label, with_lineage
from lepton.jobs import Job
from lepton.pretrained import base_version
from lepton.reports import Report
from lepton.studies import Budget, StudyResults, to_search
from lepton.tables import html_table
from lepton.v1 import common_pb2, training_pb2
from lepton.versions import ModelVersion

_RESOURCES = ("cores", "memory_bytes", "gpus")
# What can be trained on: a DataFrame, a dataset version, or its name@number.
Data = pd.DataFrame | Dataset | str


class Model:
    """A model of one family; its subclasses are the families.

    Args:
        name: the registry's id for it; by default made from the dataset's name and the family.
        seed: of every random draw.
        handle_unknown: what an unknown category does at prediction: ignore or error.
        connection: the platform; by default the one in use.
        pretrained: for Transformer and CNN, what a fit begins from: a model or version of the family ("reviews@2"), or
            a folder; for Transformer also an encoder's folder, or its id on Hugging Face's hub.
        hyperparameters: the family's own; `lepton.jobs.families()` lists them.
    """

    family: ClassVar[str] = ""

    def __init__(
        self,
        *,
        name: str | None = None,
        seed: int = 0,
        handle_unknown: str = "ignore",
        connection: Connection | None = None,
        pretrained: "str | Path | ModelVersion | Model | None" = None,
        **hyperparameters: object,
    ) -> None:
        self.name = name
        self.pretrained = pretrained
        self.seed = seed
        self.handle_unknown = handle_unknown
        self.hyperparameters = hyperparameters
        self.version: ModelVersion | None = None
        self.job: Job | None = None
        self._connection = connection

    @property
    def connection(self) -> Connection:
        """The platform that holds the model."""
        return self._connection or current()

    def fit(
        self,
        data: Data,
        *,
        target: str | None = None,
        evaluation_data: Data | None = None,
        resources: dict[str, float] | None = None,
        workers: int = 1,
    ) -> Self:
        """Train on the platform and register the model as a new version; return the model.

        Args:
            data: the rows to train on.
            target: the column to predict; by default the declared label. The last column, with a warning, where no
                label was ever declared.
            evaluation_data: held-out rows; by default a tenth of the rows is held out, by seed.
            resources: what the job needs: cores, memory_bytes, gpus.
            workers: processes that train a network side by side, each with these resources; more than one needs a
                platform whose training workers have the Ray engine.

        Raises:
            MissingColumn: the target is no column of the data; it is a KeyError, too.
            InvalidArgument: LABEL_LOST: the declared label is no longer a column, and no target is given.
            JobFailed: the platform could not train it; the message says why.
        """
        with tracing.span("lepton.fit"):
            spec = self._fit_spec(data, target, evaluation_data, resources)
            spec.MergeFrom(build(training_pb2.JobSpec, workers=workers))
            self._run(spec)
        return self

    def fine_tune(self, data: Data, *, evaluation_data: Data | None = None, **hyperparameters: object) -> Self:
        """Train on from this model and return a new one whose version names this one as its parent.

        Args:
            data: the rows to train on, with the same columns.
            evaluation_data: held-out rows; by default a tenth of the rows is held out, by seed.
            hyperparameters: as for fit, for this run: `optimizer='sgd', epochs=10` say.

        Raises:
            FailedPrecondition: this model is not trained yet.
            InvalidArgument: an unknown hyperparameter or value; the message lists the valid ones.
        """
        parent = self.trained_version()
        child = type(self)(
            name=parent.message.model,
            seed=self.seed,
            handle_unknown=self.handle_unknown,
            connection=self._connection,
            pretrained=None,
            **hyperparameters,
        )
        with tracing.span("lepton.fine_tune"):
            dataset = as_dataset(data, self.connection)
            child._run(
                build(
                    training_pb2.JobSpec,
                    kind=training_pb2.JOB_KIND_FINE_TUNE,
                    family=self.family,
                    model=parent.message.model,
                    dataset=dataset.ref,
                    evaluation_dataset=_evaluation_ref(evaluation_data, self.connection),
                    target=parent.signature.target,
                    hyperparameters=to_hyperparameters(hyperparameters),
                    seed=self.seed,
                    handle_unknown=self.handle_unknown,
                    base_version=parent.ref,
                )
            )
        return child

    def tune(
        self,
        data: Data,
        space: Mapping[str, object] | None = None,
        *,
        budget: Budget | None = None,
        sampler: str = "bayesian",
        pruner: str = "median",
        metric: str = "",
        target: str | None = None,
        evaluation_data: Data | None = None,
        resources: dict[str, float] | None = None,
    ) -> Self:
        """Look for better hyperparameters by trials on the platform, and register the best; return the model.

        Trials are jobs of their own, side by side, judged by a fifth of the rows that each sets aside; the first has
        the defaults. The best one's hyperparameters are then fitted as `fit` would, and scored on the held-out rows.

        Args:
            data: the rows to train on.
            space: by hyperparameter a list of values, (low, high), or {"low": 1e-3, "high": 0.1, "log": True}; by
                default the family's own. Hyperparameters that the model was made with stay as they are.
            budget: most trials, seconds and core-seconds, and how many at once; by default 20 trials, two at once.
            sampler: bayesian, random or grid.
            pruner: which trials are ended early: median, asha or none.
            metric: what is best: log_loss, accuracy, f1, roc_auc; rmse, mae, r2, spearman; mase; mean_rank, mrr,
                recall@1. By default log_loss, rmse, mae for forecasts, mean_rank for embeddings.
            target: as for `fit`.
            evaluation_data: as for `fit`.
            resources: what each trial needs: cores, memory_bytes, gpus.

        Raises:
            KeyError: the target is no column of the data.
            InvalidArgument: an unknown hyperparameter, sampler, pruner or metric; the message lists the known ones.
            JobFailed: no trial succeeded; the message says why.
        """
        with tracing.span("lepton.tune"):
            spec = self._fit_spec(data, target, evaluation_data, resources)
            spec.kind = training_pb2.JOB_KIND_TUNE
            spec.search.CopyFrom(to_search(space, sampler, pruner, metric, Budget() if budget is None else budget))
            self._run(spec)
        return self

    def study(self) -> StudyResults:
        """Return what the study behind the model found: trials, importance, plots.

        Raises:
            FailedPrecondition: there was none.
        """
        return StudyResults(self.trained_version())

    def report(self) -> Report:
        """Return what is to be seen of the model on held-out rows: `model.report().save("report.html")`.

        Raises:
            FailedPrecondition: this model is not trained yet.
        """
        return Report.of_version(self.trained_version())

    def trained_version(self) -> ModelVersion:
        """Return the version in the registry.

        Raises:
            FailedPrecondition: the model is not trained yet.
        """
        if self.version is None:
            raise errors.FailedPrecondition(
                f"this {type(self).__name__} is not trained yet: call fit(data) first", reason="NOT_TRAINED"
            )
        return self.version

    @property
    def metrics(self) -> dict[str, float]:
        """Held-out metrics by name; empty before training."""
        return dict(self.version.metrics) if self.version else {}

    def _fit_spec(
        self, data: Data, target: str | None, evaluation_data: Data | None, resources: dict[str, float] | None
    ) -> training_pb2.JobSpec:
        if target is None and isinstance(data, pd.DataFrame):
            check_label(data)
        dataset = as_dataset(data, self.connection)
        return build(
            training_pb2.JobSpec,
            kind=training_pb2.JOB_KIND_FIT,
            family=self.family,
            model=self.name or names.to_id(f"{dataset.message.dataset[:40]}-{self.family.replace('_', '-')}"),
            dataset=dataset.ref,
            target=_target(dataset, target),
            evaluation_dataset=_evaluation_ref(evaluation_data, self.connection),
            hyperparameters=to_hyperparameters(self.hyperparameters),
            seed=self.seed,
            handle_unknown=self.handle_unknown,
            resources=to_resources(resources),
            base_version=self._base_ref(),
        )

    def _base_ref(self) -> str:
        if self.pretrained is None:
            return ""
        given = self.pretrained.trained_version() if isinstance(self.pretrained, Model) else self.pretrained
        return base_version(given, self.connection).ref

    def _run(self, spec: training_pb2.JobSpec) -> None:
        self.job = Job.submit(spec, connection=self.connection)
        self.job.wait()
        self.version = ModelVersion.get(self.job.version, connection=self.connection)
        # Of whoever called fit.
        self.job.warn(stacklevel=3)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.hyperparameters.items())
        state = f" {self.version!r}" if self.version else " (not trained)"
        return f"{type(self).__name__}({settings}){state}"

    def _repr_html_(self) -> str:
        if self.version is None:
            return html_table(repr(self), (), ())
        return f"<p>{type(self).__name__}</p>{self.version._repr_html_()}"


class LinearRegression(Model):
    """Least squares, or gradient descent with SGD or Adam (`solver='gradient_descent', optimizer='adam'`)."""

    family = "linear_regression"


class LogisticRegression(Model):
    """Classification by a linear model of the log odds."""

    family = "logistic_regression"


class BoostedTrees(Model):
    """Gradient-boosted trees (LightGBM), for regression and classification."""

    family = "boosted_trees"


class MLP(Model):
    """Multi-layer perceptron, for tables with many rows (`hidden_layers=2, hidden_units=128, epochs=30`)."""

    family = "mlp"


class CNN(Model):
    """Classification of images by a ResNet; see `lepton.images` (`image_size=32, width=16, augmentation='shift'`).

    `CNN(pretrained="scans@3")` begins from the features of another, and learns other classes.
    """

    family = "cnn"


class Transformer(Model):
    """A Transformer encoder that reads texts (`layers=2, hidden_size=128, epochs=6`).

    One column of texts: their class. Two (`task='pair'`), read together: the class, or the number, of what they are to
    each other. `task='embedding'`: a vector a text, learned from rows of two texts that belong together, the second of
    them the target; see `Deploy.embed`.

    `Transformer(pretrained="sentence-transformers/all-MiniLM-L6-v2", trainable="lora")` begins from a known encoder.
    """

    family = "transformer"


class RNN(Model):
    """Forecasts with intervals, or classes, of series (see `Dataset.windows`), by a GRU or LSTM (`cell='lstm'`)."""

    family = "rnn"


def to_hyperparameters(given: Mapping[str, object]) -> dict[str, str]:
    """Return hyperparameters as JSON texts by name.

    Raises:
        InvalidArgument: a value has no JSON form.
    """
    return {name: json.dumps(to_json_value(value, name)) for name, value in given.items()}


def as_dataset(data: Data, connection: Connection) -> Dataset:
    """Return a dataset version with exactly the data's rows, importing them where they are not there yet.

    Raises:
        WrongType: the data is neither a DataFrame, a Dataset nor a reference.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str):
        return Dataset.get(data, connection=connection)
    if not isinstance(data, pd.DataFrame):
        raise errors.WrongType(
            f"data must be a DataFrame, a Dataset or 'name@number', got a {type(data).__name__}", reason="BAD_ARGUMENT"
        )
    lineage = data.lineage if isinstance(data, Frame) else None
    if lineage is None:
        return Dataset.import_frame(data, "frame", connection=connection)
    if lineage.is_untouched:
        return Dataset.get(lineage.parent, connection=connection)
    name = names.to_id(lineage.parent.partition("@")[0][:55] + "-edited")
    label = lineage.label if lineage.label in data.columns else ""
    return Dataset.import_frame(
        data, name, label=label, recipe=lineage.recipe, parent=lineage.parent, connection=connection
    )


def load_frame(dataset: Dataset) -> Frame:
    """Return a dataset version's rows as a DataFrame that keeps its lineage."""
    return with_lineage(dataset.to_pandas(), dataset.ref, dataset.message.label)


def _target(dataset: Dataset, target: str | None) -> str:
    if target is not None:
        name = to_name(target, "target")
        if name not in dataset.columns:
            near = difflib.get_close_matches(name, dataset.columns, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise errors.MissingColumn(
                f"no column {name!r}: the data has {', '.join(dataset.columns)}{hint}", reason="MISSING_COLUMN"
            )
        return name
    if dataset.message.label:
        return dataset.message.label
    check_declared_label(dataset)
    last = dataset.columns[-1]
    warnings.warn(f"no target given: predicting the last column, {last!r}", UserWarning, stacklevel=4)
    return last


def check_declared_label(dataset: Dataset) -> None:
    """Check that a dataset version without a label was not made of one that has a label.

    Raises:
        InvalidArgument: LABEL_LOST: its column was dropped on the way.
    """
    if dataset.message.label or not dataset.message.parent:
        return
    try:
        label = Dataset.get(dataset.message.parent, connection=dataset.connection).message.label
    except errors.NotFound:
        return
    if label:
        raise errors.InvalidArgument(
            f"the label {label!r} of {dataset.message.parent} is no column of {dataset.ref}: say which column to "
            "predict, with target='...' (--target)",
            reason="LABEL_LOST",
        )


def _evaluation_ref(data: Data | None, connection: Connection) -> str:
    return "" if data is None else as_dataset(data, connection).ref


def to_resources(wanted: dict[str, float] | None) -> common_pb2.Resources | None:
    """Return what a job or replica needs as a message; None for the defaults.

    Raises:
        InvalidArgument: a resource is unknown, or no number.
    """
    wanted = to_mapping(wanted or {}, "resources")
    if not wanted:
        return None
    for name in wanted:
        if name not in _RESOURCES:
            raise unknown(str(name), _RESOURCES, "resource", "UNKNOWN_RESOURCE")
    # Bytes may come as 2e9.
    memory: Any = wanted.get("memory_bytes", 0)
    return build(common_pb2.Resources, cores=wanted.get("cores", 0), memory_bytes=memory, gpus=wanted.get("gpus", 0))
