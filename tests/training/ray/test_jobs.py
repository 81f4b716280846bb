"""Jobs whose networks train on a Ray cluster: what is lost there costs time, not the result."""

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from lepton.v1 import training_pb2
from tests.training.house import CANCELLED, FAILED, SUCCEEDED, House, is_running, until
from tests.training.ray.cluster import RayCluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

# Most of it is the start of processes; a lost node is seen dead after 15 s.
WAIT_SECONDS = 240.0
# Some seconds: time enough to be killed.
LONG = {"epochs": "40", "batch_size": "8", "hidden_units": "16"}


async def _rows(house: House) -> str:
    draw = np.random.default_rng(3)
    x = draw.standard_normal((400, 2)).round(4)
    columns = {"a": x[:, 0].tolist(), "b": x[:, 1].tolist(), "y": np.where(x.sum(axis=1) > 0, "yes", "no").tolist()}
    return await house.import_table("cloud", columns, "y")


async def _digests(house: House, version: str) -> Mapping[str, str]:
    found = await house.developer.get(version)
    return {artifact.name: artifact.sha256 for artifact in found.artifacts}


def _is_past(share: float) -> Callable[[training_pb2.Job], bool]:
    return lambda job: job.progress > share or job.state == FAILED


async def test_job_survives_the_loss_of_a_node_and_of_its_process_and_ends_as_one_that_lost_none(
    busy_house: House, cluster: RayCluster
) -> None:
    rows = await _rows(busy_house)
    async with busy_house.worker(engine="ray", ray_address=cluster.address, checkpoint_seconds=0.3) as runner:
        spec: dict[str, Any] = {"family": "mlp", "dataset": rows, "hyperparameters": LONG, "workers": 2}
        job = await busy_house.people.create(model="whole", **spec)
        whole = await busy_house.people.ended(job.name, WAIT_SECONDS)
        assert whole.state == SUCCEEDED, whole

        job = await busy_house.people.create(model="cut", **spec)
        await busy_house.people.until(job.name, _is_past(0.2), WAIT_SECONDS)
        lost = cluster.busy_node()
        assert lost, "no node trains"
        cluster.kill(lost)
        # The third node takes the lost one's place.
        await busy_house.people.until(job.name, _is_past(0.4), WAIT_SECONDS)
        (pid,) = set(runner.holding().processes)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not is_running(pid), "the child to end")
        done = await busy_house.people.ended(job.name, WAIT_SECONDS)
    assert (done.state, done.attempts) == (SUCCEEDED, 1), done
    messages = [update.message async for update in busy_house.people.watch(job.name)]
    assert "waiting for 2 workers of the Ray cluster" in messages
    # Two workers' sums have one order: to the bit.
    assert await _digests(busy_house, done.version) == await _digests(busy_house, whole.version)


async def test_cancelled_job_ends_at_the_next_step(busy_house: House, cluster: RayCluster) -> None:
    rows = await _rows(busy_house)
    forever = {**LONG, "epochs": "100000"}
    async with busy_house.worker(engine="ray", ray_address=cluster.address):
        job = await busy_house.people.create(family="mlp", dataset=rows, hyperparameters=forever, workers=2)
        await busy_house.people.until(job.name, lambda found: "epoch" in found.message, WAIT_SECONDS)
        await busy_house.people.cancel(job.name)
        assert (await busy_house.people.ended(job.name)).state == CANCELLED
    await until(lambda: not cluster.busy_node(), "the cluster to be free")


async def test_loss_that_is_no_number_fails_the_job_at_once(busy_house: House, cluster: RayCluster) -> None:
    wild = {"optimizer": '"sgd"', "learning_rate": "10.0", "gradient_clip": "0", "momentum": "0.999", "epochs": "1000"}
    rows = await busy_house.import_table(
        "line2", {"x": [value / 7 for value in range(200)], "y": [value % 17 for value in range(200)]}, "y"
    )
    async with busy_house.worker(engine="ray", ray_address=cluster.address):
        settings = {**wild, "task": '"regression"'}
        job = await busy_house.people.create(family="mlp", dataset=rows, hyperparameters=settings, workers=2)
        failed = await busy_house.people.ended(job.name, WAIT_SECONDS)
    assert (failed.state, failed.error_reason) == (FAILED, "LOSS_DIVERGED"), failed
    assert "at batch" in failed.error_message


async def test_cluster_that_is_away_is_said(busy_house: House) -> None:
    rows = await _rows(busy_house)
    async with busy_house.worker(engine="ray", ray_address="127.0.0.1:1"):
        job = await busy_house.people.create(family="mlp", dataset=rows, hyperparameters=LONG)
        failed = await busy_house.people.ended(job.name, WAIT_SECONDS)
    assert (failed.state, failed.error_reason) == (FAILED, "RAY_AWAY"), failed
    assert "LEPTON_RAY_ADDRESS" in failed.error_message
