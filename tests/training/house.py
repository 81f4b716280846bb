"""Training with the data service, the registry, the scheduler and NATS around it: all real, over TLS."""

import asyncio
import atexit
import contextlib
import functools
import hashlib
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr

from lepton.v1 import data_pb2, training_pb2
from lepton.v1.data_pb2_grpc import DataServiceStub, add_DataServiceServicer_to_server
from lepton.v1.training_pb2_grpc import TrainingServiceStub
from servicekit.auth import Identity, act_as
from servicekit.database import open_database
from servicekit.errors import LeptonError
from servicekit.objects import Objects
from servicekit.rpc import open_channel
from servicekit.rpc.channel import ServiceChannel
from servicekit.server import RunningServer, Servicer, running_server
from servicekit.settings import ProcessSettings
from servicekit.state import State
from services.data.adapters import tables as data_tables
from services.data.adapters.repository import SqlRepository as DataRepository
from services.data.adapters.table_store import ObjectTableStore
from services.data.domain.datasets import Datasets
from services.data.domain.work import Work
from services.data.servicer import DataServicer
from services.data.settings import DataSettings
from services.scheduler.__main__ import running_scheduler
from services.scheduler.settings import SchedulerSettings
from services.training.__main__ import running_training, running_worker
from services.training.settings import TrainingSettings, WorkerSettings
from services.training.worker.children import libraries_environment
from services.training.worker.fork_server import ForkServer
from services.training.worker.jobs import JobRunner
from tests.registry.house import Client as RegistryClient
from tests.registry.house import House as RegistryHouse
from tests.registry.house import NoUsers, make_settings, running_registry
from tests.scheduler.neighbours import Owners, running_owners
from tests.support.credentials import MakeToken, bearer, environment_of, public_channel
from tests.support.nats import NatsServer

QUEUED = training_pb2.JOB_STATE_QUEUED
RUNNING = training_pb2.JOB_STATE_RUNNING
SUCCEEDED = training_pb2.JOB_STATE_SUCCEEDED
FAILED = training_pb2.JOB_STATE_FAILED
CANCELLED = training_pb2.JOB_STATE_CANCELLED
FIT = training_pb2.JOB_KIND_FIT
FINE_TUNE = training_pb2.JOB_KIND_FINE_TUNE
EVALUATE = training_pb2.JOB_KIND_EVALUATE


class People:
    """Calls the training service as somebody, in servicekit's errors.

    Args:
        channel: to its public port.
        metadata: a token.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self.stub: Any = TrainingServiceStub(channel)
        self.metadata = metadata

    async def create(self, request_id: str = "", **spec: Any) -> training_pb2.Job:
        """Queue a job: by default a quick fit."""
        wanted: dict[str, Any] = {"kind": FIT, "family": "linear_regression", "dataset": "line@1"} | spec
        request = training_pb2.CreateJobRequest(spec=training_pb2.JobSpec(**wanted), request_id=request_id)
        job: training_pb2.Job = await self.stub.CreateJob(request, metadata=self.metadata)
        return job

    async def get(self, name: str) -> training_pb2.Job:
        """Return a job."""
        job: training_pb2.Job = await self.stub.GetJob(training_pb2.GetJobRequest(name=name), metadata=self.metadata)
        return job

    async def list(self, **request: Any) -> training_pb2.ListJobsResponse:
        """Return a page of jobs."""
        page: training_pb2.ListJobsResponse = await self.stub.ListJobs(
            training_pb2.ListJobsRequest(**request), metadata=self.metadata
        )
        return page

    async def cancel(self, name: str, request_id: str = "") -> training_pb2.Job:
        """Ask a job to stop."""
        request = training_pb2.CancelJobRequest(name=name, request_id=request_id)
        job: training_pb2.Job = await self.stub.CancelJob(request, metadata=self.metadata)
        return job

    def watch(self, name: str, after: int = 0) -> AsyncGenerator[training_pb2.WatchJobResponse, None]:
        """Stream a job's updates."""
        request = training_pb2.WatchJobRequest(name=name, after_sequence=after)
        updates: AsyncGenerator[training_pb2.WatchJobResponse, None] = self.stub.WatchJob(
            request, metadata=self.metadata
        )
        return updates

    async def until(
        self, name: str, condition: Callable[[training_pb2.Job], bool], seconds: float = 300.0
    ) -> training_pb2.Job:
        """Wait until a job is so."""
        job = training_pb2.Job()
        try:
            async with asyncio.timeout(seconds):
                while not condition(job := await self.get(name)):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"waited {seconds:g} s, and the job is: {job}") from None
        return job

    async def ended(self, name: str, seconds: float = 300.0) -> training_pb2.Job:
        """Wait for a job's end."""
        return await self.until(name, lambda job: job.state in (SUCCEEDED, FAILED, CANCELLED), seconds)


