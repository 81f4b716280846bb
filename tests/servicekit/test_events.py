"""The outbox, JetStream and the inbox against a real nats-server: nothing lost, nothing applied twice."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from opentelemetry import trace
from sqlalchemy import func, insert, select

from lepton.v1 import events_pb2
from servicekit.auth import current_identity
from servicekit.database import Database, next_number, open_database
from servicekit.events import Event, Nats, connect
from servicekit.outbox import Relay, first_time, publish
from tests.support.example.adapters.tables import counters, inbox, outbox, things
from tests.support.example_service import MIGRATIONS, nats_settings
from tests.support.nats import NatsServer


@pytest.fixture
async def nats(platform_files: Path, nats_server: NatsServer) -> AsyncIterator[Nats]:
    """A connection to the session's server."""
    async with connect(nats_settings(platform_files, nats_server), "test") as connection:
        await connection.wait_connected(120)
        yield connection


@pytest.fixture
def workspace() -> str:
    """A workspace of the test's own, on a server that tests share."""
    return f"ws-{uuid4().hex[:12]}"


async def _state_change(database: Database, workspace: str, worker: str = "w", key: str = "k") -> None:
    async with database.transaction() as transaction:
        number = await next_number(transaction, counters, "things")
        payload = events_pb2.WorkerJoined(worker=worker, epoch=number)
        subject = "scheduler.worker.joined"
        await publish(transaction, outbox, counters, workspace=workspace, subject=subject, payload=payload, key=key)


async def _waiting(database: Database) -> int:
    async with database.reading() as connection:
        return (await connection.execute(select(func.count()).select_from(outbox))).scalar_one()


async def _until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def _following(nats: Nats, workspace: str, handled: list[Event], durable: str = "") -> AsyncIterator[None]:
    """Follow the example's facts of one workspace into a list."""

    async def handler(event: Event) -> None:
        if event.workspace == workspace:
            handled.append(event)

    task = asyncio.create_task(nats.follow(durable or f"d-{uuid4().hex}", ["scheduler.worker.*"], handler))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_fact_arrives_whole(database: Database, nats: Nats, workspace: str) -> None:
    handled: list[Event] = []
    async with Relay(database, outbox, nats, "scheduler"), _following(nats, workspace, handled):
        await _state_change(database, workspace, "first")
        await _until(lambda: len(handled) == 1)
        await _state_change(database, workspace, "second")
        await _until(lambda: len(handled) == 2)
    event = handled[0]
    assert (event.workspace, event.subject) == (workspace, "scheduler.worker.joined")
    assert event.parse(events_pb2.WorkerJoined).worker == "first"
    assert await _waiting(database) == 0


async def test_a_rolled_back_change_publishes_nothing(sqlite_database: Database, nats: Nats, workspace: str) -> None:
    handled: list[Event] = []
    async with Relay(sqlite_database, outbox, nats, "scheduler"), _following(nats, workspace, handled):
        with pytest.raises(RuntimeError):
            async with sqlite_database.transaction() as transaction:
                payload = events_pb2.WorkerJoined(worker="ghost")
                await publish(
                    transaction,
                    outbox,
                    counters,
                    workspace=workspace,
                    subject="scheduler.worker.joined",
                    payload=payload,
                    key="k",
                )
                raise RuntimeError("on purpose")
        await _state_change(sqlite_database, workspace, "real")
        await _until(lambda: len(handled) == 1)
    assert handled[0].parse(events_pb2.WorkerJoined).worker == "real"


async def test_facts_of_one_key_arrive_in_order(database: Database, nats: Nats, workspace: str) -> None:
    handled: list[Event] = []
    for index in range(30):
        await _state_change(database, workspace, str(index), key=f"k{index % 3}")
    # Two relays, as two processes of one service on Postgres have.
    async with (
        Relay(database, outbox, nats, "scheduler"),
        Relay(database, outbox, nats, "scheduler"),
        _following(nats, workspace, handled),
    ):
        await _until(lambda: len({event.id for event in handled}) == 30)
    numbers = [int(event.parse(events_pb2.WorkerJoined).worker) for event in handled]
    for key in range(3):
        of_key = [number for number in numbers if number % 3 == key]
        assert of_key == sorted(set(of_key))


