"""A claim outlasts its service, and gives up where it is lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from lepton.v1 import training_pb2 as pb
from servicekit.errors import LeptonError
from servicekit.rpc import open_channel
from services.training.adapters.training_client import TrainingClient
from services.training.worker.claim import Answer, Claim
from tests.training.house import FAILED, RUNNING, SUCCEEDED, House, free_port


@contextlib.asynccontextmanager
async def _client(house: House, port: int) -> AsyncIterator[TrainingClient]:
    async with open_channel(f"localhost:{port}", house.process_settings("training")) as channel:
        yield TrainingClient(channel)


async def test_job_is_taken_and_ended_though_the_service_comes_late(house: House) -> None:
    name = (await house.people.create()).name
    port = free_port()
    async with _client(house, port) as client, contextlib.AsyncExitStack() as stack:
        house.stack = stack
        claim = Claim(client, "default", name, "w", 1)
        taking = asyncio.create_task(claim.take())
        await asyncio.sleep(0.5)
        assert not taking.done()
        await house.start_training(private_port=port)
        job = await asyncio.wait_for(taking, 120)
        assert job is not None
        assert job.state == RUNNING
        await stack.aclose()
        ending = asyncio.create_task(claim.finish(pb.FinishJobRequest(state=SUCCEEDED, version="line@1")))
        await asyncio.sleep(0.5)
        assert not ending.done()
        await house.start_training(private_port=port)
        await asyncio.wait_for(ending, 120)
        assert (await house.people.get(name)).state == SUCCEEDED
        await stack.aclose()


async def test_report_while_the_service_is_away_is_an_error_and_no_loss(house: House) -> None:
    async with _client(house, free_port()) as client:
        with pytest.raises(LeptonError):
            await Claim(client, "default", "job-1", "w", 1).report(pb.ReportJobRequest())


async def test_worker_that_leaves_does_not_wait_for_ever(house: House) -> None:
    async with _client(house, free_port()) as client:
        claim = Claim(client, "default", "job-1", "w", 1)
        await asyncio.wait_for(claim.finish(pb.FinishJobRequest(state=SUCCEEDED), 1.0), 120)


async def test_claim_that_another_took_over_is_lost(house: House) -> None:
    name = (await house.people.create()).name
    async with _client(house, house.training.private_port) as client:
        first, second = Claim(client, "default", name, "a", 1), Claim(client, "default", name, "b", 2)
        assert await first.take() is not None
        assert await first.report(pb.ReportJobRequest(progress=0.1)) is Answer.GO_ON
        assert await second.take() is not None
        assert await first.report(pb.ReportJobRequest(progress=0.2)) is Answer.LOST
        assert await first.take() is None
        await first.finish(pb.FinishJobRequest(state=SUCCEEDED, version="line@1"))
        assert (await house.people.get(name)).state == RUNNING
        await house.people.cancel(name)
        assert await second.report(pb.ReportJobRequest(progress=0.2)) is Answer.STOP


async def test_claim_on_a_job_that_is_not_there_is_given_up(house: House) -> None:
    async with _client(house, house.training.private_port) as client:
        assert await Claim(client, "default", "job-0", "a", 1).take() is None


async def test_end_that_the_contract_refuses_still_ends_the_job(house: House) -> None:
    name = (await house.people.create()).name
    async with _client(house, house.training.private_port) as client:
        claim = Claim(client, "default", name, "a", 1)
        await claim.take()
        await claim.finish(pb.FinishJobRequest(state=SUCCEEDED, version="no reference"))
    job = await house.people.get(name)
    assert (job.state, job.error_reason) == (FAILED, "INTERNAL")
    assert "version" in job.error_message