class Workers:
    """Calls the training service as a worker in a workspace.

    Args:
        stub: the service by its private port.
        workspace: whose jobs.
    """

    def __init__(self, stub: Any, workspace: str = "default") -> None:
        self.stub = stub
        self._workspace = workspace

    async def start(self, name: str, epoch: int, worker: str = "w") -> training_pb2.Job:
        """Take a job."""
        request = training_pb2.StartJobRequest(name=name, worker=worker, epoch=epoch)
        with act_as(Identity.for_service(self._workspace, "training")):
            job: training_pb2.Job = await self.stub.StartJob(request)
        return job

    async def report(self, name: str, epoch: int, worker: str = "w", **more: Any) -> bool:
        """Report; return whether to stop."""
        request = training_pb2.ReportJobRequest(name=name, worker=worker, epoch=epoch, **more)
        with act_as(Identity.for_service(self._workspace, "training")):
            answer: training_pb2.ReportJobResponse = await self.stub.ReportJob(request)
        return answer.cancel_requested

    async def finish(
        self, name: str, epoch: int, worker: str = "w", state: int = SUCCEEDED, **more: Any
    ) -> training_pb2.Job:
        """Report an end."""
        request = training_pb2.FinishJobRequest(name=name, worker=worker, epoch=epoch, **more)
        request.state = state  # type: ignore[assignment]
        with act_as(Identity.for_service(self._workspace, "training")):
            job: training_pb2.Job = await self.stub.FinishJob(request)
        return job

    async def save_checkpoint(
        self, name: str, epoch: int, *chunks: bytes, worker: str = "w", sha256: str = ""
    ) -> training_pb2.Checkpoint:
        """Keep a checkpoint; by default with its own digest."""
        header = training_pb2.SaveCheckpointHeader(name=name, worker=worker, epoch=epoch)
        header.sha256 = sha256 or hashlib.sha256(b"".join(chunks)).hexdigest()

        async def parts() -> AsyncIterator[training_pb2.SaveCheckpointRequest]:
            yield training_pb2.SaveCheckpointRequest(header=header)
            for chunk in chunks:
                yield training_pb2.SaveCheckpointRequest(chunk=chunk)

        with act_as(Identity.for_service(self._workspace, "training")):
            kept: training_pb2.Checkpoint = await self.stub.SaveCheckpoint(parts())
        return kept

    async def load_checkpoint(self, name: str) -> bytes:
        """Return the latest checkpoint."""
        with act_as(Identity.for_service(self._workspace, "training")):
            answers = self.stub.LoadCheckpoint(training_pb2.LoadCheckpointRequest(name=name))
            return b"".join([answer.chunk async for answer in answers])


