"""A worker and its children run jobs against real neighbours."""

import asyncio
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton.v1 import common_pb2, registry_pb2, scheduler_pb2, training_pb2
from servicekit.events import connect
from services.training.worker.jobs import JobRunner
from tests.registry.house import GOOD
from tests.support.credentials import MakeToken
from tests.support.nats import NatsServer
from tests.training.house import (
    CANCELLED,
    EVALUATE,
    FAILED,
    FINE_TUNE,
    RUNNING,
    SUCCEEDED,
    House,
    is_running,
    running_house,
    until,
)

# Minutes, if nobody stops it.
SLOW = {"solver": '"gradient_descent"', "epochs": "100000"}


async def test_job_is_fitted_exported_and_registered_with_its_lineage(busy_house: House) -> None:
    async with busy_house.worker():
        job = await busy_house.people.create(model="line", seed=7)
        done = await busy_house.people.ended(job.name)
    assert (done.state, done.version, done.progress, done.worker) == (SUCCEEDED, "line@1", 1.0, "w1"), done
    version = await busy_house.developer.get("line@1")
    lineage = version.lineage
    assert version.state == registry_pb2.VERSION_STATE_READY
    assert (lineage.dataset, lineage.job, lineage.family) == ("line@1", job.name, "linear_regression")
    assert (lineage.job_epoch, lineage.seed, lineage.parent) == (done.epoch, 7, "")
    assert len(lineage.dataset_digest) == 64
    assert {"numpy", "onnx", "onnxruntime-gpu", "pyarrow"} <= set(lineage.libraries)
    assert lineage.hyperparameters == job.spec.hyperparameters
    assert version.parity.max_difference <= version.parity.tolerance
    assert _metrics(done.evaluation)["r2"] > 0.999
    # A tenth of 200 rows was held out.
    assert (done.evaluation.rows, done.evaluation.dataset) == (20, "line@1")
    assert version.evaluations[0] == done.evaluation
    assert {artifact.name for artifact in version.artifacts} > {"model.onnx", "family.json"}


async def test_progress_and_metrics_arrive_while_the_job_runs(busy_house: House) -> None:
    async with busy_house.worker():
        hyperparameters = {"solver": '"gradient_descent"', "epochs": "2000"}
        job = await busy_house.people.create(hyperparameters=hyperparameters)
        updates = [update async for update in busy_house.people.watch(job.name)]
    assert updates[-1].state == SUCCEEDED
    running = [update for update in updates if update.state == RUNNING]
    assert [update.sequence for update in updates] == list(range(1, len(updates) + 1))
    assert any(update.metrics and update.metrics[0].name == "loss" and update.step > 0 for update in running)
    assert any(0.1 < update.progress < 0.9 for update in running)


async def test_rows_to_evaluate_on_are_not_trained_on(busy_house: House) -> None:
    await busy_house.import_line("held", rows=30)
    async with busy_house.worker():
        job = await busy_house.people.create(evaluation_dataset="held@1")
        done = await busy_house.people.ended(job.name)
    assert (done.evaluation.dataset, done.evaluation.rows) == ("held@1", 30)


async def test_fine_tuned_version_names_its_parent_and_is_scored_beside_it(busy_house: House) -> None:
    await busy_house.import_line("more", rows=50)
    async with busy_house.worker():
        first = await busy_house.people.ended((await busy_house.people.create(model="line")).name)
        spec: dict[str, Any] = {"kind": FINE_TUNE, "base_version": first.version, "dataset": "more@1", "family": ""}
        job = await busy_house.people.create(**spec, hyperparameters={"epochs": "5"})
        done = await busy_house.people.ended(job.name)
    assert (done.state, done.version) == (SUCCEEDED, "line@2"), done
    version = await busy_house.developer.get("line@2")
    assert (version.lineage.parent, version.lineage.dataset) == ("line@1", "more@1")
    # On the new rows that were held out, and on those that its parent was scored on.
    assert [(scores.dataset, scores.rows) for scores in version.evaluations] == [("more@1", 5), ("line@1", 20)]


async def test_version_is_evaluated_on_other_rows(busy_house: House) -> None:
    await busy_house.import_line("other", rows=30)
    async with busy_house.worker():
        first = await busy_house.people.ended((await busy_house.people.create(model="line")).name)
        spec: dict[str, Any] = {"kind": EVALUATE, "base_version": "line@1", "dataset": "other@1", "family": ""}
        done = await busy_house.people.ended((await busy_house.people.create(**spec)).name)
    assert (done.state, done.version) == (SUCCEEDED, first.version), done
    assert (done.evaluation.dataset, done.evaluation.rows) == ("other@1", 30)
    assert _metrics(done.evaluation)["r2"] > 0.999
    assert len(await busy_house.versions("line")) == 1


