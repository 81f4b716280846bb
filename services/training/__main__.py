"""Composition root: `python -m services.training` serves, `python -m services.training worker --id ID` runs jobs.

Each imports what is its own, inside its function: the service loads no scheduler's stubs, a worker no database.
"""

import argparse
import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from servicekit.events import connect
from servicekit.rpc import open_channel
from servicekit.server import RunningServer, Servicer, running_server, until_stopped
from servicekit.telemetry import configure_telemetry
from services.training.settings import TrainingSettings, WorkerSettings

if TYPE_CHECKING:
    from services.training.worker.fork_server import ForkServer
    from services.training.worker.jobs import JobRunner

_log = structlog.get_logger(__name__)
_SWEEP_SECONDS = 3600.0


@asynccontextmanager
async def running_training(settings: TrainingSettings) -> AsyncIterator[RunningServer]:
    """Run the service; leaving drains it."""
    from lepton.v1.training_pb2_grpc import add_TrainingServiceServicer_to_server
    from servicekit.database import open_database
    from servicekit.objects import Objects
    from servicekit.outbox import Relay
    from servicekit.state import State
    from services.training.adapters import tables
    from services.training.adapters.checkpoint_store import CheckpointStore
    from services.training.adapters.data_client import DataClient
    from services.training.adapters.registry_client import RegistryClient
    from services.training.adapters.report_store import ReportStore
    from services.training.adapters.repository import SqlRepository
    from services.training.adapters.spec_check import SpecCheck
    from services.training.servicer import TrainingServicer

    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings.database_url, "services.training.migrations"))
        nats = await stack.enter_async_context(connect(settings, "training"))
        await stack.enter_async_context(Relay(database, tables.kit.outbox, nats, "training"))
        data = await stack.enter_async_context(open_channel(settings.data_address, settings))
        registry = await stack.enter_async_context(open_channel(settings.registry_address, settings))
        state = State(database, tables.kit, SqlRepository)
        objects = Objects.open(settings, "training")

        async def sweep() -> None:
            await state.forget_old_requests()
            async with state.reading() as repository:
                known = await repository.kept_objects()
            await objects.sweep(known, timedelta(minutes=settings.orphan_minutes))

        await sweep()
        stack.callback(asyncio.create_task(_keep_clean(sweep), name="sweep").cancel)
        specs = SpecCheck(DataClient(data), RegistryClient(registry))
        servicer = TrainingServicer(state, specs, CheckpointStore(objects), ReportStore(objects))
        service = Servicer(
            "lepton.v1.TrainingService", lambda server: add_TrainingServiceServicer_to_server(servicer, server)
        )
        yield await stack.enter_async_context(running_server(settings, [service]))


@asynccontextmanager
async def running_worker(
    settings: WorkerSettings, worker: str, server: "ForkServer | None" = None
) -> "AsyncIterator[JobRunner]":
    """Run a worker; leaving gives its jobs back.

    Args:
        settings: its.
        worker: its id.
        server: forks its children; its own by default.
    """
    from lepton.v1 import scheduler_pb2, scheduler_pb2_grpc
    from servicekit.worker import Membership, WorkerAgent, machine_capacity
    from services.training.adapters.training_client import TrainingClient
    from services.training.worker.children import Children, child_environment, libraries_environment
    from services.training.worker.fork_server import ForkServer
    from services.training.worker.jobs import JobRunner
    from services.training.worker.run import Limits

    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(connect(settings, worker))
        scheduler = await stack.enter_async_context(open_channel(settings.scheduler_address, settings))
        training = await stack.enter_async_context(open_channel(settings.training_address, settings))
        if server is None:
            server = stack.enter_context(ForkServer(libraries_environment()))
        children = await stack.enter_async_context(Children(server, child_environment(settings)))
        limits = Limits(settings.stop_seconds, settings.library_memory_bytes)
        runner = await stack.enter_async_context(JobRunner(worker, TrainingClient(training), children, limits))
        capacity = machine_capacity(settings.worker_cores, settings.worker_memory_bytes, settings.worker_gpus)
        membership = Membership(worker, scheduler_pb2.WORKER_KIND_TRAINING, capacity)
        stub = scheduler_pb2_grpc.SchedulerServiceStub(scheduler)
        agent = WorkerAgent(membership, stub, nats, runner.apply, runner.holding)
        runner.on_change = agent.changed
        await stack.enter_async_context(running_server(settings, []))
        await stack.enter_async_context(agent)
        yield runner
        # Else the scheduler would give the job back to this very worker.
        await agent.announce_leave()
        await runner.give_back()


async def _keep_clean(sweep: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        try:
            await sweep()
        except Exception as error:
            # The store or the database is away; the next hour will do.
            _log.warning("sweep failed", error=str(error) or type(error).__name__)


async def _serve(settings: TrainingSettings) -> None:
    with configure_telemetry(settings, "training"):
        async with running_training(settings):
            await until_stopped()


async def _work(settings: WorkerSettings, worker: str) -> None:
    with configure_telemetry(settings, "training-worker"):
        async with running_worker(settings, worker):
            await until_stopped()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="services.training", description=__doc__)
    parser.add_argument("role", nargs="?", choices=["service", "worker"], default="service")
    parser.add_argument("--id", default=f"training-{socket.gethostname().lower()}", help="the worker's id")
    arguments = parser.parse_args()
    if arguments.role == "worker":
        asyncio.run(_work(WorkerSettings(), arguments.id))
    else:
        asyncio.run(_serve(TrainingSettings()))


if __name__ == "__main__":
    main()
