"""Composition root: `python -m services.inference` keeps deployments, `... worker --id ID` serves them."""

import argparse
import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from lepton.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from servicekit.events import connect
from servicekit.rpc import open_channel
from servicekit.server import RunningServer, Servicer, running_server, until_stopped
from servicekit.telemetry import configure_telemetry
from services.inference.adapters.registry_client import RegistryClient
from services.inference.settings import InferenceSettings, WorkerSettings


@contextlib.asynccontextmanager
async def running_deployments(settings: InferenceSettings) -> AsyncIterator[RunningServer]:
    """Keep deployments while the block runs."""
    from servicekit.database import open_database
    from servicekit.outbox import Relay
    from servicekit.state import State
    from services.inference.adapters import tables
    from services.inference.adapters.repository import SqlRepository
    from services.inference.adapters.version_resolver import VersionResolver
    from services.inference.observation import ALIAS_MOVED, AliasFollower, Changes, Observer
    from services.inference.release_controller import ReleaseController
    from services.inference.servicer import InferenceServicer

    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            open_database(settings.database_url, "services.inference.migrations")
        )
        nats = await stack.enter_async_context(connect(settings, "inference"))
        await stack.enter_async_context(Relay(database, tables.kit.outbox, nats, "inference"))
        registry = await stack.enter_async_context(open_channel(settings.registry_address, settings))
        resolver = VersionResolver(RegistryClient(registry))
        state = State(database, tables.kit, SqlRepository)
        await state.forget_old_requests()
        changes = Changes()
        observer = await stack.enter_async_context(Observer(state, nats, changes))
        standby_seconds = settings.standby_seconds
        controller = ReleaseController(state, observer, changes, settings.release_look_seconds, standby_seconds)
        await stack.enter_async_context(controller)
        follower = await stack.enter_async_context(
            AliasFollower(state, resolver, changes, standby_seconds=standby_seconds)
        )
        following = asyncio.create_task(nats.follow("inference-aliases", [ALIAS_MOVED], follower.handle))
        stack.callback(following.cancel)
        servicer = InferenceServicer(state, resolver, changes, observer, standby_seconds)
        service = Servicer(
            "lepton.v1.InferenceService", lambda server: add_InferenceServiceServicer_to_server(servicer, server)
        )
        yield await stack.enter_async_context(running_server(settings, [service]))


@contextlib.asynccontextmanager
async def running_worker(settings: WorkerSettings, worker: str) -> AsyncIterator[RunningServer]:
    """Serve predictions while the block runs."""
    from lepton.v1 import scheduler_pb2, scheduler_pb2_grpc
    from servicekit.worker import Membership, WorkerAgent, machine_capacity
    from services.inference.adapters.deployments_client import DeploymentsClient
    from services.inference.open_inference.grpc_service_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
    from services.inference.serving.replicas import Replicas
    from services.inference.serving.servicer import OpenInferenceServicer
    from services.inference.serving.table import ServingTable

    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(connect(settings, worker))
        scheduler = await stack.enter_async_context(open_channel(settings.scheduler_address, settings))
        registry = await stack.enter_async_context(open_channel(settings.registry_address, settings))
        deployments = await stack.enter_async_context(open_channel(settings.inference_address, settings))
        table = ServingTable(is_told=False)
        servicer = OpenInferenceServicer(
            table,
            DeploymentsClient(deployments),
            settings.parallel_runs,
            typed_mirrors=settings.typed_reply == "mirror",
        )
        stack.callback(servicer.close)
        replicas = await stack.enter_async_context(
            Replicas(RegistryClient(registry), table, servicer, settings.run_threads)
        )
        service = Servicer(
            "inference.GRPCInferenceService",
            lambda server: add_GRPCInferenceServiceServicer_to_server(servicer, server),
        )
        # Workers of one machine share the public port: the kernel spreads connections over them.
        server = await stack.enter_async_context(running_server(settings, [service], options={"grpc.so_reuseport": 1}))
        capacity = machine_capacity(settings.worker_cores, settings.worker_memory_bytes, settings.worker_gpus)
        address = settings.worker_address or f"{settings.host}:{server.private_port}"
        membership = Membership(worker, scheduler_pb2.WORKER_KIND_INFERENCE, capacity, address)
        stub = scheduler_pb2_grpc.SchedulerServiceStub(scheduler)
        agent = WorkerAgent(membership, stub, nats, replicas.apply, replicas.holding)
        replicas.on_change = agent.changed
        await stack.enter_async_context(agent)
        yield server
        servicer.is_draining = True


async def serve(settings: InferenceSettings) -> None:
    """Keep deployments until SIGTERM."""
    with configure_telemetry(settings, "inference"):
        async with running_deployments(settings):
            await until_stopped()


async def work(settings: WorkerSettings, worker: str) -> None:
    """Serve predictions until SIGTERM."""
    with configure_telemetry(settings, "inference-worker"):
        async with running_worker(settings, worker):
            await until_stopped()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="services.inference", description=__doc__)
    parser.add_argument("role", nargs="?", choices=["service", "worker"], default="service")
    parser.add_argument("--id", default=f"inference-{socket.gethostname().lower()}", help="the worker's id")
    arguments = parser.parse_args()
    if arguments.role == "worker":
        asyncio.run(work(WorkerSettings(), arguments.id))
    else:
        asyncio.run(serve(InferenceSettings()))


if __name__ == "__main__":
    main()
