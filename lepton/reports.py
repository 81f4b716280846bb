"""Reports: what is to be seen of a model on the rows that it was scored on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lepton import errors
from lepton.connection import Connection
from lepton.v1 import training_pb2

if TYPE_CHECKING:
    from lepton.versions import ModelVersion


class Report:
    """What a job's model did on rows that it had not learned from: curves, residuals, slices.

    Args:
        job: the job that scored it.
        content: as the platform keeps it, JSON.
    """

    def __init__(self, job: training_pb2.Job, content: bytes) -> None:
        self.job = job
        self.content: dict[str, Any] = json.loads(content)

    @classmethod
    def of_job(cls, connection: Connection, job: training_pb2.Job) -> "Report":
        """Return a job's; a study's is that of the job that registered its best.

        Raises:
            NotFound: it has none, or none yet.
        """
        if job.spec.kind == training_pb2.JOB_KIND_TUNE and job.version:
            from lepton.versions import ModelVersion

            return cls.of_version(ModelVersion.get(job.version, connection=connection))
        answer = connection.training.GetReport(training_pb2.GetReportRequest(name=job.name))
        return cls(job, answer.content)

    @classmethod
    def of_version(cls, version: "ModelVersion") -> "Report":
        """Return that of the job that trained a version.

        Raises:
            FailedPrecondition: it was made elsewhere.
            NotFound: the job has none.
        """
        name = version.message.lineage.job
        if not name:
            raise errors.FailedPrecondition(
                f"{version.ref} was not trained here: evaluate(model, data).report() has a report of it",
                reason="NOT_TRAINED_HERE",
            )
        job = version.connection.training.GetJob(training_pb2.GetJobRequest(name=name))
        return cls.of_job(version.connection, job)

    @property
    def task(self) -> str:
        """regression, binary or multiclass."""
        return str(self.content["task"])

    @property
    def metrics(self) -> dict[str, float]:
        """Value by name."""
        return dict(self.content["metrics"])

    @property
    def slices(self) -> pd.DataFrame:
        """The parts of the rows on which the model does worst, the worst first: column, value, rows, metrics, excess.

        `excess` is how much worse their loss is than that of the other rows, in standard errors; above 3 is hardly
        chance.
        """
        rows = [
            {"column": found["column"], "value": found["value"], "rows": found["rows"], **found["metrics"]}
            | {"excess": found["excess"]}
            for found in self.content["slices"]
        ]
        return pd.DataFrame(rows, columns=None if rows else ["column", "value", "rows", "excess"])

    def to_html(self) -> str:
        """Return it as one page that needs nothing else: it opens offline, and prints."""
        from lepton.html_pages import document
        from lepton.report_page import report_body, report_title

        return document(report_title(self), report_body(self))

    def save(self, path: str | Path) -> Path:
        """Write the page to a file; return its path."""
        path = Path(path)
        path.write_text(self.to_html(), encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        from lepton.html_pages import fragment
        from lepton.report_page import report_body

        return fragment(report_body(self))

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name}={value:.4g}" for name, value in self.metrics.items())
        return f"Report({self.job.name}, {self.content['rows']:,} rows: {metrics})"