@dataclass(repr=False)
class House:
    """What a test runs in.

    Args:
        credentials: the platform's folder.
        folder: for databases and objects.
        nats: the test's own.
        make_token: signs tokens.
        data: a running data service, as a developer of the default workspace.
        registry: a running registry; developer calls it.
        training: the service; people and workers call it.
    """

    credentials: Path
    folder: Path
    nats: NatsServer
    make_token: MakeToken
    stack: contextlib.AsyncExitStack
    data: Any = field(init=False)
    data_port: int = field(init=False)
    registry: RegistryHouse = field(init=False)
    developer: RegistryClient = field(init=False)
    training: RunningServer = field(init=False)
    people: People = field(init=False)
    workers: Workers = field(init=False)
    scheduler_port: int = field(init=False)

    def environment(self, service: str, **more: object) -> dict[str, object]:
        """Return a process's settings."""
        return {
            **environment_of(self.credentials, service),
            "nats_url": self.nats.url,
            "drain_seconds": 0.5,
            "objects_url": (self.folder / "objects").as_uri(),
            **more,
        }

    def database(self, service: str) -> str:
        """Return the URL of a service's database."""
        return f"sqlite+aiosqlite:///{self.folder / service}.sqlite3"

    async def start_data(self) -> None:
        """Run a data service."""
        settings = DataSettings.model_validate(self.environment("data", database_url=self.database("data")))
        database = await self.stack.enter_async_context(
            open_database(settings.database_url, "services.data.migrations")
        )
        state = State(database, data_tables.kit, DataRepository)
        store = ObjectTableStore(Objects.open(settings, "data"), settings.max_upload_bytes, Work(2))
        servicer = DataServicer(Datasets(store, state.reading), state, settings.max_message_bytes, NoUsers())
        service = Servicer("lepton.v1.DataService", lambda server: add_DataServiceServicer_to_server(servicer, server))
        server = await self.stack.enter_async_context(running_server(settings, [service]))
        self.data_port = server.private_port
        self.data = DataServiceStub(await self._public(server.port))

    async def start_registry(self, **more: object) -> None:
        """Run a registry."""
        objects = (self.folder / "objects").as_uri()
        settings = make_settings(self.credentials, self.database("registry"), objects, **more)
        running = running_registry(settings, self.credentials, self.make_token)
        self.registry = await self.stack.enter_async_context(running)
        self.developer = await self.registry.user()

    def training_settings(self, **more: object) -> TrainingSettings:
        """Return the service's settings."""
        addresses = {
            "data_address": f"localhost:{self.data_port}",
            "registry_address": f"localhost:{self.registry.private_port}",
        }
        fields = {"database_url": self.database("training"), **addresses, **more}
        return TrainingSettings.model_validate(self.environment("training", **fields))

    async def start_training(self, **more: object) -> None:
        """Run the service."""
        self.training = await self.stack.enter_async_context(running_training(self.training_settings(**more)))
        self.people = await self.person()
        channel = open_channel(f"localhost:{self.training.private_port}", self.process_settings("training"))
        self.workers = Workers(TrainingServiceStub(await self.stack.enter_async_context(channel)))

    async def person(self, role: str = "developer", workspace: str = "default") -> People:
        """Return a client of the service."""
        return People(await self._public(self.training.port), bearer(self.make_token(role, workspace)))

    async def start_scheduler(self, lease_seconds: float = 20.0) -> None:
        """Run a scheduler that leads, with nobody who wants replicas."""
        owners = Owners()
        await self.stack.enter_async_context(running_owners(owners, self.credentials, self.nats))
        settings = SchedulerSettings.model_validate(
            self.environment(
                "scheduler",
                database_url=self.database("scheduler"),
                inference_address=f"localhost:{owners.port}",
                training_address=f"localhost:{self.training.private_port}",
                resync_seconds=1.0,
                grace_seconds=0.5,
                lease_seconds=lease_seconds,
            )
        )
        scheduler = await self.stack.enter_async_context(running_scheduler(settings))
        self.scheduler_port = scheduler.private_port

    def worker_settings(self, **more: object) -> WorkerSettings:
        """Return a worker's settings."""
        return WorkerSettings.model_validate(self._worker_environment(**more))

    def _worker_environment(self, **more: object) -> dict[str, object]:
        addresses = {
            "data_address": f"localhost:{self.data_port}",
            "registry_address": f"localhost:{self.registry.private_port}",
            "training_address": f"localhost:{self.training.private_port}",
            "scheduler_address": f"localhost:{self.scheduler_port}",
        }
        capacity = {"worker_cores": 2.0, "worker_memory_bytes": 4 << 30}
        return self.environment("training", **{**addresses, **capacity, **more})

    @contextlib.asynccontextmanager
    async def worker(self, name: str = "w1", **more: object) -> AsyncIterator[JobRunner]:
        """Run a worker in this process."""
        async with running_worker(self.worker_settings(**more), name, fork_server()) as runner:
            yield runner

    @contextlib.asynccontextmanager
    async def worker_process(self, name: str = "w1", **more: object) -> AsyncIterator["WorkerProcess"]:
        """Run a worker as a process of its own; it is killed in the end."""
        environment = self._worker_environment(**more)
        worker = WorkerProcess(await _start(environment, "worker", "--id", name))
        try:
            yield worker
        finally:
            await worker.kill()

    @contextlib.asynccontextmanager
    async def service_process(self) -> AsyncIterator["ServiceProcess"]:
        """Run the service as a process of its own, on a database of its own; it is killed in the end."""
        settings = self.training_settings(database_url=self.database("own"), port=free_port())
        service = ServiceProcess(await _start(settings.model_dump(exclude_none=True)))
        try:
            channel = await self._public(settings.port)
            await asyncio.wait_for(_answers(channel), 120)
            service.people = People(channel, bearer(self.make_token()))
            yield service
        finally:
            await service.kill()

    async def import_table(self, name: str, columns: dict[str, Iterable[object]], label: str = "") -> str:
        """Import rows as a dataset; return its reference."""
        rows = zip(*columns.values(), strict=True)
        lines = [",".join(columns), *(",".join("" if cell is None else str(cell) for cell in row) for row in rows)]
        return await self.import_csv(name, ("\n".join(lines) + "\n").encode(), label)

    async def import_csv(self, name: str, content: bytes, label: str = "") -> str:
        """Import a file as a dataset; return its reference."""
        return await self._import(name, content, label, data_pb2.FILE_FORMAT_CSV)

    async def import_parquet(self, name: str, content: bytes, label: str = "") -> str:
        """Import a Parquet file as a dataset; return its reference."""
        return await self._import(name, content, label, data_pb2.FILE_FORMAT_PARQUET)

    async def _import(self, name: str, content: bytes, label: str, file_format: "data_pb2.FileFormat.ValueType") -> str:
        async def messages() -> AsyncIterator[data_pb2.ImportDatasetRequest]:
            header = data_pb2.ImportHeader(dataset=name, format=file_format, label=label)
            yield data_pb2.ImportDatasetRequest(header=header)
            for start in range(0, len(content), 1 << 20):
                yield data_pb2.ImportDatasetRequest(chunk=content[start : start + (1 << 20)])
            yield data_pb2.ImportDatasetRequest(end=data_pb2.ImportEnd(sha256=hashlib.sha256(content).hexdigest()))

        answer = await self.data.ImportDataset(messages(), metadata=bearer(self.make_token()))
        return f"{answer.version.dataset}@{answer.version.number}"

    async def import_line(self, name: str = "line", rows: int = 200, label: str = "y") -> str:
        """Import rows of y = 2 x + 1 with a text column that says nothing."""
        xs = [index / 10 for index in range(rows)]
        text = ["red" if index % 3 else "blue" for index in range(rows)]
        return await self.import_table(name, {"x": xs, "color": text, "y": [2 * x + 1 for x in xs]}, label)

    async def delete_dataset(self, name: str) -> None:
        """Delete a dataset."""
        request = data_pb2.DeleteDatasetRequest(name=name)
        await self.data.DeleteDataset(request, metadata=bearer(self.make_token()))

    def process_settings(self, service: str) -> ProcessSettings:
        """Return the settings of a process that shows a service's certificate."""
        return ProcessSettings.model_validate(self.environment(service))

    async def versions(self, model: str) -> list[Any]:
        """Return a model's versions, oldest first."""
        from lepton.v1 import registry_pb2

        answer = await self.developer.stub.ListVersions(registry_pb2.ListVersionsRequest(model=model))
        return sorted(answer.versions, key=lambda version: version.number)

    async def _public(self, port: int) -> grpc.aio.Channel:
        channel: grpc.aio.Channel = ServiceChannel(public_channel(port, self.credentials))
        await self.stack.enter_async_context(channel)
        return channel


