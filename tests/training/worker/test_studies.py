"""Studies: trials are jobs, side by side; the best is registered; a study that is cut repeats none."""

import asyncio
import json
import os
import signal
from functools import partial

import numpy as np
import pytest

from lepton.v1 import training_pb2 as pb
from servicekit.errors import InvalidArgument
from tests.training.house import CANCELLED, FAILED, SUCCEEDED, House, is_running, refused, until

TUNE = pb.JOB_KIND_TUNE


async def _rows(house: House) -> str:
    draw = np.random.default_rng(3)
    x = draw.standard_normal((300, 2)).round(4)
    columns = {"a": x[:, 0].tolist(), "b": x[:, 1].tolist(), "y": np.where(x.prod(axis=1) > 0, "yes", "no").tolist()}
    return await house.import_table("cloud", columns, "y")


async def _trials(house: House, study: str) -> list[pb.Job]:
    page = await house.people.list(filter=f'study = "{study}"', order_by="create_time")
    return [job for job in page.jobs if job.spec.trial]


def _is_gone(pid: int) -> bool:
    return not is_running(pid)


def _search(**fields: object) -> pb.Search:
    space = {"n_estimators": "[5, 40]", "learning_rate": '{"low": 0.001, "high": 0.3, "log": true}'}
    return pb.Search(**({"space": space, "max_trials": 6} | fields))  # type: ignore[arg-type]


async def test_best_of_the_trials_is_registered_with_what_the_study_found(busy_house: House) -> None:
    rows = await _rows(busy_house)
    async with busy_house.worker(worker_cores=3.0) as runner:
        job = await busy_house.people.create(
            kind=TUNE, family="boosted_trees", model="tuned", dataset=rows, search=_search(), hyperparameters={}
        )
        await until(lambda: len(runner.holding().jobs) == 3, "two trials beside their study")
        done = await busy_house.people.ended(job.name)
    assert done.state == SUCCEEDED, done
    trials = await _trials(busy_house, job.name)
    assert [trial.spec.trial for trial in trials] == [1, 2, 3, 4, 5, 6]
    assert all(trial.state in (SUCCEEDED, CANCELLED) for trial in trials)
    assert not any(trial.version for trial in trials)
    # One version, of the best trial's hyperparameters.
    (version,) = await busy_house.versions("tuned")
    found = json.loads(await busy_house.developer.download(done.version, "study.json"))
    best = trials[found["best_trial"] - 1]
    losses = {
        trial.spec.trial: metric.value
        for trial in trials
        if trial.state == SUCCEEDED
        for metric in trial.evaluation.metrics
        if metric.name == "log_loss"
    }
    assert losses[best.spec.trial] == min(losses.values())
    for name in ("n_estimators", "learning_rate"):
        assert version.lineage.hyperparameters[name] == best.spec.hyperparameters[name]
    assert [trial["job"] for trial in found["trials"]] == [trial.name for trial in trials]
    assert done.evaluation.rows == version.evaluations[0].rows > 0


async def test_default_is_kept_unless_another_trial_is_better_beyond_chance(busy_house: House) -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((120, 2)).round(4)
    is_up = x[:, 0] + draw.standard_normal(120) > 0
    columns = {"a": x[:, 0].tolist(), "b": x[:, 1].tolist(), "y": np.where(is_up, "yes", "no").tolist()}
    rows = await busy_house.import_table("few", columns, "y")
    search = pb.Search(space={"c": "[0.3, 1.0, 3.0]"}, sampler="grid", max_trials=3)
    async with busy_house.worker(worker_cores=2.0):
        job = await busy_house.people.create(
            kind=TUNE, family="logistic_regression", model="few", dataset=rows, search=search
        )
        done = await busy_house.people.ended(job.name)
    found = json.loads(await busy_house.developer.download(done.version, "study.json"))
    values = [trial["value"] for trial in found["trials"]]
    assert values.index(min(values)) == 0
    assert found["best_trial"] == 2
    assert found["note"].startswith("trial 1 is better than the default, but maybe by chance (p=0.")
    (version,) = await busy_house.versions("few")
    assert version.lineage.hyperparameters["c"] == "1.0"


@pytest.mark.slow
async def test_first_trial_has_the_defaults_where_the_ranges_have_them(busy_house: House) -> None:
    rows = await _rows(busy_house)
    search = pb.Search(space={"n_estimators": '{"low": 50, "high": 300}'}, max_trials=2)
    async with busy_house.worker(worker_cores=3.0):
        job = await busy_house.people.create(kind=TUNE, family="boosted_trees", dataset=rows, search=search)
        assert (await busy_house.people.ended(job.name)).state == SUCCEEDED
    first, second = await _trials(busy_house, job.name)
    assert first.spec.hyperparameters["n_estimators"] == "200"
    assert second.spec.hyperparameters["n_estimators"] != "200"


