"""The registry service over TLS for tests, and a client of it that speaks in servicekit's errors."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from lepton.v1 import registry_pb2 as pb
from lepton.v1.registry_pb2_grpc import RegistryServiceStub, add_RegistryServiceServicer_to_server
from servicekit.auth import Identity, Role
from servicekit.database import open_database
from servicekit.objects import Objects
from servicekit.resource_users import ResourceUser, ResourceUsers, UseOfDeployment, UseOfJob
from servicekit.rpc.channel import ServiceChannel, open_channel
from servicekit.server import Servicer, running_server
from servicekit.state import State
from services.registry.adapters import tables
from services.registry.adapters.artifact_store import ObjectArtifactStore
from services.registry.adapters.repository import SqlRepository
from services.registry.adapters.verifier import ChildVerifier
from services.registry.domain.uploads import Uploads
from services.registry.servicer import RegistryServicer
from services.registry.settings import RegistrySettings
from tests.support import onnx_models
from tests.support.credentials import MakeToken, environment_of, public_channel

GOOD = onnx_models.linear_model()


class Client:
    """Calls a registry as somebody.

    Args:
        channel: to its public or private port.
        identity: who calls; its token goes along, or its workspace where it is a service.
    """

    def __init__(self, channel: grpc.aio.Channel, identity: Identity) -> None:
        who = (
            ("authorization", f"Bearer {identity.token}")
            if identity.token
            else ("lepton-workspace", identity.workspace)
        )
        self.stub: Any = _As(RegistryServiceStub(channel), (who,))

    async def create(
        self, model: str = "credit", files: Mapping[str, bytes] | None = None, **fields: Any
    ) -> pb.Version:
        """Take a number for some files."""
        request = pb.CreateVersionRequest(model=model, **fields)
        for name, content in (files or {"model.onnx": GOOD}).items():
            request.artifacts.add(name=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        answer: pb.Version = await self.stub.CreateVersion(request)
        return answer

    async def upload(self, ref: str, content: bytes = GOOD, name: str = "model.onnx", piece: int = 1 << 20) -> None:
        """Stream a file."""
        await self.stub.UploadArtifact(messages(ref, name, content, piece))

    async def finalize(self, ref: str, request_id: str = "") -> pb.Version:
        """Have a version checked."""
        answer: pb.Version = await self.stub.FinalizeVersion(pb.FinalizeVersionRequest(ref=ref, request_id=request_id))
        return answer

    async def register(
        self, model: str = "credit", files: Mapping[str, bytes] | None = None, **fields: Any
    ) -> pb.Version:
        """Create, upload and finalize."""
        version = await self.create(model, files, **fields)
        if version.state != pb.VERSION_STATE_PENDING:
            return version
        for name, content in (files or {"model.onnx": GOOD}).items():
            await self.upload(ref_of(version), content, name)
        return await self.finalize(ref_of(version))

    async def download(self, ref: str, name: str = "model.onnx") -> bytes:
        """Return a file."""
        answers = self.stub.DownloadArtifact(pb.DownloadArtifactRequest(ref=ref, name=name))
        return b"".join([answer.chunk async for answer in answers])

    async def get(self, ref: str) -> pb.Version:
        """Return a version."""
        answer: pb.Version = await self.stub.GetVersion(pb.GetVersionRequest(ref=ref))
        return answer

    async def promote(self, ref: str, alias: str = "champion", etag: str = "", request_id: str = "") -> pb.Alias:
        """Point an alias at a version."""
        request = pb.PromoteVersionRequest(ref=ref, alias=alias, etag=etag, request_id=request_id)
        answer: pb.Alias = await self.stub.PromoteVersion(request)
        return answer

    async def roll_back(self, model: str = "credit", alias: str = "champion", etag: str = "") -> pb.Alias:
        """Point an alias back."""
        answer: pb.Alias = await self.stub.RollbackAlias(pb.RollbackAliasRequest(model=model, alias=alias, etag=etag))
        return answer

    async def history(self, model: str = "credit", alias: str = "champion") -> list[tuple[int, int, str]]:
        """Return an alias's moves as (from, to, subject), newest first."""
        answer = await self.stub.ListAliasHistory(pb.ListAliasHistoryRequest(model=model, alias=alias))
        return [(move.from_number, move.to_number, move.subject) for move in answer.moves]


