"""The scheduler's neighbours, as far as it sees them: servers that list jobs and deployments, and workers."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
from google.protobuf.message import Message

from lepton.embedded.credentials import issue_token
from lepton.v1 import (
    common_pb2,
    events_pb2,
    inference_pb2,
    inference_pb2_grpc,
    scheduler_pb2,
    scheduler_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)
from servicekit.auth import current_identity
from servicekit.events import Event, Nats
from servicekit.rpc import open_channel
from servicekit.server import RunningServer, Servicer, running_server
from servicekit.settings import ProcessSettings
from services.scheduler.__main__ import running_scheduler
from services.scheduler.settings import SchedulerSettings
from tests.support.nats import NatsServer

MIB = 1 << 20


@dataclass
class Owners:
    """What training and inference want, served over gRPC as they serve it.

    Args:
        jobs, deployments: what their lists hold now.
        asked: the workspaces that lists were asked for.
    """

    jobs: dict[str, training_pb2.Job] = field(default_factory=dict)
    deployments: dict[str, inference_pb2.Deployment] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    port: int = 0


class _Training(training_pb2_grpc.TrainingServiceServicer):
    def __init__(self, owners: Owners) -> None:
        self._owners = owners

    async def ListJobs(self, request: training_pb2.ListJobsRequest, context: Any) -> training_pb2.ListJobsResponse:
        self._owners.asked.add(current_identity().workspace)
        state = training_pb2.JobState.Value("JOB_STATE_" + request.filter.split('"')[1])
        return training_pb2.ListJobsResponse(jobs=[job for job in self._owners.jobs.values() if job.state == state])


class _Inference(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self, owners: Owners) -> None:
        self._owners = owners

    async def ListDeployments(
        self, request: inference_pb2.ListDeploymentsRequest, context: Any
    ) -> inference_pb2.ListDeploymentsResponse:
        self._owners.asked.add(current_identity().workspace)
        return inference_pb2.ListDeploymentsResponse(deployments=self._owners.deployments.values())


@contextlib.asynccontextmanager
async def running_owners(owners: Owners, platform: Path, nats: NatsServer, port: int = 0) -> AsyncIterator[None]:
    """Serve the owners' lists on one port."""
    training = functools.partial(training_pb2_grpc.add_TrainingServiceServicer_to_server, _Training(owners))  # type: ignore[abstract]
    inference = functools.partial(inference_pb2_grpc.add_InferenceServiceServicer_to_server, _Inference(owners))  # type: ignore[abstract]
    settings = process_settings(platform, nats, "training", private_port=port)
    servicers = [Servicer("lepton.v1.TrainingService", training), Servicer("lepton.v1.InferenceService", inference)]
    async with running_server(settings, servicers) as server:
        owners.port = server.private_port
        yield


def process_settings(platform: Path, nats: NatsServer, service: str, **more: object) -> ProcessSettings:
    """Return a process's settings."""
    return ProcessSettings.model_validate(_environment(platform, nats, service) | more)


def _environment(platform: Path, nats: NatsServer, service: str) -> dict[str, object]:
    return {
        "tls_ca": platform / "ca.pem",
        "tls_certificate": platform / f"{service}.pem",
        "tls_key": platform / f"{service}.key",
        "token_public_keys": platform / "token-keys.json",
        "nats_url": nats.url,
        "nats_password_file": nats.password_file,
        "drain_seconds": 0.5,
    }