async def test_the_trace_of_the_publisher_goes_on_in_the_handler(
    sqlite_database: Database, nats: Nats, workspace: str
) -> None:
    seen: list[int] = []

    async def handler(event: Event) -> None:
        if event.workspace == workspace:
            seen.append(trace.get_current_span().get_span_context().trace_id)
            assert current_identity().workspace == workspace

    parent = trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, False, trace.TraceFlags(1)))
    task = asyncio.create_task(nats.follow(f"d-{uuid4().hex}", ["scheduler.worker.joined"], handler))
    with trace.use_span(parent):
        await _state_change(sqlite_database, workspace)
    async with Relay(sqlite_database, outbox, nats, "scheduler"):
        await _until(lambda: len(seen) == 1)
    task.cancel()
    assert seen == [0xABC]


async def test_a_failing_handler_gets_the_event_again(sqlite_database: Database, nats: Nats, workspace: str) -> None:
    tries: list[str] = []

    async def handler(event: Event) -> None:
        if event.workspace == workspace:
            tries.append(event.id)
            if len(tries) < 3:
                raise RuntimeError("not yet")

    task = asyncio.create_task(nats.follow(f"d-{uuid4().hex}", ["scheduler.worker.joined"], handler))
    async with Relay(sqlite_database, outbox, nats, "scheduler"):
        await _state_change(sqlite_database, workspace)
        await _until(lambda: len(tries) == 3)
        await asyncio.sleep(0.5)
    task.cancel()
    assert len(tries) == 3
    assert len(set(tries)) == 1


async def test_a_redelivered_event_is_applied_once(database: Database) -> None:
    event = Event(uuid4().hex, "default", "scheduler.worker.joined", datetime.now(UTC), b"", consumer="things")
    for expected in (True, False):
        async with database.transaction() as transaction:
            assert await first_time(transaction, inbox, event) is expected


async def test_each_consumer_applies_an_event(database: Database) -> None:
    for consumer in ("one", "two"):
        event = Event("same", "default", "scheduler.worker.joined", datetime.now(UTC), b"", consumer=consumer)
        async with database.transaction() as transaction:
            assert await first_time(transaction, inbox, event)


async def test_a_service_starts_and_works_without_nats_and_catches_up(
    platform_files: Path, own_nats_server: NatsServer, sqlite_database: Database
) -> None:
    own_nats_server.kill()
    handled: list[Event] = []
    async with (
        connect(nats_settings(platform_files, own_nats_server), "test") as nats,
        Relay(sqlite_database, outbox, nats, "scheduler"),
        _following(nats, "default", handled),
    ):
        await _state_change(sqlite_database, "default")
        assert await _waiting(sqlite_database) == 1
        own_nats_server.start()
        await _until(lambda: len(handled) == 1)


async def test_killing_nats_while_publishing_loses_and_repeats_nothing(
    platform_files: Path, own_nats_server: NatsServer, database: Database
) -> None:
    async def apply(event: Event) -> None:
        async with database.transaction() as transaction:
            if await first_time(transaction, inbox, event):
                joined = event.parse(events_pb2.WorkerJoined)
                row = {"name": joined.worker, "state": "seen", "number": joined.epoch}
                await transaction.execute(insert(things).values(row))

    async def applied() -> int:
        async with database.reading() as connection:
            return (await connection.execute(select(func.count()).select_from(things))).scalar_one()

    async with connect(nats_settings(platform_files, own_nats_server), "test") as nats:
        following = asyncio.create_task(nats.follow("things", ["scheduler.worker.joined"], apply))
        async with Relay(database, outbox, nats, "scheduler"):
            for index in range(120):
                await _state_change(database, "default", f"w{index}", key=f"k{index % 7}")
                if index in (30, 80):
                    own_nats_server.kill()
                    await asyncio.sleep(0.1)
                    own_nats_server.start()
            async with asyncio.timeout(120):
                # A primary key on the name: an event applied twice would have failed for ever.
                while await applied() < 120 or await _waiting(database):
                    await asyncio.sleep(0.05)
        following.cancel()
    assert await applied() == 120


