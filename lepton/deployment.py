"""Deployments: serve a model version over gRPC, predict, roll back, delete.

from lepton.deployment import Deploy

deployment = Deploy(model).save()
deployment.predict(rows)
deployment.score("applications@3", name="scored")
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from google.protobuf.field_mask_pb2 import FieldMask

from lepton import errors, names, open_inference, plans, progress, releases, served_frames, tracing, typed_rows
from lepton.arguments import as_list, build, to_names
from lepton.connection import Connection, current
from lepton.datasets import Dataset
from lepton.deployment_states import COLUMNS, is_settled, serves_something, to_row, wait_until
from lepton.images import read_image
from lepton.models import Model
from lepton.resources import checked_replicas, declared_resources, with_declared
from lepton.tables import html_table
from lepton.v1 import common_pb2, inference_pb2, prediction_pb2
from lepton.versions import ModelVersion

__all__ = ["Deploy"]

_READY_SECONDS = 60.0
# Each costs as much as thousands of rows.
_BATCH_SINGLES = 256
# The task of a model whose answers are vectors.
_EMBEDDING = "embedding"


class Deploy:
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
        batching: whether a new deployment may run rows of several requests together: see `batch`; auto or off.
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
        batching: str = "auto",
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
        return paths

    def predict(
        self, data: pd.DataFrame, *, version: str = "", timeout_seconds: float = _READY_SECONDS
    ) -> pd.DataFrame:
        """Return predictions for some rows: first the target's column, then a probability a class, or an interval.

        Columns are picked by the model's signature, so the label and others may stay in. A model that reads texts
        or images takes the columns of texts that it was trained on, or else the one column of texts, or of images in
        base64, beside its target. Of an embedding each number is a column. Series are lists of numbers, and so is what
        a forecast says: the target, `lower` and `upper`.

        Args:
            data: the rows.
            version: a version number or alias; by default the deployment's own.
            timeout_seconds: how long to wait for the deployment to be ready, and for each request.

        Raises:
            MissingColumn: the data lacks a column that the model needs; it is a KeyError, too.
            WrongType: the data is no DataFrame.
            InvalidArgument: a column is there twice, or the model refuses a value: a fraction for a whole number, a
                text for a truth value, an infinity. The message names row and column.
            DeadlineExceeded: the deployment was not ready in time.
        """
        with tracing.span("lepton.predict"):
            serving = self._until_serving(timeout_seconds)
            signature = self._serving_version(serving).signature
            data = served_frames.with_names(data, signature)
            single = served_frames.single_input(signature.inputs[0], data)
            if single is not None:
                columns = served_frames.text_columns(signature, single, data)
                return self._predict_columns(data, columns, single, version, timeout_seconds)
            served_frames.check_columns(data, signature, serving.version)
            parts: list[dict[str, np.ndarray[Any, Any]]] = []
            with progress.bar(f"predicting with {self.name}", len(data)) as advance:
                done = 0
                for batch in served_frames.batches(data, signature):
                    inputs = [
                        (spec, open_inference.column_values(batch[spec.name], spec, done)) for spec in signature.inputs
                    ]
                    channel = self.connection.serving_channel
                    parts.append(open_inference.infer(channel, self.name, version, inputs, timeout_seconds))
                    advance(len(batch))
                    done += len(batch)
        return served_frames.to_frame(parts, signature, data.index)

    def _predict_columns(
        self, data: pd.DataFrame, columns: list[str], kind: str, version: str, timeout_seconds: float
    ) -> pd.DataFrame:
        parts = []
        with progress.bar(f"predicting with {self.name}", len(data)) as advance:
            for start in range(0, max(1, len(data)), _BATCH_SINGLES):
                batch = data[columns].iloc[start : start + _BATCH_SINGLES]
                values = list(batch[columns[0]])
                if len(columns) == 2:
                    pairs = list(zip(values, batch[columns[1]], strict=True))
                    parts.append(self.predict_texts(pairs, version=version, timeout_seconds=timeout_seconds))
                elif kind == "texts":
                    parts.append(self.predict_texts(values, version=version, timeout_seconds=timeout_seconds))
                else:
                    files = served_frames.decoded_images(values, columns[0], start)
                    parts.append(self.predict_images(files, version=version, timeout_seconds=timeout_seconds))
                advance(len(values))
        return pd.concat(parts).set_axis(data.index)

    def predict_rows(
        self,
        rows: Iterable[Mapping[Any, object]] | Mapping[Any, object] | pd.DataFrame,
        *,
        version: str = "",
        timeout_seconds: float = _READY_SECONDS,
    ) -> pd.DataFrame:
        """Return predictions for a few records, in their order, with the columns of `predict`; class labels are texts.

        Args:
            rows: records, one record or a DataFrame; each a value by column, None is missing. Columns that the
                model does not ask for are ignored.
            version: a version number or alias; by default the deployment's own.
            timeout_seconds: how long to wait for the deployment to be ready, and for the answer.

        Raises:
            InvalidArgument: a row lacks a column or has a wrong value; the violations name row and column.
            DeadlineExceeded: the deployment was not ready in time.
        """
        typed = [typed_rows.to_row(row) for row in typed_rows.to_records(rows)]
        return self._typed(prediction_pb2.PredictRequest(rows=typed), version, timeout_seconds)

    def predict_texts(
        self,
        texts: str | Iterable[str] | Iterable[tuple[str, str]],
        *,
        version: str = "",
        timeout_seconds: float = _READY_SECONDS,
    ) -> pd.DataFrame:
        """Return predictions for some texts, or pairs of them, by a version with a tokenizer.json.

        Args:
            texts: at most 1,000, or one; pairs for a model that reads two texts together.
            version: a version number or alias; by default the deployment's own.
            timeout_seconds: how long to wait for the deployment to be ready, and for the answer.

        Raises:
            FailedPrecondition: the version has none.
            InvalidArgument: a text is too long, or the model reads pairs and these are none, or the other way round.
        """
        return self._typed(typed_rows.to_texts_request(texts), version, timeout_seconds)

    def embed(
        self, texts: str | Iterable[str], *, version: str = "", timeout_seconds: float = _READY_SECONDS
    ) -> "np.ndarray[Any, Any]":
        """Return (rows, size) vectors of some texts, by a model of embeddings: 32-bit floats, each of length 1.

        Args:
            texts: one, or any number of them.
            version: a version number or alias; by default the deployment's own.
            timeout_seconds: how long to wait for the deployment to be ready, and for each answer.

        Raises:
            FailedPrecondition: the model gives labels, no vectors, or reads no texts.
            InvalidArgument: a text is too long.
        """
        given, found = as_list(texts, "texts"), list[prediction_pb2.Prediction]()
        with progress.bar(f"embedding with {self.name}", len(given)) as advance:
            for start in range(0, len(given), _BATCH_SINGLES):
                request = typed_rows.to_texts_request(given[start : start + _BATCH_SINGLES])
                answers, _ = self._ask(request, version, timeout_seconds)
                found.extend(answers)
                advance(len(answers))
        return typed_rows.to_vectors(found, self.name)

    def predict_images(
        self,
        images: bytes | str | Path | Iterable[bytes | str | Path],
        *,
        version: str = "",
        timeout_seconds: float = _READY_SECONDS,
    ) -> pd.DataFrame:
        """Return predictions for some PNG or JPEG images, files or their bytes, by a version with an image.json.

        Raises:
            FailedPrecondition: the version has none.
            InvalidArgument: one is no image, or too large.
        """
        contents = [read_image(image) for image in as_list(images, "images")]
        return self._typed(prediction_pb2.PredictRequest(images=contents), version, timeout_seconds)

    def score(
        self,
        dataset: Dataset | str,
        *,
        name: str | None = None,
        version: str = "",
        columns: str | Iterable[str] = (),
        batch_rows: int = 0,
        timeout_seconds: float = _READY_SECONDS,
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
        request = build(
            prediction_pb2.ScoreDatasetRequest,
            dataset=ref,
            deployment=self.name,
            version=version,
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
        return Dataset(self.connection, answer.dataset)

    def status(self) -> inference_pb2.Deployment:
        """Return what the platform says of the deployment.

        Raises:
            NotFound: there is none.
        """
        return self.connection.inference.GetDeployment(build(inference_pb2.GetDeploymentRequest, name=self.name))

    def wait(self, timeout_seconds: float = _READY_SECONDS) -> inference_pb2.Deployment:
        """Wait until every worker answers with the version that is wanted; return the deployment.

        Where fewer replicas have room than are wanted, those that serve are enough.

        Raises:
            DeadlineExceeded: it did not in time; the message says what it was waiting for.
            FailedPrecondition: the version cannot be served; the message says why.
        """
        return wait_until(self.connection, self.name, is_settled, timeout_seconds)

    def _until_serving(self, timeout_seconds: float) -> inference_pb2.Deployment:
        """Wait until some version of the deployment serves; return the deployment. Errors are those of `wait`."""
        return wait_until(self.connection, self.name, serves_something, timeout_seconds)

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

    def _typed(self, request: prediction_pb2.PredictRequest, version: str, timeout_seconds: float) -> pd.DataFrame:
        predictions, signature = self._ask(request, version, timeout_seconds)
        name = signature.task if signature.task == _EMBEDDING else signature.target
        return typed_rows.to_frame(predictions, name or "prediction", list(signature.classes))

    def _ask(
        self, request: prediction_pb2.PredictRequest, version: str, timeout_seconds: float
    ) -> tuple[Sequence[prediction_pb2.Prediction], common_pb2.Signature]:
        request.deployment, request.version = self.name, version
        with tracing.span("lepton.predict"):
            signature = self._serving_version(self._until_serving(timeout_seconds)).signature
            answer = self.connection.prediction.Predict(request, timeout=timeout_seconds)
        return answer.predictions, signature

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

    def _serving_version(self, deployment: inference_pb2.Deployment) -> ModelVersion:
        model = deployment.version.partition("@")[0]
        return ModelVersion.get(f"{model}@{deployment.number}", connection=self.connection)