async def test_model_made_elsewhere_is_evaluated_where_its_inputs_are_columns(busy_house: House) -> None:
    from tests.support.onnx_models import column_model

    await busy_house.developer.register("columns", {"model.onnx": column_model()})
    await busy_house.developer.register("vector", {"model.onnx": GOOD})
    await busy_house.import_table("t", {"amount": [1.0, 2.0, 3.0], "kind": ["a", "b", "a"], "y": [1.0, 3.0, 4.0]}, "y")
    async with busy_house.worker():
        done = await _evaluated(busy_house, "columns@1", "t@1")
        assert (done.state, done.evaluation.rows) == (SUCCEEDED, 3), done
        assert _metrics(done.evaluation)["mae"] == pytest.approx(1 / 3)
        refusal = await _evaluated(busy_house, "vector@1", "t@1")
    assert (refusal.state, refusal.error_reason) == (FAILED, "SIGNATURE_MISMATCH")
    assert "x" in refusal.error_message


async def test_rows_that_cannot_be_learned_from_fail_the_job_with_their_reason(busy_house: House) -> None:
    # What no schema and no profile tells.
    await busy_house.import_table("halves", {"x": [1, 2, 3, 4], "y": [0.5, 1.5, 0.5, 1.5]})
    async with busy_house.worker():
        job = await busy_house.people.create(dataset="halves@1", family="logistic_regression")
        done = await busy_house.people.ended(job.name)
    assert (done.state, done.error_reason) == (FAILED, "TARGET_NOT_CLASSES")
    assert "fractions" in done.error_message


async def test_rows_that_are_gone_when_the_job_begins_fail_it(busy_house: House) -> None:
    job = await busy_house.people.create()
    await busy_house.delete_dataset("line")
    async with busy_house.worker():
        done = await busy_house.people.ended(job.name)
    assert (done.state, done.error_reason) == (FAILED, "DATASET_VERSION_NOT_FOUND")


async def test_running_job_is_cancelled_and_registers_nothing(busy_house: House) -> None:
    async with busy_house.worker() as runner:
        job = await busy_house.people.create(model="slow", hyperparameters=SLOW)
        pid = await _child_of(busy_house, runner, job)
        await busy_house.people.cancel(job.name)
        done = await busy_house.people.ended(job.name)
        await until(lambda: not is_running(pid), "the child to end")
        assert not runner.holding().jobs
    assert (done.state, done.error_reason) == (CANCELLED, "")
    listed = await busy_house.developer.stub.ListModels(registry_pb2.ListModelsRequest())
    assert not listed.models


async def test_job_that_says_nothing_any_more_can_be_cancelled(busy_house: House) -> None:
    async with busy_house.worker(stop_seconds=0.5) as runner:
        job = await busy_house.people.create(hyperparameters=SLOW)
        pid = await _child_of(busy_house, runner, job)
        os.kill(pid, signal.SIGSTOP)
        await busy_house.people.cancel(job.name)
        done = await busy_house.people.ended(job.name)
        await until(lambda: not is_running(pid), "the child to end")
    assert done.state == CANCELLED


async def test_job_that_takes_more_memory_than_it_declares_fails_and_says_so(busy_house: House) -> None:
    async with busy_house.worker(library_memory_bytes=32 << 20):
        resources = common_pb2.Resources(cores=1.0, memory_bytes=16 << 20)
        job = await busy_house.people.create(hyperparameters=SLOW, resources=resources)
        done = await busy_house.people.ended(job.name)
    assert (done.state, done.error_reason) == (FAILED, "OUT_OF_MEMORY")
    assert "16 MiB" in done.error_message


# A step of as many rows holds their 4,096 hidden units some four times.
WIDE = {"hidden_units": "4096", "hidden_layers": "1", "epochs": "10", "batch_size": "8000"}


@pytest.mark.slow
@pytest.mark.parametrize(("mebibytes", "fits"), [(150, True), (64, False)])
async def test_job_out_of_memory_is_tried_once_more_with_smaller_batches(
    mebibytes: int, fits: bool, busy_house: House
) -> None:
    draw = np.random.default_rng(5)
    x = draw.standard_normal((9000, 2))
    columns = {"a": x[:, 0].tolist(), "b": x[:, 1].tolist(), "y": np.where(x.sum(axis=1) > 0, "yes", "no").tolist()}
    rows = await busy_house.import_table("cloud", columns, "y")
    resources = common_pb2.Resources(cores=1.0, memory_bytes=mebibytes << 20)
    async with busy_house.worker(library_memory_bytes=154 << 20):
        job = await busy_house.people.create(
            family="mlp", model="wide", dataset=rows, hyperparameters=WIDE, resources=resources
        )
        done = await busy_house.people.ended(job.name)
    assert "out of memory: tried again with batch_size 4000" in done.warnings
    if not fits:
        assert (done.state, done.error_reason) == (FAILED, "OUT_OF_MEMORY")
        assert "batch_size 4000 did not suffice" in done.error_message
        return
    assert done.state == SUCCEEDED, done
    # What it was trained with is what its lineage says.
    (version,) = await busy_house.versions("wide")
    assert version.lineage.hyperparameters["batch_size"] == "4000"


