"""Deployments: serve a model version over gRPC, predict, roll back, delete.

from lepton.deployment import Deploy

deployment = Deploy(model).save()
deployment.predict(rows)
deployment.score("applications@3", name="scored")
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from google.protobuf.field_mask_pb2 import FieldMask

from lepton import errors, names, plans, progress, releases, tracing
from lepton.arguments import build, to_name, to_names
from lepton.connection import Connection, current
from lepton.datasets import Dataset
from lepton.deployment_states import COLUMNS, is_settled, to_row, wait_until
from lepton.models import Model
from lepton.predicting import READY_SECONDS, Predicting
from lepton.resources import checked_replicas, declared_resources, with_declared
from lepton.tables import html_table
from lepton.unknown_categories import warn_of
from lepton.v1 import common_pb2, inference_pb2, prediction_pb2
from lepton.versions import ModelVersion

__all__ = ["Deploy"]


class Deploy(Predicting):
    """What serves a model.

    Args:
        model: a trained model, a version of one, or a deployment's name.
        name: the deployment's id; by default the model's.
        replicas: how many replicas are wanted, at least; by default 1, or what the deployment has.
        cores: processor cores that a replica reserves, fractions allowed; 0, as a new deployment has it, follows what
            replicas are measured to use.
        memory: memory that a replica reserves, bytes or a text such as "512MiB"; 0 as for cores.
        gpus: accelerators that a replica reserves; a fraction shares one.
        resources: the same as a dict: cores, memory_bytes, gpus.
        tuning: what a new deployment wishes of execution plans: see `tune`; by default the platform's own setting.
        batching: whether rows of several requests may be run together, auto or off: see `batch`; by default auto, and a
            deployment that is there keeps what it has.
        connection: the platform; by default the model's, else the one in use.
    """

    def __init__(
        self,
        model: Model | ModelVersion | str,
        *,
        name: str | None = None,
        replicas: int | None = None,
        cores: float | None = None,
        memory: int | str | None = None,
        gpus: float | None = None,
        resources: dict[str, float] | None = None,
        tuning: str | None = None,
        batching: str | None = None,
        connection: Connection | None = None,
    ) -> None:
        self._version = model.trained_version() if isinstance(model, Model) else None
        if isinstance(model, ModelVersion):
            self._version = model
        self.connection = connection or (self._version.connection if self._version else current())
        if name is None:
            name = self._version.message.model if self._version else str(model)
        self.name = name
        self.replicas = checked_replicas(replicas)
        self._resources = declared_resources(resources, cores=cores, memory=memory, gpus=gpus)
        self._tuning = plans.to_tuning(tuning)
        self._batching = plans.to_batching(batching)

    def save(self, *, version: str | None = None) -> "Deploy":
        """Deploy the model, or change what the deployment serves; a repeat with the same model changes nothing.

        Args:
            version: what to serve, as `name@3` or `name@champion` (followed as it moves); by default the model's own.

        Raises:
            FailedPrecondition: the version is not READY.
        """
        with tracing.span("lepton.deploy"):
            wanted = version or self._wanted().ref
            try:
                present = self.status()
            except errors.NotFound:
                self._create(wanted)
                return self
            paths = self._changes(present, version)
            if not paths:
                return self
            update = build(
                inference_pb2.Deployment,
                name=self.name,
                version=wanted,
                etag=present.etag,
                replicas=self.replicas or 0,
                resources=with_declared(present.declared_resources, self._resources),
                batching=self._batching,
            )
            self.connection.inference.UpdateDeployment(
                inference_pb2.UpdateDeploymentRequest(
                    deployment=update, update_mask=FieldMask(paths=paths), request_id=names.request_id()
                )
            )
        return self

    def _changes(self, present: inference_pb2.Deployment, version: str | None) -> list[str]:
        """Return the fields in which a deployment differs from what is wanted; what was not given stays."""
        same = present.version == version if version else present.digest == self._wanted().message.digest
        paths = [] if same else ["version"]
        if self.replicas is not None and self.replicas != present.replicas:
            paths.append("replicas")
        if with_declared(present.declared_resources, self._resources) != present.declared_resources:
            paths.append("resources")
        is_given = self._batching != common_pb2.BATCHING_UNSPECIFIED
        if is_given and self._batching != (present.batching or common_pb2.BATCHING_AUTO):
            paths.append("batching")
        return paths

    def score(
        self,
        dataset: Dataset | str,
        *,
        name: str | None = None,
        version: str = "",
        columns: str | Iterable[str] = (),
        batch_rows: int = 0,
        timeout_seconds: float = READY_SECONDS,
    ) -> Dataset:
        """Predict for every row of a dataset version on the platform; return the new version with rows and predictions.

        The prediction's column bears the target's name (with `_predicted` behind it where the truth goes along); a
        column a class, `probability_<label>`, comes behind it.

        Args:
            dataset: the version, or its reference such as `applications@3`.
            name: the new dataset's id; by default the old one's with `-scored` behind.
            version: a model version's number or alias; by default the deployment's own. It answers for all rows.
            columns: one column or several that go along; by default every column.
            batch_rows: rows predicted at a time; 0 leaves it to the platform.
            timeout_seconds: how long to wait for the deployment to be ready.

        Raises:
            InvalidArgument: the dataset lacks a column, or holds a value that the model refuses: nothing is written.
            DeadlineExceeded: the deployment was not ready in time.
        """
        ref = dataset.ref if isinstance(dataset, Dataset) else dataset
        if not isinstance(ref, str):
            raise errors.WrongType(
                f"score takes a Dataset or 'name@number', got a {type(dataset).__name__}: rows go to predict",
                reason="BAD_ARGUMENT",
            )
        request = build(
            prediction_pb2.ScoreDatasetRequest,
            dataset=ref,
            deployment=self.name,
            version=to_name(version, "version"),
            output=name or names.to_id(ref.partition("@")[0][:56] + "-scored"),
            columns=to_names(columns),
            batch_rows=batch_rows,
            request_id=names.request_id(),
        )
        with tracing.span("lepton.score"):
            self._until_serving(timeout_seconds)
            with progress.share(f"scoring {ref} with {self.name}") as update:
                for answer in self.connection.prediction.ScoreDataset(request):
                    update(answer.rows_done / max(answer.rows_total, 1), f"{answer.rows_per_second:,.0f} rows/s")
        warn_of(answer.unknown_categories)
        return Dataset(self.connection, answer.dataset)

    def status(self) -> inference_pb2.Deployment:
        """Return what the platform says of the deployment.

        Raises:
            NotFound: there is none.
        """
        return self.connection.inference.GetDeployment(build(inference_pb2.GetDeploymentRequest, name=self.name))

    def wait(self, timeout_seconds: float = READY_SECONDS) -> inference_pb2.Deployment:
        """Wait until every worker answers with the version that is wanted; return the deployment.

        Where fewer replicas have room than are wanted, those that serve are enough.

        Raises:
            DeadlineExceeded: it did not in time; the message says what it was waiting for.
            FailedPrecondition: the version cannot be served; the message says why.
        """
        return wait_until(self.connection, self.name, is_settled, timeout_seconds)

    def split(self, shares: Mapping[str, float]) -> inference_pb2.Deployment:
        """Have other versions answer a share of the requests that name none; the deployment's own takes the rest.

        Args:
            shares: percent by version (name@number or name@alias), together at most 100; empty ends a split. Requests
                of one `lepton_sticky_key` stay with one version.
        """
        return self._update("traffic", traffic=releases.to_traffic(shares))

    def canary(self, version: str | None, *, steps: Sequence[float] = (), **rules: Any) -> inference_pb2.Deployment:
        """Have a version take over step by step as long as it does as well as the deployment's own.

        It is promoted after its last step, and taken back at once where it fails more, is slower or disagrees.

        Args:
            version: name@number or name@alias; None ends the canary.
            steps: its shares, percent, rising; by default 5, 25, 50.
            rules: step_seconds (60), min_requests (100), max_error_rate_increase (0.01), max_latency_ratio (1.5),
                min_agreement (0, which compares nothing), compare_percent (10), tolerance (0.01).
        """
        if version is None:
            return self._update("canary")
        return self._update("canary", canary=releases.to_canary(version, steps, **rules))

    def shadow(
        self, version: str | None, *, percent: float = 100.0, tolerance: float = 0.01
    ) -> inference_pb2.Deployment:
        """Run requests once more on a version, in the background, and compare its answers; it answers nobody.

        Args:
            version: name@number or name@alias; None ends the shadow.
            percent: of the requests.
            tolerance: how far apart two numbers may be and still agree, relative to the larger one.
        """
        if version is None:
            return self._update("shadow")
        shadow = build(inference_pb2.Shadow, version=version, percent=percent, tolerance=tolerance)
        return self._update("shadow", shadow=shadow)

    def promote(self) -> inference_pb2.Deployment:
        """Make the running canary's version the deployment's own, now."""
        request = inference_pb2.PromoteCanaryRequest(name=self.name, request_id=names.request_id())
        return self.connection.inference.PromoteCanary(request)

    def abort(self) -> inference_pb2.Deployment:
        """End the running canary, now; the deployment's own version answers everything again."""
        request = inference_pb2.AbortCanaryRequest(name=self.name, request_id=names.request_id())
        return self.connection.inference.AbortCanary(request)

    def versions(self) -> pd.DataFrame:
        """Return one row a version that workers hold: its role and share, and how its requests went."""
        return releases.versions_frame(self.status())

    def _update(self, path: str, **fields: Any) -> inference_pb2.Deployment:
        request = inference_pb2.UpdateDeploymentRequest(
            deployment=build(inference_pb2.Deployment, name=self.name, **fields),
            update_mask=FieldMask(paths=[path]),
            request_id=names.request_id(),
        )
        return self.connection.inference.UpdateDeployment(request)

    def tune(
        self, mode: str, *, max_quality_loss_points: float | None = None, evaluation_dataset: str | None = None
    ) -> inference_pb2.Deployment:
        """Say how far workers may go for a faster execution plan; they follow while they serve. Return the deployment.

        Args:
            mode: `off`; `lossless`: graph optimisation, threads and batch; or `within_loss`: also int8 and fp16.
            max_quality_loss_points: the most that a plan may lose, 100 times the metric; by default 0.5.
            evaluation_dataset: a dataset version to judge on, name@number; by default the version's own.
        """
        return self._update("tuning", tuning=plans.to_tuning(mode, max_quality_loss_points, evaluation_dataset))

    def cache(self, size_bytes: int) -> inference_pb2.Deployment:
        """Have workers keep answers for requests whose tensors are the same; return the deployment.

        Args:
            size_bytes: what each worker may keep; the least recently used answers go first. 0 keeps none.
        """
        return self._update("response_cache_bytes", response_cache_bytes=size_bytes)

    def batch(self, mode: str) -> inference_pb2.Deployment:
        """Say whether rows of several requests may be run together; return the deployment.

        Args:
            mode: auto runs them together where the graph is shown to answer each row by itself; off gives each request
                a run of its own.
        """
        return self._update("batching", batching=plans.to_batching(mode))

    def plans(self) -> pd.DataFrame:
        """Return one row an execution plan: version, hardware, what was chosen, its speed and its quality."""
        return plans.plans_frame(self.status())

    def rollback(self) -> inference_pb2.Deployment:
        """Serve again what was served before; return the deployment."""
        request = inference_pb2.RollbackDeploymentRequest(name=self.name, request_id=names.request_id())
        return self.connection.inference.RollbackDeployment(request)

    def delete(self) -> None:
        """Stop serving."""
        request = inference_pb2.DeleteDeploymentRequest(name=self.name, request_id=names.request_id())
        self.connection.inference.DeleteDeployment(request)

    @classmethod
    def list(cls, *, connection: Connection | None = None) -> pd.DataFrame:
        """Return one row a deployment: name, version, number, state, replicas, providers, batching and the like."""
        connection = connection or current()
        rows, token = [], ""
        while True:
            page = connection.inference.ListDeployments(inference_pb2.ListDeploymentsRequest(page_token=token))
            rows += [to_row(deployment) for deployment in page.deployments]
            token = page.next_page_token
            if not token:
                return pd.DataFrame(rows, columns=COLUMNS)

    def __repr__(self) -> str:
        return f"Deploy({self.name!r})"

    def _repr_html_(self) -> str:
        try:
            row = to_row(self.status())
        except errors.LeptonError as error:
            return html_table(repr(self), ("",), [(error.message,)])
        return html_table(repr(self), ("", ""), zip(COLUMNS, row, strict=True))

    def _wanted(self) -> ModelVersion:
        if self._version is None:
            self._version = ModelVersion.get(self.name, connection=self.connection)
        return self._version

    def _create(self, version: str) -> None:
        deployment = build(
            inference_pb2.Deployment,
            name=self.name,
            version=version,
            replicas=self.replicas or 1,
            resources=with_declared(common_pb2.Resources(), self._resources),
            tuning=self._tuning,
            batching=self._batching,
        )
        request = inference_pb2.CreateDeploymentRequest(deployment=deployment, request_id=names.request_id())
        self.connection.inference.CreateDeployment(request)
