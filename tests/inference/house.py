"""Deployments and workers with the registry, the scheduler and NATS around them: all real, in one process, over TLS."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from lepton.v1 import inference_pb2 as deployments_pb
from lepton.v1.inference_pb2_grpc import InferenceServiceStub
from servicekit.errors import LeptonError
from servicekit.events import connect
from servicekit.outbox import Relay
from servicekit.rpc.channel import ServiceChannel
from servicekit.server import RunningServer
from servicekit.settings import ProcessSettings
from services.inference.__main__ import running_deployments
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.open_inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from services.inference.settings import InferenceSettings, WorkerSettings
from services.inference.worker import running_worker
from services.registry.adapters import tables as registry_tables
from services.scheduler.__main__ import running_scheduler
from services.scheduler.settings import SchedulerSettings
from tests.registry.house import Client as RegistryClient
from tests.registry.house import House as RegistryHouse
from tests.registry.house import make_settings, running_registry
from tests.scheduler.neighbours import Owners, running_owners
from tests.support.credentials import MakeToken, bearer, environment_of, public_channel
from tests.support.nats import NatsServer

READY = deployments_pb.DEPLOYMENT_STATE_READY
PENDING = deployments_pb.DEPLOYMENT_STATE_PENDING
FAILED = deployments_pb.DEPLOYMENT_STATE_FAILED


class Deployments:
    """Calls the deployments service as somebody, in servicekit's errors.

    Args:
        channel: to its public port.
        metadata: a token.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self.stub = InferenceServiceStub(channel)
        self.metadata = metadata

    async def create(
        self, version: str, name: str = "", request_id: str = "", **more: Any
    ) -> deployments_pb.Deployment:
        """Deploy a version."""
        wanted = deployments_pb.Deployment(name=name, version=version, **more)
        request = deployments_pb.CreateDeploymentRequest(deployment=wanted, request_id=request_id)
        return await self.stub.CreateDeployment(request, metadata=self.metadata)

    async def get(self, name: str) -> deployments_pb.Deployment:
        """Return a deployment."""
        return await self.stub.GetDeployment(deployments_pb.GetDeploymentRequest(name=name), metadata=self.metadata)

    async def update(self, name: str, *paths: str, etag: str = "", **fields: Any) -> deployments_pb.Deployment:
        """Change a deployment."""
        wanted = deployments_pb.Deployment(name=name, etag=etag, **fields)
        request = deployments_pb.UpdateDeploymentRequest(deployment=wanted)
        request.update_mask.paths.extend(paths)
        return await self.stub.UpdateDeployment(request, metadata=self.metadata)

    async def roll_back(self, name: str, etag: str = "") -> deployments_pb.Deployment:
        """Serve what was served before."""
        request = deployments_pb.RollbackDeploymentRequest(name=name, etag=etag)
        return await self.stub.RollbackDeployment(request, metadata=self.metadata)

    async def delete(self, name: str) -> None:
        """Stop serving."""
        request = deployments_pb.DeleteDeploymentRequest(name=name)
        await self.stub.DeleteDeployment(request, metadata=self.metadata)

    async def until(
        self, name: str, number: int, state: int = READY, seconds: float = 120.0
    ) -> deployments_pb.Deployment:
        """Wait until a deployment of a number is in a state."""
        async with asyncio.timeout(seconds):
            while True:
                found = await self.get(name)
                if (found.number, found.state) == (number, state):
                    return found
                await asyncio.sleep(0.02)


@dataclass
class Worker:
    """A worker, and what clients see of it.

    Args:
        stub: the protocol, without a token.
        metadata: a viewer's token.
        server: it; unset for a mere client.
    """

    stub: Any
    metadata: tuple[tuple[str, str], ...]
    server: RunningServer = field(init=False)

    async def infer(self, name: str, version: str = "", x: tuple[float, float] = (1.0, 1.0)) -> tuple[str, float]:
        """Return the version that answered, and the prediction of a linear model."""
        request = pb.ModelInferRequest(model_name=name, model_version=version)
        tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        tensor.contents.fp32_contents.extend(x)
        reply = await self.stub.ModelInfer(request, metadata=self.metadata, timeout=120.0)
        return reply.model_version, reply.outputs[0].contents.fp32_contents[0]