@pytest.mark.parametrize(
    ("number", "times", "reason"), [(signal.SIGKILL, 3, "OUT_OF_MEMORY"), (signal.SIGSEGV, 1, "CHILD_CRASHED")]
)
async def test_child_that_dies_fails_its_job_a_killed_one_the_third_time(
    number: signal.Signals, times: int, reason: str, busy_house: House
) -> None:
    async with busy_house.worker() as runner:
        job = await busy_house.people.create(hyperparameters=SLOW)
        pids: set[int] = set()
        for _ in range(times):
            await until(lambda: bool(set(runner.holding().processes) - pids), "a child that runs")
            (pid,) = set(runner.holding().processes) - pids
            pids.add(pid)
            await asyncio.sleep(0.3)
            os.kill(pid, number)
        done = await busy_house.people.ended(job.name)
        # The worker goes on with the next.
        after = await busy_house.people.ended((await busy_house.people.create()).name)
    assert (done.state, done.error_reason) == (FAILED, reason)
    assert after.state == SUCCEEDED


async def test_version_that_the_registry_refuses_fails_the_job_with_its_reason(
    platform_files: Path, tmp_path: Path, own_nats_server: NatsServer, make_token: MakeToken
) -> None:
    # Not even rounding is forgiven.
    strict = {"parity_tolerance": 1e-30}
    async with running_house(platform_files, tmp_path, own_nats_server, make_token, **strict) as house:
        await house.start_scheduler()
        async with house.worker():
            job = await house.people.create(model="line")
            done = await house.people.ended(job.name)
        assert (done.state, done.error_reason) == (FAILED, "PARITY_FAILED"), done
        assert "line@1" in done.error_message
        versions = await house.versions("line")
        assert [version.state for version in versions] == [registry_pb2.VERSION_STATE_FAILED]


async def test_two_jobs_run_at_once_and_a_third_waits_for_room(busy_house: House) -> None:
    async with busy_house.worker() as runner:
        jobs = [await busy_house.people.create(model=f"m{index}", hyperparameters=SLOW) for index in range(3)]
        await until(lambda: len(runner.holding().processes) == 2, "two children")
        await asyncio.sleep(1.0)
        assert len(runner.holding().jobs) == 2
        for job in jobs:
            await busy_house.people.cancel(job.name)
        ends = [(await busy_house.people.ended(job.name)).state for job in jobs]
    assert ends == [CANCELLED] * 3


async def test_load_of_a_job_counts_as_its_workers(busy_house: House) -> None:
    loads: list[scheduler_pb2.WorkerReport] = []

    async def keep(report: scheduler_pb2.WorkerReport) -> None:
        loads.append(report)

    async with connect(busy_house.process_settings("data"), "listener") as nats:
        await nats.subscribe_plain("lepton-reports.w1", scheduler_pb2.WorkerReport, keep)
        async with busy_house.worker():
            job = await busy_house.people.create(hyperparameters=SLOW)
            await until(
                lambda: bool(loads and loads[-1].jobs and loads[-1].load.cpu_utilization > 0.1), "a busy worker"
            )
            assert [placed.job for placed in loads[-1].jobs] == [job.name]
            await busy_house.people.cancel(job.name)
            await busy_house.people.ended(job.name)
            await until(lambda: not loads[-1].jobs and loads[-1].load.in_flight == 0, "an idle worker")


async def _evaluated(house: House, version: str, dataset: str) -> training_pb2.Job:
    job = await house.people.create(kind=EVALUATE, base_version=version, dataset=dataset, family="")
    return await house.people.ended(job.name)


async def _child_of(house: House, runner: JobRunner, job: training_pb2.Job) -> int:
    """Wait until a job fits; return its child's process id."""
    await house.people.until(job.name, lambda found: found.progress > 0.04)
    return _only(runner.holding().processes)


def _only(pids: Iterable[int]) -> int:
    (pid,) = pids
    return pid


def _metrics(evaluation: common_pb2.Evaluation) -> dict[str, float]:
    return {metric.name: metric.value for metric in evaluation.metrics}