@dataclass
class House:
    """Everything that schedulers of one test need.

    Args:
        platform: the folder with credentials.
        nats: the test's own nats-server.
        owners: what is wanted.
        database_url: the schedulers' database.
        connection: a connection to NATS for workers and owners.
    """

    platform: Path
    nats: NatsServer
    owners: Owners
    database_url: str
    connection: Nats

    def settings(self, **more: object) -> SchedulerSettings:
        """Return a scheduler's settings: quick to look, and leases that outlast the pauses of a busy machine."""
        values = {
            **_environment(self.platform, self.nats, "scheduler"),
            "database_url": self.database_url,
            "training_address": f"127.0.0.1:{self.owners.port}",
            "inference_address": f"127.0.0.1:{self.owners.port}",
            "lease_seconds": 15.0,
            "grace_seconds": 1.0,
            "leadership_seconds": 10.0,
            "resync_seconds": 1.0,
        }
        return SchedulerSettings.model_validate(values | more)

    @contextlib.asynccontextmanager
    async def scheduler(self, **more: object) -> AsyncIterator["Scheduling"]:
        """Run a scheduler in this process and wait until it leads."""
        settings = self.settings(**more)
        async with running_scheduler(settings) as server:
            async with self.clients(server.private_port, server.port) as scheduling:
                scheduling.server = server
                await scheduling.until_healthy()
                yield scheduling

    @contextlib.asynccontextmanager
    async def clients(self, private_port: int, port: int) -> AsyncIterator["Scheduling"]:
        """Connect to a scheduler: as a worker, and as a person of the workspace default."""
        settings = process_settings(self.platform, self.nats, "training")
        ca = grpc.ssl_channel_credentials((self.platform / "ca.pem").read_bytes())
        async with (
            open_channel(f"127.0.0.1:{private_port}", settings) as private,
            grpc.aio.secure_channel(f"127.0.0.1:{port}", ca) as public,
        ):
            yield Scheduling(self, scheduler_pb2_grpc.SchedulerServiceStub(private), public)

    async def assignment(self, worker: str) -> scheduler_pb2.Assignment | None:
        """Return what a worker is to do now; None where nobody said."""
        from nats.js.errors import KeyNotFoundError

        try:
            bucket = await self.connection.key_value("placements")
            entry = await bucket.get(f"worker.{worker}")
        except KeyNotFoundError:
            return None
        return scheduler_pb2.Assignment.FromString(entry.value or b"")

    async def tell(self, subject: str, payload: Message, workspace: str = "default") -> None:
        """Publish an owner's fact."""
        event = Event(uuid4().hex, workspace, subject, datetime.now(UTC), payload.SerializeToString())
        await self.connection.publish(event, subject.split(".")[0])

    async def queue(self, name: str, cores: float = 1.0, workspace: str = "default") -> training_pb2.Job:
        """Queue a job, as training does."""
        job = training_pb2.Job(name=name, state=training_pb2.JOB_STATE_QUEUED, workspace=workspace, sequence=1)
        job.spec.resources.CopyFrom(common_pb2.Resources(cores=cores, memory_bytes=64 * MIB))
        job.create_time.FromDatetime(datetime.now(UTC))
        self.owners.jobs[name] = job
        await self.tell("training.job.queued", events_pb2.JobQueued(job=job), workspace)
        return job

    async def end(self, name: str) -> None:
        """Let a job succeed."""
        job = self.owners.jobs.pop(name)
        job.state = training_pb2.JOB_STATE_SUCCEEDED
        await self.tell("training.job.succeeded", events_pb2.JobSucceeded(job=job), job.workspace)

    async def deploy(self, name: str, number: int = 1, replicas: int = 1, workspace: str = "default") -> None:
        """Want a deployment served, as inference does."""
        known = self.owners.deployments.get(name)
        deployment = inference_pb2.Deployment(
            name=name,
            version=f"{name}@champion",
            number=number,
            replicas=replicas,
            digest="0" * 64,
            resources=common_pb2.Resources(cores=0.5, memory_bytes=64 * MIB),
            workspace=workspace,
            sequence=known.sequence + 1 if known else 1,
        )
        self.owners.deployments[name] = deployment
        changed = events_pb2.DeploymentChanged(deployment=deployment)
        await self.tell("inference.deployment.changed", changed, workspace)