@dataclass
class House:
    """What a test runs in.

    Args:
        credentials: the platform's folder.
        folder: for databases.
        nats: the test's own.
        registry: a running registry, whose facts are relayed.
        developer: registers and promotes.
        deployments: the service, as a developer.
        make_token: signs tokens.
    """

    credentials: Path
    folder: Path
    nats: NatsServer
    make_token: MakeToken
    stack: contextlib.AsyncExitStack
    registry: RegistryHouse = field(init=False)
    developer: RegistryClient = field(init=False)
    deployments: Deployments = field(init=False)
    server: RunningServer = field(init=False)
    scheduler: RunningServer = field(init=False)

    def environment(self, service: str, **more: object) -> dict[str, object]:
        """Return a process's settings."""
        return {
            **environment_of(self.credentials, service),
            "nats_url": self.nats.url,
            "drain_seconds": 0.5,
            **more,
        }

    def database(self, service: str) -> str:
        """Return the URL of a service's database."""
        return f"sqlite+aiosqlite:///{self.folder / service}.sqlite3"

    def process_settings(self, service: str) -> ProcessSettings:
        """Return the settings of a process that shows a service's certificate."""
        return ProcessSettings.model_validate(self.environment(service))

    async def start_registry(self) -> None:
        """Run a registry with its relay."""
        settings = make_settings(
            self.credentials, self.database("registry"), (self.folder / "objects").as_uri(), nats_url=self.nats.url
        )
        running = running_registry(settings, self.credentials, self.make_token)
        self.registry = await self.stack.enter_async_context(running)
        nats = await self.stack.enter_async_context(connect(settings, "registry"))
        relay = Relay(self.registry.state.database, registry_tables.kit.outbox, nats, "registry")
        await self.stack.enter_async_context(relay)
        self.developer = await self.registry.user()

    def inference_environment(self, **more: object) -> dict[str, object]:
        """Return the deployments service's settings."""
        return self.environment(
            "inference",
            database_url=self.database("inference"),
            objects_url=(self.folder / "objects").as_uri(),
            registry_address=f"localhost:{self.registry.private_port}",
            **more,
        )

    async def start_deployments(self, **more: object) -> None:
        """Run the deployments service."""
        settings = InferenceSettings.model_validate(self.inference_environment(**more))
        self.server = await self.stack.enter_async_context(running_deployments(settings))
        self.deployments = await self.user()

    async def user(self, role: str = "developer", workspace: str = "default") -> Deployments:
        """Return a client of the deployments service."""
        channel = ServiceChannel(public_channel(self.server.port, self.credentials))
        await self.stack.enter_async_context(channel)
        return Deployments(channel, bearer(self.make_token(role, workspace)))

    async def start_scheduler(self, **more: object) -> None:
        """Run a scheduler that leads, with nobody who wants jobs."""
        owners = Owners()
        await self.stack.enter_async_context(running_owners(owners, self.credentials, self.nats))
        settings = SchedulerSettings.model_validate(
            self.environment(
                "scheduler",
                database_url=self.database("scheduler"),
                inference_address=f"localhost:{self.server.private_port}",
                training_address=f"localhost:{owners.port}",
                resync_seconds=1.0,
                grace_seconds=0.5,
                # Outlasts the pauses of a busy machine.
                **{"lease_seconds": 20.0, **more},
            )
        )
        self.scheduler = await self.stack.enter_async_context(running_scheduler(settings))

    def worker_environment(self, **more: object) -> dict[str, object]:
        """Return a worker's settings."""
        addresses = {
            "registry_address": f"localhost:{self.registry.private_port}",
            "inference_address": f"localhost:{self.server.private_port}",
            "scheduler_address": f"localhost:{self.scheduler.private_port}",
        }
        capacity = {"worker_cores": 4.0, "worker_memory_bytes": 8 << 30}
        return self.environment("inference", **{**addresses, **capacity, **more})

    @contextlib.asynccontextmanager
    async def worker(self, name: str = "w1", **more: object) -> AsyncIterator[Worker]:
        """Run a worker, and connect to it."""
        async with (
            running_worker(WorkerSettings.model_validate(self.worker_environment(**more)), name) as server,
            self.client(server.port) as client,
        ):
            client.server = server
            yield client

    @contextlib.asynccontextmanager
    async def client(self, port: int) -> AsyncIterator["Worker"]:
        """Open a connection of its own to a worker's public port."""
        # Without its own pool of subchannels a second channel would share the first one's connection.
        options = (("grpc.use_local_subchannel_pool", 1),)
        authority = grpc.ssl_channel_credentials((self.credentials / "ca.pem").read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{port}", authority, options) as channel:
            yield Worker(GRPCInferenceServiceStub(channel), bearer(self.make_token("viewer")))


async def refused(call: Awaitable[object], code: grpc.StatusCode, text: str = "") -> None:
    """Assert that a call ends with a status."""
    with pytest.raises((grpc.aio.AioRpcError, LeptonError)) as refusal:
        await call
    error = refusal.value
    if isinstance(error, grpc.aio.AioRpcError):
        found, told = error.code().name, error.details() or ""
    else:
        assert isinstance(error, LeptonError)
        found, told = error.status, error.message
    assert (found, text in told) == (code.name, True), told


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 120.0) -> None:
    """Wait until something is so."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"waited {seconds:g} s for {what}") from None


__all__ = ["FAILED", "PENDING", "READY", "Deployments", "House", "Worker", "refused", "until"]
