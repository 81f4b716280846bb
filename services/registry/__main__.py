"""Composition root of the registry: `python -m services.registry`."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import structlog

from lepton.v1.registry_pb2_grpc import add_RegistryServiceServicer_to_server
from servicekit.database import open_database
from servicekit.events import connect
from servicekit.objects import Objects
from servicekit.outbox import Relay
from servicekit.resource_users import RemoteUsers
from servicekit.rpc import open_channel
from servicekit.server import Servicer, running_server, until_stopped
from servicekit.state import State
from servicekit.telemetry import configure_telemetry
from services.registry.adapters import tables
from services.registry.adapters.artifact_store import ObjectArtifactStore
from services.registry.adapters.repository import SqlRepository
from services.registry.adapters.verifier import ChildVerifier
from services.registry.domain.registry import give_up_stale
from services.registry.domain.uploads import Uploads
from services.registry.servicer import RegistryServicer
from services.registry.settings import RegistrySettings

_log = structlog.get_logger(__name__)
_SWEEP_SECONDS = 3600.0


async def run(settings: RegistrySettings) -> None:
    """Serve until SIGTERM."""
    async with AsyncExitStack() as stack:
        stack.enter_context(configure_telemetry(settings, "registry"))
        database = await stack.enter_async_context(open_database(settings.database_url, "services.registry.migrations"))
        nats = await stack.enter_async_context(connect(settings, "registry"))
        await stack.enter_async_context(Relay(database, tables.kit.outbox, nats, "registry"))
        state = State(database, tables.kit, SqlRepository)
        objects = Objects.open(settings, "registry")
        await _sweep(state, objects, settings)
        artifacts = ObjectArtifactStore(objects)
        verifier = ChildVerifier(settings.verify_seconds, settings.verify_memory_bytes, settings.parallel_verifications)
        uploads = Uploads(artifacts, verifier, state.reading, state.writing, settings.parity_tolerance)
        inference = await stack.enter_async_context(open_channel(settings.inference_address, settings))
        training = await stack.enter_async_context(open_channel(settings.training_address, settings))
        users = RemoteUsers(inference, training)
        servicer = RegistryServicer(uploads, artifacts, state, settings.max_artifact_bytes, users)
        service = Servicer(
            "lepton.v1.RegistryService", lambda server: add_RegistryServiceServicer_to_server(servicer, server)
        )
        await stack.enter_async_context(running_server(settings, [service]))
        sweeping = asyncio.create_task(_keep_clean(state, objects, settings), name="sweep")
        stack.callback(sweeping.cancel)
        await until_stopped()


async def _sweep(state: State[SqlRepository], objects: Objects, settings: RegistrySettings) -> None:
    """Give up versions that nobody finishes, and delete what an earlier process that was killed left behind."""
    async with state.writing() as repository:
        await give_up_stale(repository, datetime.now(UTC) - timedelta(hours=settings.pending_hours))
        known = await repository.object_names()
    await objects.sweep(known, timedelta(minutes=settings.orphan_minutes))
    await state.forget_old_requests()


async def _keep_clean(state: State[SqlRepository], objects: Objects, settings: RegistrySettings) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        try:
            await _sweep(state, objects, settings)
        except Exception as error:
            # The store or the database is away; the next hour will do.
            _log.warning("sweep failed", error=str(error) or type(error).__name__)


if __name__ == "__main__":
    asyncio.run(run(RegistrySettings()))
