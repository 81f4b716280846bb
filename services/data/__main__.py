"""Composition root of the data service: `python -m services.data`."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import structlog

from lepton.v1.data_pb2_grpc import add_DataServiceServicer_to_server
from servicekit.database import open_database
from servicekit.events import connect
from servicekit.objects import Objects
from servicekit.outbox import Relay
from servicekit.resource_users import RemoteUsers
from servicekit.rpc import open_channel
from servicekit.server import Servicer, running_server, until_stopped
from servicekit.state import State
from servicekit.telemetry import configure_telemetry
from services.data.adapters import tables
from services.data.adapters.repository import SqlRepository
from services.data.adapters.table_store import ObjectTableStore
from services.data.domain.datasets import Datasets
from services.data.domain.work import Work
from services.data.servicer import DataServicer
from services.data.settings import DataSettings

_log = structlog.get_logger(__name__)
_SWEEP_SECONDS = 3600.0
_LONGEST_IMPORT = timedelta(days=1)


async def run(settings: DataSettings) -> None:
    """Serve until SIGTERM."""
    async with AsyncExitStack() as stack:
        stack.enter_context(configure_telemetry(settings, "data"))
        database = await stack.enter_async_context(open_database(settings.database_url, "services.data.migrations"))
        nats = await stack.enter_async_context(connect(settings, "data"))
        await stack.enter_async_context(Relay(database, tables.kit.outbox, nats, "data"))
        state = State(database, tables.kit, SqlRepository)
        objects = Objects.open(settings, "data")
        await _sweep(state, objects, settings.orphan_age)
        store = ObjectTableStore(objects, settings.max_upload_bytes, Work(settings.parallel_imports))
        inference = await stack.enter_async_context(open_channel(settings.inference_address, settings))
        training = await stack.enter_async_context(open_channel(settings.training_address, settings))
        users = RemoteUsers(inference, training)
        servicer = DataServicer(Datasets(store, state.reading), state, settings.max_message_bytes, users)
        service = Servicer("lepton.v1.DataService", lambda server: add_DataServiceServicer_to_server(servicer, server))
        await stack.enter_async_context(running_server(settings, [service]))
        sweeping = asyncio.create_task(_keep_clean(state, objects, settings.orphan_age), name="sweep")
        stack.callback(sweeping.cancel)
        await until_stopped()


async def _sweep(state: State[SqlRepository], objects: Objects, age: timedelta) -> None:
    """Delete what an earlier process that was killed left behind."""
    before = datetime.now(UTC)
    async with state.reading() as repository:
        known = await repository.object_names()
    # What was stored since may belong to a version that came after the names were read.
    await objects.sweep(known, age + (datetime.now(UTC) - before))
    await state.forget_old_requests()


async def _keep_clean(state: State[SqlRepository], objects: Objects, age: timedelta) -> None:
    """Delete now and then what a store that was away did not let go of; imports of our own are under way."""
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        try:
            await _sweep(state, objects, max(age, _LONGEST_IMPORT))
        except Exception as error:
            # The store or the database is away; the next hour will do.
            _log.warning("sweep failed", error=str(error) or type(error).__name__)


if __name__ == "__main__":
    asyncio.run(run(DataSettings()))
