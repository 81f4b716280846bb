"""`evaluate`: score a registered model on a dataset version, and keep the scores."""

from collections.abc import Iterator, Mapping

import pandas as pd

from lepton import errors, tracing
from lepton.jobs import Job
from lepton.models import Data, Model, as_dataset
from lepton.reports import Report
from lepton.tables import html_table
from lepton.v1 import common_pb2, training_pb2
from lepton.versions import ModelVersion

__all__ = ["Evaluation", "evaluate"]


class Evaluation(Mapping[str, float]):
    """Metrics by name, and for classification a confusion matrix.

    Args:
        model: the version that was scored, as name@number.
        message: what the platform measured.
        job: that measured it.
    """

    def __init__(self, model: str, message: common_pb2.Evaluation, job: Job) -> None:
        self.model = model
        self.message = message
        self.job = job
        self._metrics = {metric.name: metric.value for metric in message.metrics}

    @property
    def dataset(self) -> str:
        """The dataset version, as name@number."""
        return self.message.dataset

    @property
    def rows(self) -> int:
        """Rows that were scored."""
        return self.message.rows

    @property
    def unknown_categories(self) -> dict[str, float]:
        """Share of the rows, 0 to 1, whose category the model does not know; by column, none where all are known."""
        return {each.column: each.unknown_rows / max(each.rows, 1) for each in self.message.unknown_categories}

    @property
    def confusion_matrix(self) -> pd.DataFrame | None:
        """Counts of truth (rows) against prediction (columns); None for regression."""
        labels = list(self.message.confusion_matrix.labels)
        if not labels:
            return None
        counts = pd.Series(list(self.message.confusion_matrix.counts)).to_numpy().reshape(len(labels), len(labels))
        return pd.DataFrame(counts, index=pd.Index(labels, name="truth"), columns=pd.Index(labels, name="prediction"))

    def report(self) -> Report:
        """Return what is to be seen of the model on these rows: `evaluate(model, data).report().save("it.html")`."""
        return self.job.report()

    def __getitem__(self, name: str) -> float:
        if name not in self._metrics:
            known = ", ".join(self._metrics)
            raise KeyError(f"{name!r} is not among the metrics of these rows ({known}): see job.warnings for why")
        return self._metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name}={value:.4g}" for name, value in self.items())
        return f"Evaluation({self.model} on {self.dataset}, {self.rows:,} rows: {metrics})"

    def _repr_html_(self) -> str:
        title = f"{self.model} on {self.dataset}, {self.rows:,} rows"
        table = html_table(title, ("metric", "value"), [(name, f"{value:.4g}") for name, value in self.items()])
        matrix = self.confusion_matrix
        return table if matrix is None else table + matrix.to_html()


def evaluate(model: Model | ModelVersion | str, data: Data) -> Evaluation:
    """Score a trained model on some rows; the scores are recorded on the platform.

    Warns (`errors.DataWarning`) of rows that the model was trained on: scores on them say nothing of new ones; of
    categories that it does not know; and of metrics that these rows do not define, which are left out.

    Args:
        model: a trained model, a version of one, or its name@number.
        data: rows with the target column.

    Raises:
        FailedPrecondition: the model is not trained yet.
        WrongType: the model or the data is of another type.
        JobFailed: the rows cannot be scored; the message says why.
    """
    version = model.trained_version() if isinstance(model, Model) else model
    if isinstance(version, str):
        version = ModelVersion.get(version)
    if not isinstance(version, ModelVersion):
        raise errors.WrongType(
            f"model must be a trained model, a version or 'name@number', got a {type(model).__name__}",
            reason="BAD_ARGUMENT",
        )
    with tracing.span("lepton.evaluate"):
        dataset = as_dataset(data, version.connection)
        spec = training_pb2.JobSpec(kind=training_pb2.JOB_KIND_EVALUATE, dataset=dataset.ref, base_version=version.ref)
        job = Job.submit(spec, connection=version.connection).wait()
    job.warn()
    return Evaluation(version.ref, job.message.evaluation, job)