@pytest.mark.slow
async def test_grid_tries_every_combination_once(busy_house: House) -> None:
    rows = await _rows(busy_house)
    space = {"c": '{"low": 0.01, "high": 1.0, "log": true, "levels": 3}', "class_weight": '["none", "balanced"]'}
    async with busy_house.worker(worker_cores=3.0):
        job = await busy_house.people.create(
            kind=TUNE, family="logistic_regression", dataset=rows, search=pb.Search(sampler="grid", space=space)
        )
        done = await busy_house.people.ended(job.name)
    assert done.state == SUCCEEDED, done
    tried = [
        (round(json.loads(trial.spec.hyperparameters["c"]), 6), json.loads(trial.spec.hyperparameters["class_weight"]))
        for trial in await _trials(busy_house, job.name)
    ]
    assert sorted(tried) == sorted((c, weight) for c in (0.01, 0.1, 1.0) for weight in ("none", "balanced"))


@pytest.mark.parametrize("victim", ["child", pytest.param("worker", marks=pytest.mark.slow)])
async def test_study_that_is_killed_goes_on_and_repeats_no_trial(victim: str, busy_house: House) -> None:
    rows = await _rows(busy_house)
    search = _search(max_trials=5, sampler="random", pruner="none")
    async with busy_house.worker("trials", worker_cores=2.0), busy_house.worker_process("w1") as worker:
        job = await busy_house.people.create(kind=TUNE, family="boosted_trees", dataset=rows, search=search)
        # Two may end between two looks.
        await busy_house.people.until(job.name, lambda found: any(f"{n} of 5" in found.message for n in (2, 3)))
        before = {trial.name for trial in await _trials(busy_house, job.name)}
        running = await busy_house.people.get(job.name)
        if victim == "worker" and running.worker == "w1":
            await worker.kill()
        elif running.worker == "w1":
            for pid in worker.children():
                os.kill(pid, signal.SIGKILL)
                await until(partial(_is_gone, pid), "the child to end")
        done = await busy_house.people.ended(job.name)
    assert done.state == SUCCEEDED, done
    trials = await _trials(busy_house, job.name)
    assert before <= {trial.name for trial in trials}
    assert [trial.spec.trial for trial in trials] == [1, 2, 3, 4, 5]


@pytest.mark.slow
async def test_trials_that_promise_nothing_are_ended(busy_house: House) -> None:
    rows = await _rows(busy_house)
    # Steps of a millionth learn nothing: these trials fall behind the median from the first pass on.
    space = {"learning_rate": "[0.01, 0.000001]"}
    search = pb.Search(sampler="random", pruner="median", space=space, max_trials=10, parallel_trials=2)
    fixed = {"epochs": "30", "batch_size": "8"}
    async with busy_house.worker(worker_cores=3.0):
        job = await busy_house.people.create(
            kind=TUNE, family="mlp", dataset=rows, search=search, hyperparameters=fixed
        )
        done = await busy_house.people.ended(job.name, 300)
    assert done.state == SUCCEEDED, done
    pruned = [trial for trial in await _trials(busy_house, job.name) if trial.state == CANCELLED]
    assert pruned
    assert {trial.spec.hyperparameters["learning_rate"] for trial in pruned} == {"1e-06"}


async def test_first_trial_has_the_default_though_the_range_leaves_it_out(busy_house: House) -> None:
    async with busy_house.worker(worker_cores=3.0):
        job = await busy_house.people.create(
            kind=TUNE, family="linear_regression", dataset="line@1", target="y", search=pb.Search(max_trials=2)
        )
        done = await busy_house.people.ended(job.name)
    assert done.state == SUCCEEDED, done
    first, second = await _trials(busy_house, job.name)
    assert first.spec.hyperparameters["l2"] == "0.0"
    assert float(second.spec.hyperparameters["l2"]) > 0


async def test_study_by_a_metric_that_its_task_lacks_says_which_there_are(busy_house: House) -> None:
    async with busy_house.worker(worker_cores=3.0):
        job = await busy_house.people.create(
            kind=TUNE, family="linear_regression", dataset="line@1", target="y", search=pb.Search(metric="roc_auc")
        )
        done = await busy_house.people.ended(job.name)
    assert (done.state, done.error_reason) == (FAILED, "UNKNOWN_METRIC")
    assert "mae, r2, rmse" in done.error_message
    assert len(await _trials(busy_house, job.name)) < 5


