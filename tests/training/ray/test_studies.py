"""Studies whose trials Ray Tune runs: what ended is a job, so that a study that is cut repeats none."""

import json
import os
import signal

import numpy as np
import pytest

from lepton.v1 import training_pb2 as pb
from tests.training.house import CANCELLED, FAILED, SUCCEEDED, House, is_running, until
from tests.training.ray.cluster import RayCluster
from tests.training.ray.test_jobs import WAIT_SECONDS

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

ON_RAY = "ran on Ray"


async def _rows(house: House) -> str:
    draw = np.random.default_rng(3)
    x = draw.standard_normal((300, 2)).round(4)
    columns = {"a": x[:, 0].tolist(), "b": x[:, 1].tolist(), "y": np.where(x.prod(axis=1) > 0, "yes", "no").tolist()}
    return await house.import_table("cloud", columns, "y")


async def _trials(house: House, study: str) -> list[pb.Job]:
    page = await house.people.list(filter=f'study = "{study}"', order_by="create_time")
    return [job for job in page.jobs if job.spec.trial]


async def test_study_whose_process_is_killed_repeats_no_trial_and_registers_the_best(
    busy_house: House, cluster: RayCluster
) -> None:
    rows = await _rows(busy_house)
    space = {"n_estimators": "[5, 40]", "learning_rate": '{"low": 0.001, "high": 0.3, "log": true}'}
    search = pb.Search(space=space, max_trials=6, sampler="random", pruner="none")
    async with busy_house.worker(engine="ray", ray_address=cluster.address, worker_cores=2.0) as runner:
        job = await busy_house.people.create(
            kind=pb.JOB_KIND_TUNE, family="boosted_trees", model="tuned", dataset=rows, search=search
        )
        await busy_house.people.until(
            job.name, lambda found: "2 of 6" in found.message or found.state == FAILED, WAIT_SECONDS
        )
        before = {trial.name: trial.sequence for trial in await _trials(busy_house, job.name)}
        (pid,) = set(runner.holding().processes)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not is_running(pid), "the child to end")
        done = await busy_house.people.ended(job.name, WAIT_SECONDS)
    assert done.state == SUCCEEDED, done
    trials = await _trials(busy_house, job.name)
    assert sorted(trial.spec.trial for trial in trials) == [1, 2, 3, 4, 5, 6]
    # No worker ran any of them: they are told when they end.
    updates = [update.message async for update in busy_house.people.watch(trials[0].name)]
    assert ON_RAY in updates
    assert len(before) >= 2
    assert {trial.name: trial.sequence for trial in trials if trial.name in before} == before
    assert all(metric.value > 0 for trial in trials for metric in trial.metrics if metric.name == "trial_seconds")
    found = json.loads(await busy_house.developer.download(done.version, "study.json"))
    losses = {
        trial.spec.trial: metric.value
        for trial in trials
        for metric in trial.evaluation.metrics
        if metric.name == "log_loss"
    }
    assert len(losses) == 6
    assert losses[found["best_trial"]] == min(losses.values())
    assert all(trial["seconds"] > 0 for trial in found["trials"])


async def test_trials_that_promise_nothing_are_ended_on_ray(busy_house: House, cluster: RayCluster) -> None:
    rows = await _rows(busy_house)
    # Steps of a millionth learn nothing: these trials fall behind the median from the first pass on.
    search = pb.Search(
        sampler="random", pruner="median", space={"learning_rate": "[0.01, 0.000001]"}, max_trials=10, parallel_trials=2
    )
    fixed = {"epochs": "60", "batch_size": "8"}
    async with busy_house.worker(engine="ray", ray_address=cluster.address, worker_cores=2.0):
        job = await busy_house.people.create(
            kind=pb.JOB_KIND_TUNE, family="mlp", dataset=rows, search=search, hyperparameters=fixed
        )
        done = await busy_house.people.ended(job.name, 2 * WAIT_SECONDS)
    assert done.state == SUCCEEDED, done
    pruned = [trial for trial in await _trials(busy_house, job.name) if trial.state == CANCELLED]
    assert pruned
    assert {trial.spec.hyperparameters["learning_rate"] for trial in pruned} == {"1e-06"}
