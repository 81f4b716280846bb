"""The training service over TLS, as people and as workers see it."""

import asyncio
from typing import Any

import grpc
import pytest

from lepton.v1 import common_pb2
from lepton.v1 import training_pb2 as pb
from lepton.v1.training_pb2_grpc import TrainingServiceStub
from servicekit.auth import ALL_WORKSPACES, Identity, act_as
from servicekit.errors import InvalidArgument, NotFound
from servicekit.rpc import open_channel
from services.training.domain.families.catalog import FAMILIES
from tests.training.house import (
    CANCELLED,
    EVALUATE,
    FAILED,
    FINE_TUNE,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    House,
    refused,
)


async def test_job_is_queued_with_everything_that_was_left_out(house: House) -> None:
    job = await house.people.create()
    assert (job.state, job.spec.model, job.spec.target) == (QUEUED, "linear-regression", "y")
    assert job.spec.hyperparameters["solver"] == '"least_squares"'
    assert (job.spec.resources.cores, job.spec.resources.memory_bytes) == (1.0, 1 << 30)
    assert (job.workspace, job.worker, job.attempts) == ("", "", 0)
    assert await house.people.get(job.name) == job


async def test_job_keeps_the_trace_of_the_call_that_created_it(house: House) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    house.people.metadata += (("traceparent", f"00-{trace}-b7ad6b7169203331-01"),)
    job = await house.people.create()
    assert job.traceparent.split("-")[1] == trace


@pytest.mark.parametrize(
    ("spec", "status", "reason"),
    [
        ({"family": "forest"}, "INVALID_ARGUMENT", "UNKNOWN_FAMILY"),
        ({"hyperparameters": {"trees": "3"}}, "INVALID_ARGUMENT", "UNKNOWN_HYPERPARAMETER"),
        ({"hyperparameters": {"epochs": "0"}}, "INVALID_ARGUMENT", "BAD_HYPERPARAMETER"),
        ({"hyperparameters": {"optimizer": "sgd"}}, "INVALID_ARGUMENT", "BAD_HYPERPARAMETER"),
        ({"dataset": "line@7"}, "NOT_FOUND", "DATASET_VERSION_NOT_FOUND"),
        ({"dataset": "nothing@1"}, "NOT_FOUND", "DATASET_VERSION_NOT_FOUND"),
        ({"dataset": ""}, "INVALID_ARGUMENT", "FIELD_RULES"),
        ({"dataset": "../x@1"}, "INVALID_ARGUMENT", "FIELD_RULES"),
        ({"model": "Not An Id"}, "INVALID_ARGUMENT", "FIELD_RULES"),
        ({"kind": 0}, "INVALID_ARGUMENT", "FIELD_RULES"),
        ({"target": "z"}, "INVALID_ARGUMENT", "TARGET_NOT_FOUND"),
        ({"handle_unknown": "guess"}, "INVALID_ARGUMENT", "BAD_HANDLE_UNKNOWN"),
        ({"evaluation_dataset": "line@9"}, "NOT_FOUND", "DATASET_VERSION_NOT_FOUND"),
        ({"kind": FINE_TUNE}, "INVALID_ARGUMENT", "BASE_REQUIRED"),
        ({"seed": -1}, "INVALID_ARGUMENT", "FIELD_RULES"),
        ({"seed": -(2**63)}, "INVALID_ARGUMENT", "FIELD_RULES"),
        ({"workers": -1}, "INVALID_ARGUMENT", "FIELD_RULES"),
        ({"resources": common_pb2.Resources(cores=-1.0)}, "INVALID_ARGUMENT", "FIELD_RULES"),
        ({"resources": common_pb2.Resources(cores=float("nan"))}, "INVALID_ARGUMENT", "FIELD_RULES"),
        ({"resources": common_pb2.Resources(memory_bytes=2**63 - 1)}, "INVALID_ARGUMENT", "FIELD_RULES"),
        ({"resources": common_pb2.Resources(gpus=float("inf"))}, "INVALID_ARGUMENT", "FIELD_RULES"),
        ({"hyperparameters": {"l2": "NaN"}}, "INVALID_ARGUMENT", "BAD_HYPERPARAMETER"),
        ({"hyperparameters": {"l2": "1e999"}}, "INVALID_ARGUMENT", "BAD_HYPERPARAMETER"),
        ({"hyperparameters": {"epochs": "1" * 400}}, "INVALID_ARGUMENT", "BAD_HYPERPARAMETER"),
        ({"hyperparameters": {"epochs": "true"}}, "INVALID_ARGUMENT", "BAD_HYPERPARAMETER"),
        ({"hyperparameters": {"l2": "[" * 100_000}}, "INVALID_ARGUMENT", "BAD_HYPERPARAMETER"),
        ({"kind": EVALUATE, "base_version": "none@1"}, "NOT_FOUND", "MODEL_VERSION_NOT_FOUND"),
    ],
)
async def test_what_cannot_work_is_refused_and_changes_nothing(
    spec: dict[str, Any], status: str, reason: str, house: House
) -> None:
    error = await refused(house.people.create(**spec), status, reason)
    assert error.message
    assert not (await house.people.list()).jobs


