"""Model versions in the registry: get, list, promote, roll back, download, upload."""

import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lepton import errors, names
from lepton.arguments import as_list, build
from lepton.connection import Connection, current
from lepton.deletions import describe_broken
from lepton.model_files import Example, gather, to_artifact
from lepton.reports import Report
from lepton.tables import html_table
from lepton.v1 import common_pb2, registry_pb2

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelVersion:
    """One immutable version of a model.

    Args:
        connection: the platform that holds it.
        message: what the registry says of it.
    """

    connection: Connection
    message: registry_pb2.Version

    @classmethod
    def get(cls, ref: str, *, connection: Connection | None = None) -> "ModelVersion":
        """Return a version by `name@3`, `name@champion`, or the newest READY one by `name`.

        Raises:
            NotFound: there is none.
        """
        connection = connection or current()
        return cls(connection, connection.registry.GetVersion(build(registry_pb2.GetVersionRequest, ref=ref)))

    @classmethod
    def list(cls, model: str, *, connection: Connection | None = None) -> pd.DataFrame:
        """Return one row a version of a model, newest first: number, state, family, dataset, metrics, create_time."""
        connection = connection or current()
        rows, token = [], ""
        while True:
            request = build(registry_pb2.ListVersionsRequest, model=model, page_token=token)
            page = connection.registry.ListVersions(request)
            rows += [_row(version) for version in page.versions]
            token = page.next_page_token
            if not token:
                columns = ["number", "state", "family", "dataset", "metrics", "create_time", "error"]
                return pd.DataFrame(rows, columns=columns)

    @classmethod
    def list_models(cls, *, connection: Connection | None = None) -> pd.DataFrame:
        """Return one row a model: name, latest_version, latest_ready_version, create_time."""
        connection = connection or current()
        rows, token = [], ""
        while True:
            page = connection.registry.ListModels(registry_pb2.ListModelsRequest(page_token=token))
            rows += [
                (model.name, model.latest_version, model.latest_ready_version, model.create_time.ToDatetime())
                for model in page.models
            ]
            token = page.next_page_token
            if not token:
                return pd.DataFrame(rows, columns=["name", "latest_version", "latest_ready_version", "create_time"])

    @classmethod
    def upload(
        cls,
        model: str,
        onnx: str | Path | bytes,
        *,
        files: str | Path | Iterable[str | Path] = (),
        example: Example | None = None,
        description: str = "",
        connection: Connection | None = None,
    ) -> "ModelVersion":
        """Register an ONNX model that was made elsewhere; its signature is read from the graph.

        Args:
            model: the model's id.
            onnx: the file, or its bytes.
            files: one additional file or several, such as its tokenizer.json or image.json. Files that the graph reads
                weights from are found by themselves in the folder of the ONNX file.
            example: a request that the model answers, which is tried in place of made-up ones: arrays by input, a .npz
                of them, or a .json request of the Open Inference Protocol. It is kept with the version, encrypted.
            description: for people.
            connection: the platform; by default the one in use.

        Warns:
            UserWarning: of what to know of the version, which can be served: see `warnings`.

        Raises:
            InvalidArgument: the registry refused the model; the reason says why.
        """
        connection = connection or current()
        contents = gather(onnx, as_list(files, "files"), example)
        artifacts = [to_artifact(name, content) for name, content in contents.items()]
        request = build(
            registry_pb2.CreateVersionRequest,
            model=model,
            artifacts=artifacts,
            description=description,
            request_id=names.request_id(),
        )
        version = register(request, contents, connection)
        for text in version.warnings:
            warnings.warn(f"{version.ref}: {text}", UserWarning, stacklevel=2)
        return version

    @property
    def ref(self) -> str:
        """The version as name@number."""
        return f"{self.message.model}@{self.message.number}"

    @property
    def state(self) -> str:
        """PENDING, READY or FAILED."""
        return _state_name(self.message.state)

    @property
    def warnings(self) -> Sequence[str]:
        """What to know of a version made elsewhere: a sample prediction that failed, outputs left out or changed."""
        return [*self.message.warnings]

    @property
    def metrics(self) -> Mapping[str, float]:
        """The first held-out evaluation's metrics by name."""
        evaluations = self.message.evaluations
        return {metric.name: metric.value for metric in evaluations[0].metrics} if evaluations else {}

    def evaluations(self) -> pd.DataFrame:
        """Return one row an evaluation: version, dataset, rows, and its metrics.

        A fine-tuned version was scored on new rows, and on those that its parent was scored on. The parent's own scores
        on these stand last, so that what was forgotten is seen.
        """
        scored = [(self.ref, item) for item in self.message.evaluations]
        if parent := self.parent():
            scored += [(parent.ref, item) for item in parent.message.evaluations[:1]]
        rows = [
            {
                "version": ref,
                "dataset": item.dataset,
                "rows": item.rows,
                **{metric.name: metric.value for metric in item.metrics},
            }
            for ref, item in scored
        ]
        return pd.DataFrame(rows, columns=None if rows else ["version", "dataset", "rows"])

    def parent(self) -> "ModelVersion | None":
        """Return the version that this one was trained on from; None where there was none, or it is deleted."""
        if not self.message.lineage.parent:
            return None
        try:
            return ModelVersion.get(self.message.lineage.parent, connection=self.connection)
        except errors.NotFound:
            return None

    @property
    def signature(self) -> common_pb2.Signature:
        """What the model takes and gives."""
        return self.message.signature

    def promote(self, alias: str = "champion", *, etag: str = "") -> registry_pb2.Alias:
        """Point an alias at this version; with an etag, only if the alias has not moved since.

        Raises:
            Aborted: the alias moved meanwhile.
        """
        request = build(
            registry_pb2.PromoteVersionRequest, ref=self.ref, alias=alias, etag=etag, request_id=names.request_id()
        )
        return self.connection.registry.PromoteVersion(request)

    def report(self) -> Report:
        """Return what is to be seen of the model on the rows that were held out when it was trained.

        Raises:
            FailedPrecondition: it was made elsewhere; `evaluate(version, data).report()` has a report of it.
        """
        return Report.of_version(self)

    def download(self, artifact: str = "model.onnx") -> bytes:
        """Return one of the version's files."""
        return b"".join(self._pieces(artifact))

    def _pieces(self, artifact: str) -> Iterator[bytes]:
        request = build(registry_pb2.DownloadArtifactRequest, ref=self.ref, name=artifact)
        for answer in self.connection.registry.DownloadArtifact(request):
            yield answer.chunk

    def save(self, folder: str | Path) -> Path:
        """Write all of the version's files into a folder, made if absent; return it. Fits begin from such a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for artifact in self.message.artifacts:
            # In pieces: weights may be larger than memory.
            with open(folder / artifact.name, "wb") as file:
                file.writelines(self._pieces(artifact.name))
        return folder

    def delete(self, *, force: bool = False) -> tuple[str, ...]:
        """Delete the version; its number is never used again. Return what breaks by that: nothing, without force.

        Args:
            force: delete it although a deployment, an alias or a queued or running job uses it.

        Raises:
            FailedPrecondition: something uses it; the message names all of it.
            Unavailable: what uses it cannot be looked up now.
        """
        request = registry_pb2.DeleteVersionRequest(ref=self.ref, request_id=names.request_id(), force=force)
        return describe_broken(self.connection.registry.DeleteVersion(request))

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name}={value:.4g}" for name, value in self.metrics.items())
        return f"ModelVersion({self.ref}, {self.state}{', ' + metrics if metrics else ''})"

    def _repr_html_(self) -> str:
        lineage = self.message.lineage
        rows = [
            ("state", self.state),
            ("family", lineage.family or "made elsewhere"),
            ("kind", "pretrained weights" if self.message.pretrained else ""),
            ("trained on", lineage.dataset),
            ("job", lineage.job),
            ("parent", lineage.parent),
            ("parity", f"{self.message.parity.max_difference:.2g}" if self.message.HasField("parity") else ""),
            *(
                (f"{metric.name} on {item.dataset}", f"{metric.value:.4g}")
                for item in self.message.evaluations
                for metric in item.metrics
            ),
        ]
        return html_table(self.ref, ("", ""), [row for row in rows if row[1]])


def register(
    request: registry_pb2.CreateVersionRequest, files: Mapping[str, bytes | Path], connection: Connection
) -> ModelVersion:
    """Create a version, bring its files and have it checked; return it READY.

    Args:
        request: what is declared of it.
        files: content, or where that lies, by name.
        connection: the platform.

    Raises:
        InvalidArgument: the registry refused it; the reason says why.
    """
    created = connection.registry.CreateVersion(request)
    ref = f"{created.model}@{created.number}"
    for name, content in files.items():
        connection.registry.UploadArtifact(_upload(ref, name, content))
    finalize = registry_pb2.FinalizeVersionRequest(ref=ref, request_id=names.request_id())
    version = ModelVersion(connection, connection.registry.FinalizeVersion(finalize, timeout=300))
    if version.state == "FAILED":
        raise errors.InvalidArgument(
            f"{ref} was refused: {version.message.error_message}", reason=version.message.error_reason
        )
    return version


def rollback(model: str, alias: str = "champion", *, connection: Connection | None = None) -> registry_pb2.Alias:
    """Point an alias back at the version that it named before; return it."""
    connection = connection or current()
    request = build(registry_pb2.RollbackAliasRequest, model=model, alias=alias, request_id=names.request_id())
    return connection.registry.RollbackAlias(request)


def aliases(model: str, *, connection: Connection | None = None) -> Mapping[str, int]:
    """Return the version number behind each alias of a model."""
    connection = connection or current()
    answer = connection.registry.ListAliases(build(registry_pb2.ListAliasesRequest, model=model))
    return {alias.name: alias.number for alias in answer.aliases}


def _upload(ref: str, name: str, content: bytes | Path) -> Iterator[registry_pb2.UploadArtifactRequest]:
    yield registry_pb2.UploadArtifactRequest(header=registry_pb2.UploadArtifactHeader(ref=ref, name=name))
    # Weights may be larger than memory.
    with io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield registry_pb2.UploadArtifactRequest(chunk=chunk)


def _state_name(state: "registry_pb2.VersionState.ValueType") -> str:
    return registry_pb2.VersionState.Name(state).removeprefix("VERSION_STATE_")


def _row(version: registry_pb2.Version) -> tuple[object, ...]:
    metrics = (
        {metric.name: round(metric.value, 4) for metric in version.evaluations[0].metrics}
        if (version.evaluations)
        else {}
    )
    return (
        version.number,
        _state_name(version.state),
        version.lineage.family,
        version.lineage.dataset,
        metrics,
        version.create_time.ToDatetime(),
        version.error_message,
    )
