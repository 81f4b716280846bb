"""Calls from service to service: certificates, identities, deadlines, traces, errors, repeats."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from opentelemetry import trace

from lepton.v1 import data_pb2, data_pb2_grpc, training_pb2, training_pb2_grpc
from servicekit.auth import Identity, Role, TokenVerifier, act_as
from servicekit.errors import (
    KINDS,
    DeadlineExceeded,
    InvalidArgument,
    LeptonError,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from servicekit.rpc import open_channel
from servicekit.rpc.deadlines import bounded_timeout, set_deadline
from tests.servicekit.rpc.desk import Serving, serving_desks
from tests.support.credentials import MakeToken, settings_of

JOB = training_pb2.GetJobRequest(name="job-1")
SERVICE = Identity.for_service("team-a")


@pytest.fixture
async def channel(serving: Serving) -> AsyncIterator[grpc.aio.Channel]:
    """The registry's channel to the desks."""
    async with open_channel(serving.private_address, settings_of(serving.credentials, "registry")) as opened:
        yield opened


async def test_certificate_is_the_identity_and_the_workspace_goes_along(channel: grpc.aio.Channel) -> None:
    with act_as(SERVICE):
        job = await training_pb2_grpc.TrainingServiceStub(channel).GetJob(JOB)
    assert (job.message, job.worker) == ("team-a SERVICE", "registry")


async def test_services_reach_each_other_without_a_proxy(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 of this machine discards: nothing answers there.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    async with open_channel(serving.private_address, settings_of(serving.credentials, "registry")) as opened:
        with act_as(SERVICE):
            assert (await training_pb2_grpc.TrainingServiceStub(opened).GetJob(JOB)).worker == "registry"


async def test_services_may_make_calls_of_their_own(channel: grpc.aio.Channel) -> None:
    request = training_pb2.StartJobRequest(name="job-1", worker="w", epoch=1)
    with act_as(Identity.for_service("*")):
        job = await training_pb2_grpc.TrainingServiceStub(channel).StartJob(request)
    assert job.worker == "registry"


async def test_token_of_the_caller_is_passed_on(channel: grpc.aio.Channel, make_token: MakeToken) -> None:
    token = make_token("viewer", workspace="team-b")
    with act_as(Identity("team-b", Role.VIEWER, "ada", "1", token)):
        job = await training_pb2_grpc.TrainingServiceStub(channel).GetJob(JOB)
    assert (job.message, job.worker) == ("team-b VIEWER", "viewer@test")


async def test_user_does_not_become_a_service_by_being_passed_on(
    channel: grpc.aio.Channel, make_token: MakeToken, platform_files: Path
) -> None:
    identity = TokenVerifier(platform_files / "token-keys.json").verify(make_token("viewer"))
    request = training_pb2.StartJobRequest(name="job-1", worker="w", epoch=1)
    with act_as(identity), pytest.raises(PermissionDenied):
        await training_pb2_grpc.TrainingServiceStub(channel).StartJob(request)


async def test_read_for_no_workspace_is_refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await training_pb2_grpc.TrainingServiceStub(channel).GetJob(JOB)
    assert raised.value.reason == "WORKSPACE_UNNAMED"


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind is not Unavailable], ids=lambda k: k.__name__)
async def test_errors_of_the_callee_are_raised_as_they_were(
    channel: grpc.aio.Channel, serving: Serving, kind: type[LeptonError]
) -> None:
    serving.desk.error = kind("told", reason="SO_IT_IS", metadata={"a": "b"})
    with act_as(SERVICE), pytest.raises(kind) as raised:
        await training_pb2_grpc.TrainingServiceStub(channel).GetJob(JOB)
    assert (raised.value.message, raised.value.reason, raised.value.metadata) == ("told", "SO_IT_IS", {"a": "b"})
    assert serving.desk.calls == 1


async def test_errors_in_streams_are_raised_as_they_were(channel: grpc.aio.Channel, serving: Serving) -> None:
    serving.desk.error = NotFound("gone", reason="SO_IT_IS")
    updates = []
    with act_as(SERVICE), pytest.raises(NotFound) as raised:
        async for update in training_pb2_grpc.TrainingServiceStub(channel).WatchJob(
            training_pb2.WatchJobRequest(name="job-1", after_sequence=4)
        ):
            updates.append(update.sequence)
    assert (updates, raised.value.reason) == ([5], "SO_IT_IS")


async def test_left_stream_is_closed_at_the_callee(channel: grpc.aio.Channel, serving: Serving) -> None:
    watching = training_pb2_grpc.TrainingServiceStub(channel).WatchJob(training_pb2.WatchJobRequest(name="job-1"))
    with act_as(SERVICE):
        async for _ in watching:
            break
        await watching.aclose()  # type: ignore[attr-defined]
    await asyncio.wait_for(serving.desk.cleaned_up.wait(), 120)


