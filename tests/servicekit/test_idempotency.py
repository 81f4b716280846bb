"""Repeated mutations: one act, one answer, on SQLite and Postgres."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, insert, select, update

from lepton.v1 import registry_pb2, scheduler_pb2
from servicekit.database import Database, next_number
from servicekit.errors import InvalidArgument
from servicekit.idempotency import KEEP, forget_old, once
from tests.support.example.adapters.tables import counters, requests, things


async def _create(
    database: Database, request: scheduler_pb2.DrainWorkerRequest, workspace: str = "default", pause: float = 0.0
) -> registry_pb2.Alias:
    async with database.transaction() as transaction:

        async def act() -> registry_pb2.Alias:
            number = await next_number(transaction, counters, "things")
            await transaction.execute(insert(things).values(name=f"thing-{number}", state="new", number=number))
            await asyncio.sleep(pause)
            return registry_pb2.Alias(model=f"thing-{number}")

        return await once(transaction, requests, workspace, request, registry_pb2.Alias, act)


async def _count(database: Database) -> int:
    async with database.reading() as connection:
        return (await connection.execute(select(func.count()).select_from(things))).scalar_one()


async def test_a_repeat_gets_the_first_answer_and_changes_nothing(database: Database) -> None:
    request = scheduler_pb2.DrainWorkerRequest(name="loans", request_id="r1")
    first = await _create(database, request)
    assert await _create(database, request) == first
    assert await _count(database) == 1


async def test_a_repeat_with_another_payload_is_refused(database: Database) -> None:
    await _create(database, scheduler_pb2.DrainWorkerRequest(name="loans", request_id="r1"))
    with pytest.raises(InvalidArgument) as caught:
        await _create(database, scheduler_pb2.DrainWorkerRequest(name="cars", request_id="r1"))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert await _count(database) == 1


async def test_repeats_at_the_same_time_act_once(database: Database) -> None:
    request = scheduler_pb2.DrainWorkerRequest(name="loans", request_id="r1")
    answers = await asyncio.gather(*(_create(database, request, pause=0.05) for _ in range(5)))
    assert {answer.model for answer in answers} == {"thing-1"}
    assert await _count(database) == 1


async def test_without_an_id_every_call_acts(database: Database) -> None:
    request = scheduler_pb2.DrainWorkerRequest(name="loans")
    assert (await _create(database, request)) != (await _create(database, request))


async def test_workspaces_do_not_share_ids(database: Database) -> None:
    request = scheduler_pb2.DrainWorkerRequest(name="loans", request_id="r1")
    assert (await _create(database, request, "one")) != (await _create(database, request, "two"))


async def test_an_act_that_failed_may_be_tried_again_with_its_id(database: Database) -> None:
    request = scheduler_pb2.DrainWorkerRequest(name="loans", request_id="r1")

    async def fail() -> registry_pb2.Alias:
        raise InvalidArgument("on purpose")

    with pytest.raises(InvalidArgument, match="on purpose"):
        async with database.transaction() as transaction:
            await once(transaction, requests, "default", request, registry_pb2.Alias, fail)
    assert (await _create(database, request)).model == "thing-1"


async def test_old_answers_are_forgotten(database: Database) -> None:
    request = scheduler_pb2.DrainWorkerRequest(name="loans", request_id="r1")
    await _create(database, request)
    async with database.transaction() as transaction:
        old = datetime.now(UTC) - KEEP - timedelta(seconds=1)
        await transaction.execute(update(requests).values(time=old))
        await forget_old(transaction, requests)
    assert (await _create(database, request)).model == "thing-2"