async def test_all_that_is_wrong_is_named_at_once(house: House) -> None:
    await house.import_table("bad", {"x": [None] * 4, "z": [None] * 4, "c": ["a"] * 4, "y": ["a", "a", None, "b"]})
    await house.import_table("short", {"q": [1, 2]})
    wanted: dict[str, Any] = {"hyperparameters": {"l2": "-1", "trees": "3", "epochs": "no"}, "handle_unknown": "guess"}
    error = await refused(
        house.people.create(dataset="bad@1", evaluation_dataset="short@1", target="y", workers=2, **wanted),
        "INVALID_ARGUMENT",
        "BAD_HYPERPARAMETER",
    )
    assert isinstance(error, InvalidArgument)
    fields = [field for field, _ in error.violations]
    assert fields == [
        "spec.hyperparameters['epochs']",
        "spec.workers",
        "spec.handle_unknown",
        "spec.target",
        "spec.target",
        "spec.dataset['x']",
        "spec.dataset['z']",
        *["spec.evaluation_dataset"] * 4,
    ]
    assert not (await house.people.list()).jobs


@pytest.mark.parametrize("seed", [0, 2**31, 2**32, 2**63 - 1])
async def test_seeds_of_any_size_are_taken(seed: int, house: House) -> None:
    assert (await house.people.create(seed=seed)).spec.seed == seed


async def test_a_model_is_evaluated_on_rows_with_its_columns_alone(house: House) -> None:
    await house.developer.register("line")
    await house.import_table("other", {"z": [3, 4], "y": [None, 1]})
    job: dict[str, Any] = {"kind": EVALUATE, "base_version": "line@1", "dataset": "other@1", "target": "y"}
    error = await refused(house.people.create(**job, family=""), "INVALID_ARGUMENT", "TARGET_MISSING")
    assert "no value in 1 of 2 rows" in error.message


async def test_rows_to_evaluate_on_must_have_the_target(house: House) -> None:
    await house.import_table("other", {"x": [1, 2], "z": [3, 4]})
    await refused(house.people.create(evaluation_dataset="other@1"), "INVALID_ARGUMENT", "TARGET_NOT_FOUND")


async def test_base_made_elsewhere_cannot_be_trained_on(house: House) -> None:
    await house.developer.register("foreign")
    spec: dict[str, Any] = {"kind": FINE_TUNE, "base_version": "foreign@1"}
    await refused(house.people.create(**spec), "INVALID_ARGUMENT", "BASE_MADE_ELSEWHERE")


async def test_base_that_is_not_ready_is_refused(house: House) -> None:
    await house.developer.create("half")
    spec: dict[str, Any] = {"kind": EVALUATE, "base_version": "half@1"}
    await refused(house.people.create(**spec), "INVALID_ARGUMENT", "BASE_NOT_READY")


async def test_repeated_request_gets_the_first_answer_whatever_happened_since(house: House) -> None:
    first = await house.people.create(request_id="r-1")
    await house.people.cancel(first.name)
    await house.delete_dataset("line")
    assert await house.people.create(request_id="r-1") == first
    await refused(house.people.create(request_id="r-1", seed=2), "INVALID_ARGUMENT", "REQUEST_ID_REUSED")
    assert len((await house.people.list()).jobs) == 1


async def test_repeats_at_the_same_time_make_one_job(house: House) -> None:
    answers = await asyncio.gather(*(house.people.create(request_id="r-1") for _ in range(5)))
    assert len({answer.name for answer in answers}) == 1
    assert len((await house.people.list()).jobs) == 1