async def test_a_hanging_nats_does_not_hold_up_writers(
    platform_files: Path, own_nats_server: NatsServer, database: Database
) -> None:
    async with connect(nats_settings(platform_files, own_nats_server), "test") as nats:
        await nats.wait_connected(120)
        async with Relay(database, outbox, nats, "scheduler"):
            own_nats_server.pause()
            await _state_change(database, "default", "first")
            await asyncio.sleep(0.2)
            await _state_change(database, "default", "second")
            # Both were written while nothing answered.
            assert await _waiting(database) == 2
            own_nats_server.resume()
            async with asyncio.timeout(120):
                while await _waiting(database):
                    await asyncio.sleep(0.05)


async def test_reports_reach_their_subscribers_over_a_restart(
    platform_files: Path, own_nats_server: NatsServer
) -> None:
    workers: list[str] = []

    async def receive(report: events_pb2.WorkerJoined) -> None:
        workers.append(report.worker)

    async with connect(nats_settings(platform_files, own_nats_server), "test") as nats:
        await nats.subscribe_plain("lepton-reports.*", events_pb2.WorkerJoined, receive)
        await nats.publish_plain("lepton-reports.w1", events_pb2.WorkerJoined(worker="w1"))
        await _until(lambda: workers == ["w1"])
        own_nats_server.kill()
        own_nats_server.start()
        async with asyncio.timeout(120):
            while "w2" not in workers:
                await nats.publish_plain("lepton-reports.w2", events_pb2.WorkerJoined(worker="w2"))
                await asyncio.sleep(0.05)


async def test_an_idle_connection_costs_next_to_nothing(sqlite_database: Database, nats: Nats, workspace: str) -> None:
    async with Relay(sqlite_database, outbox, nats, "scheduler"), _following(nats, workspace, []):
        await asyncio.sleep(0.5)
        begun = time.process_time()
        await asyncio.sleep(2.0)
        # Of the processor's time, not of the clock's: two hundredths of a second where it is quiet.
        assert time.process_time() - begun < 0.2


async def test_a_process_killed_after_its_commit_loses_no_event(
    platform_files: Path, own_nats_server: NatsServer, database_url: str
) -> None:
    # It commits, with NATS away, and kills itself; the next process of the service finds the fact and sends it.
    own_nats_server.kill()
    script = """
import asyncio, os, signal, sys
from pathlib import Path
from servicekit.database import open_database
from servicekit.events import connect
from servicekit.outbox import Relay
from tests.servicekit.test_events import _state_change
from tests.support.example.adapters.tables import outbox
from tests.support.example_service import MIGRATIONS
from servicekit.settings import ProcessSettings

async def main():
    settings = ProcessSettings.model_validate_json(sys.argv[2])
    async with open_database(sys.argv[1], MIGRATIONS) as database, connect(settings, "test") as nats:
        async with Relay(database, outbox, nats, "scheduler"):
            for index in range(5):
                await _state_change(database, "default", f"w{index}")
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    settings = nats_settings(platform_files, own_nats_server)
    command = [sys.executable, "-c", script, database_url, settings.model_dump_json()]
    killed = await asyncio.create_subprocess_exec(*command, env={**os.environ, "PYTHONPATH": "."})
    assert await killed.wait() == -signal.SIGKILL
    own_nats_server.start()
    handled: list[Event] = []
    async with (
        open_database(database_url, MIGRATIONS) as database,
        connect(settings, "test") as nats,
        Relay(database, outbox, nats, "scheduler"),
        _following(nats, "default", handled),
    ):
        await _until(lambda: len(handled) == 5)
    assert [event.parse(events_pb2.WorkerJoined).worker for event in handled] == [f"w{index}" for index in range(5)]
