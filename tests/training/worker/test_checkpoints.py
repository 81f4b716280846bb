"""Jobs that are cut go on from their checkpoints, and register what they would have."""

import os
import resource
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lepton.v1 import training_pb2
from servicekit.errors import Aborted, FailedPrecondition, InvalidArgument, ResourceExhausted
from tests.training.house import FAILED, QUEUED, SUCCEEDED, House, is_running, until

# Some seconds: time enough to be killed.
LONG = {"epochs": "16", "batch_size": "8", "hidden_units": "16"}


async def _rows(house: House) -> str:
    draw = np.random.default_rng(3)
    x = draw.standard_normal((400, 2)).round(4)
    columns = {"a": x[:, 0].tolist(), "b": x[:, 1].tolist(), "y": np.where(x.sum(axis=1) > 0, "yes", "no").tolist()}
    return await house.import_table("cloud", columns, "y")


async def _digests(house: House, version: str) -> Mapping[str, str]:
    return {artifact.name: artifact.sha256 for artifact in (await house.developer.get(version)).artifacts}


async def _undisturbed(house: House, rows: str) -> Mapping[str, str]:
    job = await house.people.create(family="mlp", model="whole", dataset=rows, hyperparameters=LONG)
    done = await house.people.ended(job.name)
    assert done.state == SUCCEEDED, done
    return await _digests(house, done.version)


def _is_past(share: float, job: training_pb2.Job) -> bool:
    return job.progress > share


async def test_job_whose_child_is_killed_ends_as_one_that_never_was(busy_house: House) -> None:
    rows = await _rows(busy_house)
    async with busy_house.worker(checkpoint_seconds=0.1) as runner:
        whole = await _undisturbed(busy_house, rows)
        job = await busy_house.people.create(family="mlp", model="cut", dataset=rows, hyperparameters=LONG)
        pids: set[int] = set()
        for share in (0.2, 0.5):
            await busy_house.people.until(job.name, partial(_is_past, share))
            (pid,) = set(runner.holding().processes) - pids
            pids.add(pid)
            os.kill(pid, signal.SIGKILL)
            await until(lambda: not is_running(max(pids)), "the child to end")
        done = await busy_house.people.ended(job.name)
    assert (done.state, done.attempts) == (SUCCEEDED, 1), done
    assert await _digests(busy_house, done.version) == whole
    # Nobody goes on from there.
    assert not done.HasField("checkpoint")


@pytest.mark.slow
async def test_job_whose_worker_is_killed_goes_on_elsewhere(
    lapsing_house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = await _rows(lapsing_house)
    async with lapsing_house.worker_process("w1", checkpoint_seconds=0.1) as worker:
        whole = await _undisturbed(lapsing_house, rows)
        job = await lapsing_house.people.create(family="mlp", model="cut", dataset=rows, hyperparameters=LONG)
        cut = await lapsing_house.people.until(job.name, lambda found: found.progress > 0.4)
        assert cut.checkpoint.size_bytes > 0
        await worker.kill()
    async with lapsing_house.worker("w2"):
        done = await lapsing_house.people.ended(job.name)
    assert (done.state, done.worker, done.attempts) == (SUCCEEDED, "w2", 2), done
    assert await _digests(lapsing_house, done.version) == whole
    assert "going on from its checkpoint" in capfd.readouterr().err


async def test_worker_that_leaves_keeps_what_its_job_did(busy_house: House) -> None:
    rows = await _rows(busy_house)
    # Too far apart to be due: what is kept is kept because the worker leaves.
    async with busy_house.worker_process("w1", checkpoint_seconds=3600.0) as worker:
        long = {**LONG, "epochs": "1000"}
        job = await busy_house.people.create(family="mlp", model="cut", dataset=rows, hyperparameters=long)
        await busy_house.people.until(job.name, lambda found: found.progress > 0.005)
        assert await worker.terminate() == 0
    given_back = await busy_house.people.get(job.name)
    assert given_back.state == QUEUED
    assert given_back.checkpoint.size_bytes > 0


@pytest.mark.slow
async def test_failed_job_keeps_its_checkpoint_and_can_be_tried_again(busy_house: House) -> None:
    rows = await _rows(busy_house)
    # Too large a step size by far: the loss overflows after some steps.
    wild = {**LONG, "optimizer": '"sgd"', "learning_rate": "10.0", "gradient_clip": "0", "momentum": "0.999"}
    regression = {"task": '"regression"'}
    numbers = await busy_house.import_table(
        "line2", {"x": [value / 7 for value in range(200)], "y": [value % 17 for value in range(200)]}, "y"
    )
    async with busy_house.worker(checkpoint_seconds=0.0):
        job = await busy_house.people.create(
            family="mlp", model="wild", dataset=numbers, hyperparameters={**wild, **regression}
        )
        failed = await busy_house.people.ended(job.name)
        assert (failed.state, failed.error_reason) == (FAILED, "LOSS_DIVERGED"), failed
        assert "at batch" in failed.error_message
        assert failed.checkpoint.size_bytes > 0
        retried = await busy_house.people.stub.RetryJob(
            training_pb2.RetryJobRequest(name=job.name), metadata=busy_house.people.metadata
        )
        assert (retried.state, retried.error_reason) == (QUEUED, "")
        # The same rows and settings: it comes to the same end, from where it stood.
        again = await busy_house.people.ended(job.name)
        assert (again.state, again.error_message) == (FAILED, failed.error_message)
        done = await busy_house.people.ended((await busy_house.people.create(dataset=rows, family="mlp")).name)
        assert done.state == SUCCEEDED
        with pytest.raises(FailedPrecondition, match="only a failed job"):
            await busy_house.people.stub.RetryJob(
                training_pb2.RetryJobRequest(name=done.name), metadata=busy_house.people.metadata
            )


async def test_checkpoints_are_kept_whole_and_by_the_claim(house: House) -> None:
    job = await house.people.create()
    await house.workers.start(job.name, 3)
    assert await house.workers.load_checkpoint(job.name) == b""
    pieces = [os.urandom(1 << 20) for _ in range(3)]
    for chunks in (pieces, [b"short"]):
        kept = await house.workers.save_checkpoint(job.name, 3, *chunks)
        assert kept.size_bytes == sum(map(len, chunks))
        assert await house.workers.load_checkpoint(job.name) == b"".join(chunks)
    with pytest.raises(Aborted):
        await house.workers.save_checkpoint(job.name, 2, b"of an older claim")
    with pytest.raises(InvalidArgument, match="whole"):
        await house.workers.save_checkpoint(job.name, 3, b"half", sha256="0" * 64)
    assert await house.workers.load_checkpoint(job.name) == b"short"
    # One object is left: those that were replaced or refused are gone.
    assert len(stored(house)) == 1
    await house.workers.finish(job.name, 3, version="line@1")
    assert not stored(house)


async def test_full_disk_refuses_a_checkpoint_and_keeps_the_one_before(house: House) -> None:
    job = await house.people.create()
    await house.workers.start(job.name, 1)
    await house.workers.save_checkpoint(job.name, 1, b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Files that may not grow: what a quota does. The service writes them in this process.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, limits[1]))
    try:
        with pytest.raises(ResourceExhausted, match="full"):
            await house.workers.save_checkpoint(job.name, 1, *(os.urandom(1 << 20) for _ in range(4)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert await house.workers.load_checkpoint(job.name) == b"before"


def stored(house: House) -> list[Path]:
    return [path for path in house.folder.rglob("training/default/*") if path.is_file()]