async def test_streams_of_requests_are_sent(channel: grpc.aio.Channel) -> None:
    async def chunks() -> AsyncIterator[data_pb2.ImportDatasetRequest]:
        for _ in range(3):
            yield data_pb2.ImportDatasetRequest(chunk=b"x")

    with act_as(SERVICE):
        answer = await data_pb2_grpc.DataServiceStub(channel).ImportDataset(chunks())
    assert answer.version.number == 3


async def test_read_is_repeated_while_the_callee_is_away(channel: grpc.aio.Channel, serving: Serving) -> None:
    serving.desk.error = Unavailable("away")
    with act_as(SERVICE), pytest.raises(Unavailable):
        await training_pb2_grpc.TrainingServiceStub(channel).GetJob(JOB)
    assert serving.desk.calls == 5


async def test_mutation_is_repeated_only_under_a_request_id(channel: grpc.aio.Channel, serving: Serving) -> None:
    serving.desk.error = Unavailable("away once")
    stub = training_pb2_grpc.TrainingServiceStub(channel)
    with act_as(SERVICE):
        with pytest.raises(Unavailable):
            await stub.CancelJob(training_pb2.CancelJobRequest(name="job-1"))
        assert serving.desk.calls == 1
        serving.desk.calls = 0
        job = await stub.CancelJob(training_pb2.CancelJobRequest(name="job-1", request_id="r-1"))
    assert (job.name, serving.desk.calls) == ("job-1", 2)


async def test_repeats_end_with_the_deadline(channel: grpc.aio.Channel, serving: Serving) -> None:
    serving.desk.error = Unavailable("away")
    # Late on a busy machine, the last call itself may run out of time.
    with act_as(SERVICE), pytest.raises((Unavailable, DeadlineExceeded)):
        await training_pb2_grpc.TrainingServiceStub(channel).GetJob(JOB, timeout=0.55)
    # Not all five: their waits alone take 1.4 s.
    assert serving.desk.calls < 5


async def test_callee_that_restarts_on_its_port_is_found_again(platform_files: Path) -> None:
    async with serving_desks(settings_of(platform_files, "data"), platform_files) as first:
        ports = {"port": first.running.port, "private_port": first.running.private_port}
        address = first.private_address
        async with open_channel(address, settings_of(platform_files, "registry")) as channel:
            stub = training_pb2_grpc.TrainingServiceStub(channel)
            with act_as(SERVICE):
                await stub.GetJob(JOB)
                await first.running.drain(0)
                asking = asyncio.create_task(_get(stub))
                await asyncio.sleep(0.1)
                async with serving_desks(settings_of(platform_files, "data", **ports), platform_files):
                    assert (await asking).name == "job-1"


async def _get(stub: training_pb2_grpc.TrainingServiceStub) -> training_pb2.Job:
    return await stub.GetJob(JOB)  # type: ignore[misc, no-any-return]


async def test_callee_that_does_not_answer_is_a_deadline_exceeded(channel: grpc.aio.Channel) -> None:
    with act_as(SERVICE), pytest.raises(DeadlineExceeded):
        await training_pb2_grpc.TrainingServiceStub(channel).ListJobs(training_pb2.ListJobsRequest(), timeout=0.2)


async def test_what_remains_of_the_call_under_way_bounds_the_calls_that_it_makes(channel: grpc.aio.Channel) -> None:
    set_deadline(0.2)
    # The callee itself would wait for ten minutes.
    with act_as(SERVICE), pytest.raises(DeadlineExceeded):
        await training_pb2_grpc.TrainingServiceStub(channel).ListJobs(training_pb2.ListJobsRequest())


async def test_deadline_does_not_bind_background_work() -> None:
    async def background() -> float | None:
        return bounded_timeout(30.0)

    set_deadline(0.2)
    assert (bounded_timeout(30.0) or 0) <= 0.2
    assert await asyncio.create_task(background()) == 30.0


async def test_peer_of_another_platform_is_not_trusted(serving: Serving, tmp_path: Path) -> None:
    from lepton.embedded.credentials import create_credentials

    create_credentials(tmp_path / "other")
    async with open_channel(serving.private_address, settings_of(tmp_path / "other", "registry")) as channel:
        with act_as(SERVICE), pytest.raises(Unavailable):
            await training_pb2_grpc.TrainingServiceStub(channel).GetJob(JOB, timeout=120)


async def test_trace_goes_along(channel: grpc.aio.Channel) -> None:
    parent = trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, is_remote=True))
    with act_as(SERVICE), trace.use_span(parent):
        job = await training_pb2_grpc.TrainingServiceStub(channel).GetJob(JOB)
    assert job.traceparent.split("-")[1] == f"{0xABC:032x}"