async def test_viewers_look_and_do_not_touch(house: House) -> None:
    job = await house.people.create()
    viewer = await house.person("viewer")
    assert (await viewer.get(job.name)).name == job.name
    await refused(viewer.create(), "PERMISSION_DENIED", "ROLE_TOO_LOW")
    await refused(viewer.cancel(job.name), "PERMISSION_DENIED", "ROLE_TOO_LOW")


async def test_people_are_no_workers(house: House) -> None:
    job = await house.people.create()
    admin = await house.person("admin")
    start = pb.StartJobRequest(name=job.name, worker="w", epoch=1)
    await refused(admin.stub.StartJob(start, metadata=admin.metadata), "PERMISSION_DENIED", "ROLE_TOO_LOW")


async def test_jobs_of_other_workspaces_do_not_exist(house: House) -> None:
    job = await house.people.create()
    stranger = await house.person("admin", "elsewhere")
    assert not (await stranger.list()).jobs
    await refused(stranger.get(job.name), "NOT_FOUND", "JOB_NOT_FOUND")
    await refused(stranger.cancel(job.name), "NOT_FOUND", "JOB_NOT_FOUND")
    with pytest.raises(NotFound):
        await anext(stranger.watch(job.name))


async def test_service_sees_the_jobs_of_all_workspaces_and_whose_they_are(house: House) -> None:
    job = await house.people.create()
    settings = house.process_settings("scheduler")
    async with open_channel(f"localhost:{house.training.private_port}", settings) as channel:
        with act_as(Identity.for_service(ALL_WORKSPACES, "scheduler")):
            listed = await TrainingServiceStub(channel).ListJobs(pb.ListJobsRequest(filter='state = "QUEUED"'))
    assert [(found.name, found.workspace) for found in listed.jobs] == [(job.name, "default")]


async def test_jobs_are_listed_by_page_filter_and_order(house: House) -> None:
    jobs = [await house.people.create(model=f"m{index}") for index in range(3)]
    first = await house.people.list(page_size=2)
    rest = await house.people.list(page_size=2, page_token=first.next_page_token)
    assert [job.name for job in [*first.jobs, *rest.jobs]] == [job.name for job in reversed(jobs)]
    assert not rest.next_page_token
    await house.people.cancel(jobs[1].name)
    cancelled = await house.people.list(filter='state = "CANCELLED" AND model = "m1"')
    assert [job.name for job in cancelled.jobs] == [jobs[1].name]
    oldest = await house.people.list(order_by="create_time")
    assert oldest.jobs[0].name == jobs[0].name
    await refused(house.people.list(filter='color = "red"'), "INVALID_ARGUMENT", "BAD_FILTER")
    await refused(house.people.list(page_token="x"), "INVALID_ARGUMENT", "BAD_PAGE_TOKEN")


async def test_families_come_with_their_hyperparameters(house: House) -> None:
    answer = await house.people.stub.ListFamilies(pb.ListFamiliesRequest(), metadata=house.people.metadata)
    assert {family.name for family in answer.families} == set(FAMILIES)
    trees = next(family for family in answer.families if family.name == "boosted_trees")
    rate = next(setting for setting in trees.hyperparameters if setting.name == "learning_rate")
    assert (rate.default, rate.minimum, rate.maximum) == ("0.05", 1e-4, 1.0)


async def test_lower_epoch_is_aborted_and_a_higher_one_takes_over(house: House) -> None:
    job = await house.people.create()
    assert (await house.workers.start(job.name, 1, "a")).state == RUNNING
    taken = await house.workers.start(job.name, 3, "b")
    assert (taken.worker, taken.epoch, taken.attempts) == ("b", 3, 2)
    await refused(house.workers.report(job.name, 1, "a", progress=0.5), "ABORTED", "STALE_EPOCH")
    await refused(house.workers.finish(job.name, 1, "a"), "ABORTED", "STALE_EPOCH")
    await refused(house.workers.start(job.name, 2, "a"), "ABORTED", "STALE_EPOCH")
    done = await house.workers.finish(job.name, 3, "b", version="line@1")
    assert (done.state, done.version, done.progress) == (SUCCEEDED, "line@1", 1.0)
    # A worker whose answer was lost may say it again.
    assert await house.workers.finish(job.name, 3, "b", version="line@1") == done
    await refused(house.workers.start(job.name, 4, "c"), "FAILED_PRECONDITION", "JOB_ENDED")