@contextlib.asynccontextmanager
async def running_house(
    credentials: Path, folder: Path, nats: NatsServer, make_token: MakeToken, **registry: object
) -> AsyncIterator[House]:
    """Run data, a registry of some settings, and training, with the dataset line@1: y = 2 x + 1."""
    async with contextlib.AsyncExitStack() as stack:
        house = House(credentials, folder, nats, make_token, stack)
        await house.start_data()
        await house.start_registry(**registry)
        await house.start_training()
        await house.import_line()
        yield house


@functools.cache
def fork_server() -> ForkServer:
    """Return what forks the children of all workers in this process: libraries load once for all tests."""
    server = ForkServer(libraries_environment()).__enter__()
    atexit.register(server.__exit__)
    return server


class Killable:
    """A process that can be killed.

    Args:
        process: the operating system's.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def kill(self) -> None:
        """End it with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


class ServiceProcess(Killable):
    """The training service, as people call it."""

    people: People


class WorkerProcess(Killable):
    """A worker."""

    def children(self) -> list[int]:
        """Return the ids of its child processes."""
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]

    async def terminate(self) -> int:
        """End it in order; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()


async def _start(fields: Mapping[str, object], *arguments: str) -> asyncio.subprocess.Process:
    environment = {f"LEPTON_{name.upper()}": _text(value) for name, value in fields.items()}
    command = (sys.executable, "-m", "services.training", *arguments)
    return await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment})


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


async def _answers(channel: grpc.aio.Channel) -> None:
    """Wait until a process serves."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    while True:
        with contextlib.suppress(LeptonError):
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=10.0)
            return
        await asyncio.sleep(0.05)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def is_running(pid: int) -> bool:
    """Return whether a process lives: one that waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def refused(call: Awaitable[object], status: str, reason: str) -> LeptonError:
    """Assert that a call ends with an error of a status and reason; return it."""
    with pytest.raises(LeptonError) as refusal:
        await call
    assert (refusal.value.status, refusal.value.reason) == (status, reason), refusal.value.message
    return refusal.value


async def until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Wait until something is so."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s for {what}") from None
