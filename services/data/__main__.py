"""Composition root of the data service: `python -m services.data`."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

from lepton.v1.data_pb2_grpc import add_DataServiceServicer_to_server
from servicekit.database import open_database
from servicekit.events import connect
from servicekit.objects import Objects
from servicekit.outbox import Relay
from servicekit.server import Servicer, running_server, until_stopped
from servicekit.state import State
from servicekit.telemetry import configure_telemetry
from services.data.adapters import tables
from services.data.adapters.repository import SqlRepository
from services.data.adapters.table_store import ObjectTableStore
from services.data.domain.datasets import Datasets
from services.data.servicer import DataServicer
from services.data.settings import DataSettings


async def run(settings: DataSettings) -> None:
    """Serve until SIGTERM."""
    async with AsyncExitStack() as stack:
        stack.enter_context(configure_telemetry(settings, "data"))
        database = await stack.enter_async_context(open_database(settings.database_url, "services.data.migrations"))
        nats = await stack.enter_async_context(connect(settings, "data"))
        await stack.enter_async_context(Relay(database, tables.kit.outbox, nats, "data"))
        state = State(database, tables.kit, SqlRepository)
        objects = Objects.open(settings, "data")
        await _sweep(state, objects, settings)
        datasets = Datasets(
            ObjectTableStore(objects, settings.max_upload_bytes),
            state.reading,
            parallel=settings.parallel_imports,
            memory_limit=settings.transform_memory,
        )
        servicer = DataServicer(datasets, state)
        service = Servicer("lepton.v1.DataService", lambda server: add_DataServiceServicer_to_server(servicer, server))
        await stack.enter_async_context(running_server(settings, [service]))
        await until_stopped()


async def _sweep(state: State[SqlRepository], objects: Objects, settings: DataSettings) -> None:
    """Delete what an earlier process that was killed left behind."""
    async with state.reading() as repository:
        known = await repository.object_names()
    await objects.sweep(known, timedelta(minutes=settings.orphan_minutes))
    await state.forget_old_requests()


if __name__ == "__main__":
    asyncio.run(run(DataSettings()))