async def test_job_that_takes_three_workers_down_fails(house: House) -> None:
    job = await house.people.create()
    for epoch in (1, 2, 3, 4):
        last = await house.workers.start(job.name, epoch)
    assert (last.state, last.error_reason, last.attempts) == (FAILED, "WORKER_LOST", 3)


async def test_queued_job_is_cancelled_at_once(house: House) -> None:
    job = await house.people.create()
    assert (await house.people.cancel(job.name)).state == CANCELLED
    assert (await house.people.cancel(job.name)).state == CANCELLED
    await refused(house.workers.start(job.name, 1), "FAILED_PRECONDITION", "JOB_ENDED")


async def test_worker_of_a_running_job_is_told_to_stop(house: House) -> None:
    job = await house.people.create()
    await house.workers.start(job.name, 1)
    assert not await house.workers.report(job.name, 1, progress=0.2, message="fitting")
    asked = await house.people.cancel(job.name)
    assert (asked.state, asked.cancel_requested, asked.message) == (RUNNING, True, "stopping")
    assert await house.workers.report(job.name, 1, progress=0.3, message="fitting")
    assert (await house.people.get(job.name)).message == "stopping"
    await house.workers.finish(job.name, 1, state=CANCELLED)
    assert (await house.people.get(job.name)).state == CANCELLED


async def test_report_that_says_nothing_new_is_no_update(house: House) -> None:
    job = await house.people.create()
    await house.workers.start(job.name, 1)
    for _ in range(3):
        await house.workers.report(job.name, 1, progress=0.2, message="fitting")
    assert (await house.people.get(job.name)).sequence == 3


async def test_watch_tells_every_update_live_until_the_end(house: House) -> None:
    job = await house.people.create()
    updates = house.people.watch(job.name)
    assert (await anext(updates)).state == QUEUED
    for step, act in enumerate((_start, _report, _end)):
        waiting = asyncio.ensure_future(anext(updates))
        # Long enough for the watch to wait: what comes must wake it.
        await asyncio.sleep(0.1)
        await act(house, job.name)
        update = await waiting
        assert update.sequence == step + 2
    assert (update.state, update.progress) == (SUCCEEDED, 1.0)
    with pytest.raises(StopAsyncIteration):
        await anext(updates)


async def test_watch_goes_on_after_a_sequence_number(house: House) -> None:
    job = await house.people.create()
    for act in (_start, _report, _end):
        await act(house, job.name)
    everything = [update async for update in house.people.watch(job.name)]
    assert [update.sequence for update in everything] == [1, 2, 3, 4]
    assert (everything[2].step, everything[2].metrics[0].name) == (7, "loss")
    assert [update async for update in house.people.watch(job.name, after=2)] == everything[2:]
    assert [update async for update in house.people.watch(job.name, after=4)] == []


async def test_watch_reads_more_updates_than_one_read_gives(house: House) -> None:
    job = await house.people.create()
    await house.workers.start(job.name, 1)
    for index in range(1100):
        await house.workers.report(job.name, 1, progress=index / 1100, message=str(index))
    await _end(house, job.name)
    sequences = [update.sequence async for update in house.people.watch(job.name)]
    assert sequences == list(range(1, 1104))


async def test_watchers_of_one_job_are_all_told_and_those_of_another_are_not(house: House) -> None:
    first, second = await house.people.create(), await house.people.create()
    watches = [house.people.watch(first.name, after=1) for _ in range(3)]
    waiting = [asyncio.ensure_future(anext(watch)) for watch in watches]
    quiet = asyncio.ensure_future(anext(house.people.watch(second.name, after=1)))
    await asyncio.sleep(0.1)
    await house.workers.start(first.name, 1)
    assert {(await each).sequence for each in waiting} == {2}
    assert not quiet.done()
    quiet.cancel()
    for watch in watches:
        await watch.aclose()


async def test_call_without_a_token_is_refused(house: House) -> None:
    call = house.people.stub.GetJob(pb.GetJobRequest(name="job-1"))
    error = await refused(call, grpc.StatusCode.UNAUTHENTICATED.name, "TOKEN_ABSENT")
    assert "token" in error.message


async def _start(house: House, name: str) -> None:
    await house.workers.start(name, 1)


async def _report(house: House, name: str) -> None:
    metrics = [common_pb2.Metric(name="loss", value=0.5)]
    await house.workers.report(name, 1, progress=0.5, message="half", step=7, metrics=metrics)


async def _end(house: House, name: str) -> None:
    await house.workers.finish(name, 1, version="line@1")