class _As:
    """A stub whose calls carry metadata."""

    def __init__(self, stub: RegistryServiceStub, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub = stub
        self._metadata = metadata

    def __getattr__(self, name: str) -> object:
        method = getattr(self._stub, name)
        return lambda *args, **kwargs: method(*args, metadata=self._metadata, **kwargs)


class NoUsers:
    """A platform without deployments and jobs."""

    async def find(self, of_deployment: UseOfDeployment, of_job: UseOfJob) -> list[ResourceUser]:
        """Return nothing."""
        return []


@dataclass
class House:
    """A running registry.

    Args:
        port, private_port: where it listens.
        credentials: the platform's folder.
        settings: its own.
        state: its database.
        make_token: signs tokens.
    """

    port: int
    private_port: int
    credentials: Path
    settings: RegistrySettings
    state: State[SqlRepository]
    make_token: MakeToken
    stack: contextlib.AsyncExitStack

    async def user(self, role: str = "developer", workspace: str = "default") -> Client:
        """Return a client with a token."""
        channel = ServiceChannel(public_channel(self.port, self.credentials))
        await self.stack.enter_async_context(channel)
        token = self.make_token(role, workspace)
        return Client(channel, Identity(workspace, Role.DEVELOPER, "", token=token))

    async def worker(self, workspace: str = "default") -> Client:
        """Return a client with the training worker's certificate."""
        settings = RegistrySettings.model_validate(
            {**self.settings.model_dump(), **environment_of(self.credentials, "training")}
        )
        channel = open_channel(f"localhost:{self.private_port}", settings)
        await self.stack.enter_async_context(channel)
        return Client(channel, Identity.for_service(workspace, "training"))

    def objects(self) -> list[Path]:
        """Return the stored objects of the registry."""
        folder = Path(self.settings.objects_url.removeprefix("file://")) / "registry"
        return [path for path in folder.rglob("*") if path.is_file()]


def make_settings(credentials: Path, database_url: str, objects_url: str, **more: object) -> RegistrySettings:
    """Return a registry's settings."""
    fields = {**environment_of(credentials, "registry"), "database_url": database_url, "objects_url": objects_url}
    return RegistrySettings.model_validate({**fields, **more})


@contextlib.asynccontextmanager
async def running_registry(
    settings: RegistrySettings, credentials: Path, make_token: MakeToken, users: ResourceUsers | None = None
) -> AsyncIterator[House]:
    """Serve a registry as its composition root does, without NATS: facts stay in the outbox.

    Args:
        settings: its own.
        credentials: the platform's folder.
        make_token: signs tokens.
        users: looks up what uses a version; by default a platform without deployments and jobs.
    """
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings.database_url, "services.registry.migrations"))
        state = State(database, tables.kit, SqlRepository)
        artifacts = ObjectArtifactStore(Objects.open(settings, "registry"))
        verifier = ChildVerifier(settings.verify_seconds)
        uploads = Uploads(artifacts, verifier, state.reading, state.writing, settings.parity_tolerance)
        servicer = RegistryServicer(uploads, artifacts, state, settings.max_artifact_bytes, users or NoUsers())
        service = Servicer(
            "lepton.v1.RegistryService", lambda server: add_RegistryServiceServicer_to_server(servicer, server)
        )
        running = await stack.enter_async_context(running_server(settings, [service]))
        clients = await stack.enter_async_context(contextlib.AsyncExitStack())
        yield House(running.port, running.private_port, credentials, settings, state, make_token, clients)


async def messages(
    ref: str, name: str, content: bytes | Iterable[bytes], piece: int = 1 << 20
) -> AsyncIterator[pb.UploadArtifactRequest]:
    """Yield an upload's messages."""
    yield pb.UploadArtifactRequest(header=pb.UploadArtifactHeader(ref=ref, name=name))
    pieces = (
        (content[start : start + piece] for start in range(0, len(content), piece))
        if isinstance(content, bytes)
        else content
    )
    for chunk in pieces:
        yield pb.UploadArtifactRequest(chunk=chunk)


def ref_of(version: pb.Version) -> str:
    """name@number."""
    return f"{version.model}@{version.number}"


def of_job(job: str, epoch: int = 1, **parity: float) -> dict[str, Any]:
    """Return the fields of a version that a job made."""
    measured = {"max_difference": 1e-7, "tolerance": 1e-4, "rows": 200, "label_mismatches": 0, **parity}
    return {"lineage": pb.Lineage(job=job, job_epoch=epoch), "parity": pb.Parity(**measured)}  # type: ignore[arg-type]