async def _registering(house: House) -> tuple[pb.Job, pb.Job]:
    """Return a study that registers its best trial, and the job of that, which takes some seconds."""
    rows = await _rows(house)
    search = pb.Search(space={"hidden_units": "[16]"}, max_trials=1)
    study = await house.people.create(
        kind=TUNE, family="mlp", model="late", dataset=rows, search=search, hyperparameters={"epochs": "200"}
    )
    await house.people.until(study.name, lambda found: found.message.startswith("registering"))
    while True:
        page = await house.people.list(filter=f'study = "{study.name}"')
        for job in page.jobs:
            if not job.spec.trial:
                return study, job
        await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_study_stopped_while_it_registers_registers_nothing(busy_house: House) -> None:
    async with busy_house.worker(worker_cores=3.0):
        study, best = await _registering(busy_house)
        await busy_house.people.cancel(study.name)
        assert (await busy_house.people.ended(study.name)).state == CANCELLED
        assert (await busy_house.people.ended(best.name)).state == CANCELLED
    await refused(busy_house.versions("late"), "NOT_FOUND", "MODEL_NOT_FOUND")


@pytest.mark.slow
async def test_study_whose_best_was_not_registered_can_be_queued_again(busy_house: House) -> None:
    async with busy_house.worker(worker_cores=3.0):
        study, best = await _registering(busy_house)
        await busy_house.people.cancel(best.name)
        assert (await busy_house.people.ended(study.name)).state == FAILED
        await busy_house.people.stub.RetryJob(pb.RetryJobRequest(name=study.name), metadata=busy_house.people.metadata)
        done = await busy_house.people.until(study.name, lambda found: found.state == SUCCEEDED)
    assert len(await _trials(busy_house, study.name)) == 1
    assert done.version == "late@1"


async def test_stopped_study_stops_its_trials(busy_house: House) -> None:
    rows = await _rows(busy_house)
    async with busy_house.worker(worker_cores=3.0):
        job = await busy_house.people.create(
            kind=TUNE, family="mlp", dataset=rows, search=pb.Search(), hyperparameters={"epochs": "100000"}
        )
        await busy_house.people.until(job.name, lambda found: "2 running" in found.message)
        await busy_house.people.cancel(job.name)
        assert (await busy_house.people.ended(job.name)).state == CANCELLED
        for trial in await _trials(busy_house, job.name):
            assert (await busy_house.people.ended(trial.name)).state == CANCELLED


async def test_budget_of_time_ends_a_study(busy_house: House) -> None:
    rows = await _rows(busy_house)
    async with busy_house.worker(worker_cores=3.0):
        job = await busy_house.people.create(
            kind=TUNE, family="boosted_trees", dataset=rows, search=_search(max_trials=10_000, max_seconds=4.0)
        )
        done = await busy_house.people.ended(job.name)
    assert done.state == SUCCEEDED, done
    assert 1 <= len(await _trials(busy_house, job.name)) < 100


async def test_study_whose_trials_all_fail_says_why(busy_house: House) -> None:
    halves = await busy_house.import_table("halves", {"x": [1.0, 2.0, 3.0] * 20, "y": [0.5, 1.5, 2.5] * 20}, "y")
    async with busy_house.worker(worker_cores=3.0):
        job = await busy_house.people.create(
            kind=TUNE, family="logistic_regression", dataset=halves, search=pb.Search(max_trials=2)
        )
        done = await busy_house.people.ended(job.name)
    assert (done.state, done.error_reason) == (FAILED, "TARGET_NOT_CLASSES")
    assert "no trial succeeded" in done.error_message


@pytest.mark.parametrize(
    ("search", "why"),
    [
        ({"sampler": "genetic"}, "bayesian, random, grid"),
        ({"pruner": "shears"}, "median, asha, none"),
        ({"metric": "luck"}, "rmse"),
        ({"space": {"leaves": "[1]"}}, "has no hyperparameter 'leaves'.*did you mean num_leaves"),
        ({"space": {"l2": "[-1.0]"}}, "l2 must lie between"),
        ({"space": {"l2": '{"low": 0, "high": 1, "log": true}'}}, "low > 0"),
        ({"space": {"l2": '"big"'}}, "a list of values"),
        ({"space": {"n_estimators": "[5]"}}, "set and searched at once"),
    ],
)
async def test_study_that_cannot_work_is_refused_at_once(search: dict[str, object], why: str, house: House) -> None:
    with pytest.raises(InvalidArgument, match=why):
        await house.people.create(
            kind=TUNE,
            family="boosted_trees",
            search=pb.Search(**search),  # type: ignore[arg-type]
            hyperparameters={"n_estimators": "10"},
        )