class Scheduling:
    """A scheduler, seen from outside.

    Args:
        house: what it runs in.
        stub: the scheduler, as a service sees it.
        public: a channel to its public port, without a certificate.
    """

    server: RunningServer

    def __init__(
        self, house: House, stub: "scheduler_pb2_grpc.SchedulerServiceAsyncStub", public: grpc.aio.Channel
    ) -> None:
        self.house = house
        self.stub = stub
        self.public = scheduler_pb2_grpc.SchedulerServiceStub(public)
        self._channel = public

    async def until_healthy(self, seconds: float = 120.0) -> None:
        """Wait until it leads."""
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        stub = health_pb2_grpc.HealthStub(self._channel)
        async with asyncio.timeout(seconds):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10.0)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                await asyncio.sleep(0.02)

    def token(self, role: str, workspace: str = "default") -> tuple[tuple[str, str], ...]:
        """Return the metadata of a person's calls."""
        token = issue_token(self.house.platform, workspace=workspace, role=role, subject="test", days=1)
        return (("authorization", f"Bearer {token}"),)

    @contextlib.asynccontextmanager
    async def worker(self, name: str, kind: str = "TRAINING", cores: float = 4.0) -> AsyncIterator["LiveWorker"]:
        """Register a worker and keep its lease."""
        worker = LiveWorker(self.house, self.stub, name, kind, cores)
        await worker.register()
        try:
            yield worker
        finally:
            worker.die()


class LiveWorker:
    """A worker as the scheduler knows it: it registers, renews, reads its assignment and reports.

    Args:
        house: what it runs in.
        stub: the scheduler.
        name, kind, cores: what it registers as.
    """

    def __init__(
        self, house: House, stub: "scheduler_pb2_grpc.SchedulerServiceAsyncStub", name: str, kind: str, cores: float
    ) -> None:
        self._house = house
        self.stub = stub
        self.name = name
        self.kind = scheduler_pb2.WorkerKind.Value(f"WORKER_KIND_{kind}")
        self._cores = cores
        self.epoch = 0
        self.errors: list[Exception] = []
        self._task: asyncio.Task[None] | None = None

    async def register(self) -> None:
        """Get a lease and keep it until `die`."""
        request = scheduler_pb2.RegisterWorkerRequest(
            worker=self.name,
            kind=self.kind,
            capacity=common_pb2.Resources(cores=self._cores, memory_bytes=1024 * MIB),
        )
        self.epoch = (await self.stub.RegisterWorker(request)).epoch
        if self._task is None:
            self._task = asyncio.create_task(self._renew_forever())

    def die(self) -> None:
        """Renew no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            try:
                await self.stub.RenewLease(scheduler_pb2.RenewLeaseRequest(worker=self.name, epoch=self.epoch))
            except Exception as error:
                self.errors.append(error)

    async def assignment(self) -> scheduler_pb2.Assignment:
        """Return what it is to do now; an empty one where nobody said."""
        return await self._house.assignment(self.name) or scheduler_pb2.Assignment()

    async def jobs(self) -> set[str]:
        """Return the jobs that it is to run."""
        return {job.job for job in (await self.assignment()).jobs}

    async def replicas(self) -> set[tuple[str, int]]:
        """Return the deployments, with numbers, that it is to serve."""
        return {(replica.deployment, replica.number) for replica in (await self.assignment()).replicas}

    async def until_jobs(self, expected: set[str], seconds: float = 120.0) -> None:
        """Wait until it is to run just these jobs."""
        async with asyncio.timeout(seconds):
            while await self.jobs() != expected:
                await asyncio.sleep(0.01)

    async def until_replicas(self, expected: set[tuple[str, int]], seconds: float = 120.0) -> None:
        """Wait until it is to serve just these."""
        async with asyncio.timeout(seconds):
            while await self.replicas() != expected:
                await asyncio.sleep(0.01)

    async def report(self, cpu: float = 0.1, loading: int = 0) -> None:
        """Say that everything assigned is ready, but for one number that still loads."""
        assignment = await self.assignment()
        report = scheduler_pb2.WorkerReport(
            worker=self.name,
            kind=self.kind,
            epoch=self.epoch,
            load=scheduler_pb2.Load(cpu_utilization=cpu, in_flight=1),
            jobs=assignment.jobs,
        )
        for replica in assignment.replicas:
            said = report.replicas.add()
            said.CopyFrom(replica)
            ready, slow = scheduler_pb2.REPLICA_STATE_READY, scheduler_pb2.REPLICA_STATE_LOADING
            said.state = slow if replica.number == loading else ready
            said.provider = "CPUExecutionProvider"
        await self._house.connection.publish_plain(f"lepton-reports.{self.name}", report)
