"""Composition root: `python -m services.inference` keeps deployments, `... worker --id ID` serves them."""

import argparse
import asyncio
import contextlib
import gc
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
    from services.inference.adapters.scheduler_client import SchedulerClient
    from services.inference.adapters.version_resolver import VersionResolver
    from services.inference.observation import ALIAS_MOVED, AliasFollower, Changes, Observer
    from services.inference.release_controller import ReleaseController
    from services.inference.reservations import ReservationFollower
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
        scheduler = await stack.enter_async_context(open_channel(settings.scheduler_address, settings))
        observer = await stack.enter_async_context(Observer(state, nats, changes, SchedulerClient(scheduler)))
        standby_seconds = settings.standby_seconds
        controller = ReleaseController(state, observer, changes, settings.release_look_seconds, standby_seconds)
        await stack.enter_async_context(controller)
        reserving = ReservationFollower(state, observer, settings.reservation_look_seconds)
        await stack.enter_async_context(reserving)
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


async def serve(settings: InferenceSettings) -> None:
    """Keep deployments until SIGTERM."""
    with configure_telemetry(settings, "inference"):
        async with running_deployments(settings):
            await until_stopped()


async def work(settings: WorkerSettings, worker: str) -> None:
    """Serve predictions until SIGTERM."""
    # Here, for the service of the deployments loads none of what serves.
    from services.inference.worker import running_worker

    # What is imported stays. A full collection that walked over it, too, would hold up every request for 70 ms,
    # every other second of full load (measured).
    gc.collect()
    gc.freeze()
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
