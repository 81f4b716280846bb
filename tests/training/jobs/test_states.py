"""A job's states: a total function, and what it never does."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.errors import Aborted, FailedPrecondition
from services.training.domain import jobs
from services.training.domain.jobs import MAX_ATTEMPTS, Job, JobState, Outcome, Seen

NOW = datetime(2026, 1, 1, tzinfo=UTC)
QUEUED = Job("default", "job-1", "model", b"", JobState.QUEUED, NOW, sequence=1)

_epochs = st.integers(1, 6)
_workers = st.sampled_from(["a", "b"])
_steps = st.one_of(
    st.tuples(st.just("start"), _workers, _epochs),
    st.tuples(st.just("report"), _workers, _epochs),
    st.tuples(st.just("finish"), _workers, _epochs, st.sampled_from(list(JobState))),
    st.tuples(st.just("checkpoint"), _workers, _epochs),
    st.tuples(st.just("look"), _workers, _epochs),
    st.tuples(st.just("keep report"), _workers, _epochs),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("retry")),
)


def _apply(job: Job, step: tuple[object, ...]) -> Job:
    kind, *arguments = step
    if kind == "cancel":
        return jobs.cancel(job, NOW)
    if kind == "retry":
        return jobs.retry(job)
    worker, epoch = str(arguments[0]), int(str(arguments[1]))
    if kind == "start":
        return jobs.start(job, worker, epoch, NOW)
    if kind == "report":
        return jobs.report(job, worker, epoch, 0.5, "half", {"loss": 1.0}, NOW)
    if kind == "look":
        return jobs.report(job, worker, epoch, job.progress, job.message, {}, NOW, Seen(usage=b"some"))
    if kind == "keep report":
        return jobs.keep_report(job, worker, epoch, f"report-{job.sequence}", "0" * 64)
    if kind == "checkpoint":
        return jobs.keep_checkpoint(job, worker, epoch, f"object-{job.sequence}", "0" * 64, 1, NOW)
    state = arguments[2]
    assert isinstance(state, JobState)
    return jobs.finish(job, worker, epoch, Outcome(state), NOW)


@given(st.lists(_steps, max_size=30))
def test_no_order_of_calls_breaks_a_job(steps: list[tuple[object, ...]]) -> None:
    job = QUEUED
    for step in steps:
        before = job
        try:
            job = _apply(job, step)
        except (Aborted, FailedPrecondition):
            continue
        # Ends never move but a failed job that is tried again; epochs, sequences never fall; each change is one update,
        # but for what a job takes.
        assert not before.state.is_end or job == before or (before.state, step) == (JobState.FAILED, ("retry",))
        assert job.epoch >= before.epoch
        assert job.sequence == before.sequence + (replace(job, usage=before.usage) != before)
        assert (job.state is JobState.RUNNING) <= (job.worker != "")
        assert (job.end_time is not None) == job.state.is_end
        assert 0 <= job.attempts <= MAX_ATTEMPTS
        # What nobody can go on from holds no room; what somebody can is never lost.
        assert not (job.checkpoint_object and job.state in (JobState.SUCCEEDED, JobState.CANCELLED))
        assert (
            job.checkpoint_object
            or not before.checkpoint_object
            or job.state in (JobState.SUCCEEDED, JobState.CANCELLED)
        )


def test_higher_epoch_takes_a_running_job_over() -> None:
    first = jobs.start(QUEUED, "a", 1, NOW)
    second = jobs.start(first, "b", 2, NOW)
    assert (second.worker, second.epoch, second.attempts) == ("b", 2, 2)
    stale: tuple[tuple[object, ...], ...] = (
        ("report", "a", 1),
        ("finish", "a", 1, JobState.SUCCEEDED),
        ("start", "a", 1),
    )
    for step in stale:
        with pytest.raises(Aborted) as refusal:
            _apply(second, step)
        assert refusal.value.reason == "STALE_EPOCH"


def test_claim_can_be_repeated() -> None:
    first = jobs.start(QUEUED, "a", 1, NOW)
    assert jobs.start(first, "a", 1, NOW) == first


def test_job_that_takes_three_workers_down_fails() -> None:
    job = QUEUED
    for epoch in range(1, MAX_ATTEMPTS + 1):
        job = jobs.start(job, "a", epoch, NOW)
    job = jobs.start(job, "a", MAX_ATTEMPTS + 1, NOW)
    assert (job.state, job.error_reason) == (JobState.FAILED, "WORKER_LOST")


def test_worker_that_leaves_in_order_does_not_count_as_lost() -> None:
    job = QUEUED
    for epoch in range(1, 10):
        job = jobs.start(job, "a", epoch, NOW)
        job = jobs.finish(job, "a", epoch, Outcome(JobState.QUEUED), NOW)
    assert (job.state, job.attempts) == (JobState.QUEUED, 0)


def test_queued_job_is_cancelled_at_once_and_a_running_one_told() -> None:
    assert jobs.cancel(QUEUED, NOW).state is JobState.CANCELLED
    running = jobs.cancel(jobs.start(QUEUED, "a", 1, NOW), NOW)
    assert (running.state, running.cancel_requested) == (JobState.RUNNING, True)
    # Its worker dies before it could stop: the next one finds it cancelled.
    assert jobs.start(running, "b", 2, NOW).state is JobState.CANCELLED
    assert jobs.finish(running, "a", 1, Outcome(JobState.QUEUED), NOW).state is JobState.CANCELLED


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 3)), max_size=30))
def test_progress_is_told_at_most_once_a_second(reports: list[tuple[float, float]]) -> None:
    job, now, told = jobs.start(QUEUED, "a", 1, NOW), NOW, []
    for progress, seconds in reports:
        now += timedelta(seconds=seconds)
        after = jobs.report(job, "a", 1, progress, "on", {}, now)
        if after.progress_time != job.progress_time:
            told.append(after.progress_time)
        job = after
    times = [time for time in told if time is not None]
    assert len(times) == len(told)
    assert all(later - earlier >= timedelta(seconds=1) for earlier, later in itertools.pairwise(times))


def test_report_that_says_nothing_new_changes_nothing() -> None:
    running = jobs.report(jobs.start(QUEUED, "a", 1, NOW), "a", 1, 0.5, "half", {"loss": 1.0}, NOW)
    assert jobs.report(running, "a", 1, 0.5, "half", {}, NOW) is running
    stopping = jobs.cancel(running, NOW)
    assert jobs.report(stopping, "a", 1, 0.5, "half", {}, NOW) is stopping
    assert jobs.report(stopping, "a", 1, 0.6, "more", {}, NOW).message == "stopping"


@given(st.lists(_steps, max_size=30))
def test_only_the_last_claim_moves_a_job(steps: list[tuple[object, ...]]) -> None:
    """Whoever is answered without an error holds the highest epoch there ever was."""
    job, highest = QUEUED, 0
    for step in steps:
        try:
            job = _apply(job, step)
        except (Aborted, FailedPrecondition):
            continue
        if step[0] != "cancel":
            assert int(str(step[2])) >= highest
            highest = int(str(step[2]))
